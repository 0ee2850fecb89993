"""What containerd holds already, as a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from cdimage.containerd.client import Client
from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError, NotFoundError
from cdimage.image import DOCUMENT_LIMIT, document_type
from cdimage.preparation import Preparation
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
        """Find a manifest or an index by its digest, or by the name of an image record.

        Raises:
            NotFoundError: It is not here.
        """
        digest = reference.digest or await self._named(reference.repository)
        data = b""
        async for chunk in self._read(digest, 0):
            data += chunk
            if len(data) > DOCUMENT_LIMIT:
                raise NotFoundError(f"{digest} in {self.name} is not an image")
        if not digest.matches(data):
            raise NotFoundError(f"{self.name} holds {digest} with other bytes")
        media_type = document_type(data)
        if not media_type:
            raise NotFoundError(f"{digest} in {self.name} is not an image")
        return Descriptor(media_type, digest, len(data), data=data)

    async def _named(self, name: str) -> Digest:
        for known_as in dict.fromkeys([name, *_full_name(name)]):
            record = await self._client.images.get(known_as)
            if record is not None:
                return record.target.digest
        raise NotFoundError(
            f"{self.name} has no image {name!r} in the namespace {self._client.namespace}: "
            "see `ctr images ls`"
        )

    async def check(self, preparation: Preparation) -> None:
        """See whether all layers are here, before anything is begun.

        Raises:
            NotFoundError: One is missing.
        """
        wanted = [layer.digest for layer in preparation.layers]
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


def _full_name(name: str) -> list[str]:
    """What Docker and nerdctl call an image, as ``docker.io/library/debian:latest``."""
    try:
        parsed = Reference.parse(name)
    except InvalidReferenceError:
        return []
    return [str(parsed if parsed.tag or parsed.digest else replace(parsed, tag="latest"))]
