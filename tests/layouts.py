"""Image layouts and archives made by hand, as sources."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.images import Blob, Image


def blobs_of(*images: Image) -> list[Blob]:
    """All blobs of images."""
    return [
        blob
        for image in images
        for blob in (image.manifest, image.config, *(layer.blob for layer in image.layers))
    ]


def layout_files(
    root: Blob | Iterable[tuple[str, Blob]], blobs: Iterable[Blob], **fields: Any
) -> dict[str, bytes]:
    """The files of a layout, by their paths.

    Args:
        root: What its index names; or several, with their tags.
        blobs: All others.
        fields: Of the one descriptor in the index.
    """
    named = [("", root)] if isinstance(root, Blob) else list(root)
    entries: list[dict[str, Any]] = []
    for tag, blob in named:
        notes = {"org.opencontainers.image.ref.name": tag} if tag else {}
        entries.append({**blob.descriptor, **({"annotations": notes} if tag else {}), **fields})
    index = {"schemaVersion": 2, "manifests": entries}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **{
            f"blobs/sha256/{blob.digest[7:]}": blob.data
            for blob in (*(blob for _, blob in named), *blobs)
        },
    }


def write_layout(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a layout into a directory."""
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(buffer.getvalue())
    return path
