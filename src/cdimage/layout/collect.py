"""What an image layout's entries refer to, and removing what none refers to any more."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from cdimage.descriptor import MediaType
from cdimage.digest import Digest
from cdimage.errors import CdimageError, InvalidReferenceError
from cdimage.image import DOCUMENT_LIMIT, parse_json
from cdimage.layout.content import ingest_path
from cdimage.layout.entry import BASE
from cdimage.layout.folder import Folder
from cdimage.layout.leases import held_by_leases

_UNNEEDED: Final = "unneeded-"
_DOCUMENTS: Final = MediaType.INDEXES | MediaType.MANIFESTS


def reachable(folder: Folder, entries: Iterable[Mapping[str, Any]]) -> set[Digest]:
    """All that entries of the index refer to, themselves included; what is missing has no end."""
    found: set[Digest] = set()
    bases: set[Digest] = set()
    todo = list(entries)
    while todo:
        entry = todo.pop()
        bases.update(_bases(entry))
        with suppress(InvalidReferenceError):
            digest = Digest.parse(str(entry.get("digest")))
            if digest not in found:
                found.add(digest)
                todo += _children(folder, digest, entry.get("mediaType"))
    return found | bases


def members(folder: Folder, digest: Digest) -> set[Digest]:
    """The manifests that an index lists; none for another document."""
    children = _children(folder, digest, MediaType.OCI_INDEX)
    return {Digest.parse(it["digest"]) for it in children if it.get("mediaType") in _DOCUMENTS}


def _bases(entry: Mapping[str, Any]) -> set[Digest]:
    annotations = entry.get("annotations")
    text = annotations.get(BASE) if isinstance(annotations, dict) else None
    with suppress(InvalidReferenceError):
        return set(map(Digest.parse, text.split())) if isinstance(text, str) else set()
    return set()


def _children(folder: Folder, digest: Digest, media_type: object) -> list[dict[str, Any]]:
    """What a document refers to; nothing, where it is missing or not one."""
    if media_type not in _DOCUMENTS:
        return []
    with suppress(CdimageError, OSError):
        with folder.open_blob(digest) as file:
            value = parse_json(file.read(DOCUMENT_LIMIT + 1), "manifest")
        listed = [*(value.get("manifests") or []), *(value.get("layers") or [])]
        return [child for child in [*listed, value.get("config")] if isinstance(child, dict)]
    return []


def note_unneeded(folder: Folder, digests: Iterable[Digest]) -> None:
    """Write down blobs that may be needed no more, before what needs them is taken away.

    Whoever is killed in between leaves the note to the next who collects. The layout's lock must
    be held.
    """
    data = json.dumps(sorted(map(str, digests))).encode()
    folder.replace(folder.ingest / f"{_UNNEEDED}{secrets.token_hex(8)}", data)


def collect(folder: Folder) -> None:
    """Remove the blobs, begun ones too, that are noted and that no entry and no lease refers to.

    The layout's lock must be held. Others, that another tool has put here, are left alone.
    """
    folder.remove_halves()
    notes = sorted(folder.ingest.glob(f"{_UNNEEDED}*"))
    if not notes:
        return
    candidates = {Digest.parse(text) for note in notes for text in json.loads(note.read_bytes())}
    kept = reachable(folder, folder.read_index()) | held_by_leases(folder)
    for digest in candidates - kept:
        folder.blob(digest).unlink(missing_ok=True)
        ingest_path(folder, digest).unlink(missing_ok=True)
    for note in notes:
        note.unlink(missing_ok=True)
