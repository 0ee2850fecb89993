"""An image layout as a source: of the store's own images, and of anybody's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import (
    InvalidImageError,
    NotFoundError,
)
from cdimage.image import DOCUMENT_LIMIT
from cdimage.layout.folder import Folder, chunks_of
from cdimage.named import check_document, choose_named
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
        found = choose_named(self._folder.parse_index(), reference.tag, self.name)
        return self._document(found.digest, found.media_type)

    def _document(self, digest: Digest, media_type: str) -> Descriptor:
        with self._folder.open_blob(digest) as file:
            data = file.read(DOCUMENT_LIMIT + 1)
        return check_document(data, digest, self.name, media_type)

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
