"""Layers of any size, that are in a registry without having been sent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tests.daemons import Registry
from tests.images import OCI_LAYER, Blob, Layer

_PIECE = 1 << 20


@dataclass(frozen=True)
class Hole(Blob):
    """Zeros, of which nobody keeps a copy."""

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
    path = registry.blob_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    root = registry.storage / "docker/registry/v2/repositories" / repository
    link = root / "_layers" / "sha256" / name.partition(":")[2] / "link"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.write_text(name)
    return Layer(Hole(OCI_LAYER, b"", name, size), name)
