"""Layers that are in a registry without having been sent: of any size, and nobody's time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemons import Registry
from tests.images import OCI_LAYER, Blob, Layer

_PIECE = 1 << 20


@dataclass(frozen=True)
class Elsewhere(Blob):
    """A blob whose bytes are not in memory."""

    name: str
    size: int

    @property
    def digest(self) -> str:
        return self.name

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.name, "size": self.size}


def hole(registry: Registry, repository: str, size: int) -> Layer:
    """A layer of zeros (as many as a multiple of 1 MiB), put into the registry's storage."""
    hashed = hashlib.sha256()
    for _ in range(size // _PIECE):
        hashed.update(bytes(_PIECE))
    name = f"sha256:{hashed.hexdigest()}"
    with place_blob(registry, repository, name).open("wb") as file:
        file.truncate(size)
    return Layer(Elsewhere(OCI_LAYER, b"", name, size), name)


def place_blob(registry: Registry, repository: str, name: str) -> Path:
    """Have a repository name a blob; where, in the registry's storage, its bytes must be put."""
    root = registry.storage / "docker/registry/v2/repositories" / repository
    link = root / "_layers" / "sha256" / name.partition(":")[2] / "link"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.write_text(name)
    path = registry.blob_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
