"""What containerd holds already, as a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cdimage.containerd.client import Client
from cdimage.descriptor import Descriptor, Digest, MediaType
from cdimage.errors import InvalidImageError, InvalidReferenceError, NotFoundError
from cdimage.image import DOCUMENT_LIMIT, Manifest, parse_json
from cdimage.reference import Reference


class ContentSource:
    """A `Source` over the content store of a namespace: images by digest, no network."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"containerd at {self._client.address}"

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find a manifest or an index by its digest.

        Raises:
            NotFoundError: It is not here.
        """
        if reference.digest is None:
            raise InvalidReferenceError(f"{self.name} is asked by digest, and {reference} has none")
        data = b""
        async for chunk in self._read(reference.digest, 0):
            data += chunk
            if len(data) > DOCUMENT_LIMIT:
                raise NotFoundError(f"{reference.digest} in {self.name} is not an image")
        if not reference.digest.matches(data):
            raise NotFoundError(f"{self.name} holds {reference.digest} with other bytes")
        media_type = _media_type(data)
        if not media_type:
            raise NotFoundError(f"{reference.digest} in {self.name} is not an image")
        return Descriptor(media_type, reference.digest, len(data), data=data)

    async def check_whole(self, manifest: Manifest) -> None:
        """See whether all layers are here, before anything is begun.

        Raises:
            NotFoundError: One is missing.
        """
        wanted = [layer.digest for layer in manifest.layers]
        here = await self._client.content.present(wanted)
        for digest in wanted:
            if digest not in here:
                raise NotFoundError(f"{self.name} lacks the layer {digest}")

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob; one that is not here raises `NotFoundError` when it is read."""
        yield self._read(descriptor.digest, offset)

    def _read(self, digest: Digest, offset: int) -> AsyncIterator[bytes]:
        if digest.algorithm != "sha256":
            raise NotFoundError(f"{self.name} knows blobs by sha256 only, and not {digest}")
        return self._client.content.read(digest, offset)


def _media_type(data: bytes) -> str:
    """The type that the document states, or the one that its fields imply; "" for none."""
    try:
        value = parse_json(data, "manifest")
    except InvalidImageError:
        return ""
    stated = value.get("mediaType")
    if isinstance(stated, str) and stated:
        return stated
    if "schemaVersion" not in value:  # a config has none, and that is what an image ID names
        return ""
    return MediaType.OCI_INDEX if "manifests" in value else MediaType.OCI_MANIFEST
