"""An image layout as a source: of the store's own images, and of anybody's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from cdimage.descriptor import Descriptor, Digest, MediaType
from cdimage.errors import (
    DigestMismatchError,
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
)
from cdimage.image import DOCUMENT_LIMIT, Index, document_type
from cdimage.layout.entry import IMAGE_NAME, REF_NAME
from cdimage.layout.folder import Folder, chunks_of
from cdimage.preparation import Preparation
from cdimage.reference import Reference

_SHOWN: Final = 10


class LayoutSource:
    """A `cdimage.store.Source` over a directory that may come from anybody."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """As ``oci:/path``."""
        return f"oci:{self._folder}"

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find a manifest or an index: by digest, by tag, or the only one that there is.

        Raises:
            NotFoundError: There is no such image.
            InvalidReferenceError: There are several, and none is named.
            InvalidImageError: The layout is broken.
            DigestMismatchError: It holds other bytes under the digest.
        """
        if reference.digest is not None:
            return self._document(reference.digest, "")
        index = self._folder.parse_index()
        wanted = reference.tag
        found = [
            descriptor
            for entry, descriptor in zip(index.entries, index.manifests, strict=True)
            if wanted is None or wanted in _names(entry)
        ]
        if not found:
            raise NotFoundError(f"there is no image {wanted or ''!r} in {self.name}{_has(index)}")
        if len({descriptor.digest for descriptor in found}) > 1:
            raise InvalidReferenceError(
                f"{self.name} holds {len(found)} images: name one{_has(index)}"
            )
        return self._document(found[0].digest, found[0].media_type)

    def _document(self, digest: Digest, media_type: str) -> Descriptor:
        with self._folder.open_blob(digest) as file:
            data = file.read(DOCUMENT_LIMIT + 1)
        if len(data) > DOCUMENT_LIMIT:
            raise InvalidImageError(f"{digest} in {self.name} is larger than a manifest may be")
        if not digest.matches(data):
            raise DigestMismatchError(
                f"{self.name} holds other bytes under {digest}",
                expected=str(digest),
                actual=str(Digest.of(data, digest.algorithm)),
            )
        media_type = media_type or document_type(data)
        if media_type not in MediaType.INDEXES | MediaType.MANIFESTS:
            raise NotFoundError(f"{digest} in {self.name} is not an image")
        return Descriptor(media_type, digest, len(data), data=data)

    async def check(self, preparation: Preparation) -> None:
        """See whether all layers are here, before anything is begun.

        Raises:
            NotFoundError: One is missing.
        """
        for layer in preparation.layers:
            if self._folder.blob_size(layer.digest) != layer.size:
                raise NotFoundError(f"{self.name} lacks the layer {layer.digest}")

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob from ``offset`` to its end; the caller hashes it.

        Raises:
            NotFoundError: It is not here.
            InvalidImageError: It is of another size than its descriptor says.
        """
        size = self._folder.blob_size(descriptor.digest)
        if size is not None and size != descriptor.size:
            raise InvalidImageError(
                f"{descriptor.digest} in {self.name} has {size} bytes, "
                f"and not the {descriptor.size} that the image says"
            )
        file = self._folder.open_blob(descriptor.digest)
        async with aclosing(chunks_of(file, offset)) as chunks:
            yield chunks


def _names(entry: dict[str, Any]) -> set[str]:
    annotations = entry.get("annotations") or {}
    return {annotations[key] for key in (REF_NAME, IMAGE_NAME) if key in annotations}


def _has(index: Index) -> str:
    names = sorted({str(name) for entry in index.entries for name in _names(entry)})
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"; it has {shown}" if names else ""
