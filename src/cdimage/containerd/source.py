"""What containerd holds already, as a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cdimage.containerd.client import Client
from cdimage.descriptor import Descriptor, MediaType
from cdimage.errors import InvalidReferenceError, NotFoundError
from cdimage.image import DOCUMENT_LIMIT, parse_json
from cdimage.reference import Reference
from cdimage.verify import Verifier


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
        info = None
        if reference.digest.algorithm == "sha256":
            info = await self._client.content.info(reference.digest)
        if info is None or info.size > DOCUMENT_LIMIT:
            raise NotFoundError(f"{self.name} has no image {reference.digest}")
        found = Descriptor("", info.digest, info.size)
        verifier, data = Verifier(found), b""
        async with self.fetch(found) as chunks:
            async for chunk in chunks:
                verifier.update(chunk)
                data += chunk
        verifier.finish()
        return Descriptor(_media_type(data), info.digest, info.size)

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob.

        Raises:
            NotFoundError: It is not here.
        """
        if await self._client.content.info(descriptor.digest) is None:
            raise NotFoundError(f"{self.name} has no blob {descriptor.digest}")
        yield self._client.content.read(descriptor.digest, offset)


def _media_type(data: bytes) -> str:
    """The type that the document states, or the one that its fields imply."""
    value = parse_json(data, "manifest")
    stated = value.get("mediaType")
    if isinstance(stated, str):
        return stated
    return MediaType.OCI_INDEX if "manifests" in value else MediaType.OCI_MANIFEST
