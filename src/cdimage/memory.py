"""A store of prepared images in memory: for tests of programs that use a store."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from cdimage.descriptor import Descriptor, Platform
from cdimage.digest import Digest
from cdimage.errors import CdimageError, NotFoundError, UnavailableError
from cdimage.image import document_type
from cdimage.pause import PauseBinaries
from cdimage.preparation import Preparation
from cdimage.prepared_name import prepared_image_name
from cdimage.prepared_store import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TOTAL_CONCURRENCY,
    Held,
    OpenSource,
    Order,
    PreparedStore,
    store_blobs,
)
from cdimage.pull import Tracker
from cdimage.reference import Reference
from cdimage.retry import Retry
from cdimage.store import PreparedImage, Source
from cdimage.verify import Verifier, check_size


class MemoryContent:
    """A `cdimage.store.ContentStore`, and a source of what is in it."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.unfinished: defaultdict[Digest, bytearray] = defaultdict(bytearray)
        self._locks: defaultdict[Digest, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "memory"

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the whole blob is there."""
        return descriptor.digest in self.blobs

    @asynccontextmanager
    async def writer(self, descriptor: Descriptor) -> AsyncIterator[MemoryWriter | None]:
        """Begin, or continue, to write a blob; None when it is there already."""
        async with self._locks[descriptor.digest]:
            is_here = descriptor.digest in self.blobs
            yield None if is_here else MemoryWriter(self, descriptor)

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find a manifest or an index by digest.

        Raises:
            NotFoundError: It is not here.
        """
        data = self.blobs.get(reference.digest) if reference.digest else None
        if reference.digest is None or data is None or not document_type(data):
            raise NotFoundError(f"{reference} is not in {self.name}")
        return Descriptor(document_type(data), reference.digest, len(data), data=data)

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob from ``offset`` to its end.

        Raises:
            NotFoundError: It is not here.
        """
        if descriptor.digest not in self.blobs:
            raise NotFoundError(f"{descriptor.digest} is not in {self.name}")
        yield _chunk(self.blobs[descriptor.digest][offset:])

    async def check(self, preparation: Preparation) -> None:
        """See whether all layers are here.

        Raises:
            NotFoundError: One is missing.
        """
        for layer in preparation.layers:
            if layer.digest not in self.blobs:
                raise NotFoundError(f"{self.name} lacks the layer {layer.digest}")


class MemoryWriter:
    """An unfinished blob; a `cdimage.store.Writer`."""

    def __init__(self, content: MemoryContent, descriptor: Descriptor) -> None:
        self._content = content
        self._descriptor = descriptor

    @property
    def _data(self) -> bytearray:
        return self._content.unfinished[self._descriptor.digest]

    @property
    def offset(self) -> int:
        """How many bytes are there already."""
        return len(self._data)

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            DigestMismatchError: These are more bytes than the descriptor's size.
        """
        check_size(self._descriptor, self.offset + len(data))
        self._data.extend(data)

    async def restart(self) -> None:
        """Throw away what is there and begin at offset 0."""
        self._data.clear()

    async def commit(self, labels: Mapping[str, str] | None = None) -> None:  # noqa: ARG002
        """Check size and digest, and make the blob visible.

        Raises:
            DigestMismatchError: The bytes are others; they are thrown away.
        """
        data = bytes(self._content.unfinished.pop(self._descriptor.digest, b""))
        verifier = Verifier(self._descriptor)
        verifier.update(data)
        verifier.finish()
        self._content.blobs[self._descriptor.digest] = data


class MemoryStore(PreparedStore):
    """An `ImageStore` that is gone with its process. Used within one event loop.

    Args:
        platform: What to choose from an index when the caller does not say.
        pause: As for `cdimage.Store`.
        open_source: As for `cdimage.Store`.
        prepared_registry: As for `cdimage.Store`.
        retry: As for `cdimage.Store`.
    """

    def __init__(
        self,
        *,
        platform: Platform | None = None,
        pause: PauseBinaries | None = None,
        open_source: OpenSource | None = None,
        prepared_registry: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        super().__init__(
            pause=pause,
            open_source=open_source,
            prepared_registry=prepared_registry,
            concurrency=DEFAULT_CONCURRENCY,
            total_concurrency=DEFAULT_TOTAL_CONCURRENCY,
            retry=retry,
        )
        self._platform = platform or Platform.of_this_machine()
        self._content = MemoryContent()
        self._images: dict[Digest, tuple[PreparedImage, Preparation]] = {}
        self._arriving: list[Preparation] = []

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self._content.name

    async def list_images(self) -> list[PreparedImage]:
        """The prepared images that are here, those that were registered last first."""
        return [image for image, _ in reversed(self._images.values())]

    async def untag_image(self, user_digest: str) -> None:
        """Drop a prepared image, and with it every blob that only it held. Idempotent.

        Raises:
            InvalidReferenceError: It is not a digest.
        """
        self._images.pop(Digest.parse(user_digest), None)
        self._sweep()

    def _sweep(self) -> None:
        """Forget every blob that no image holds, and none that arrives."""
        held = [*(it for _, it in self._images.values()), *self._arriving]
        kept = {digest for preparation in held for digest in preparation.digests}
        for digest in self._content.blobs.keys() - kept:
            del self._content.blobs[digest]

    @asynccontextmanager
    async def contents(self) -> AsyncIterator[Held]:
        """What is here, as a source."""
        yield self._content

    async def add_image(self, preparation: Preparation, source: Source, order: Order) -> None:
        """Store all of an image, and register it last."""
        tracker = Tracker(order.progress)
        limit = asyncio.Semaphore(self._concurrency)
        self._arriving.append(preparation)
        try:
            await store_blobs(self._content, source, preparation, tracker, limit, self._slots)
        except UnavailableError:
            self._arriving.remove(preparation)
            raise
        except CdimageError:
            self._arriving.remove(preparation)
            self._sweep()
            raise
        self._arriving.remove(preparation)
        image = PreparedImage(
            user_digest=preparation.user_digest,
            name=prepared_image_name(str(preparation.user_digest)),
            target=preparation.target,
            platforms=preparation.platforms,
            recipe=preparation.recipe,
            is_all=preparation.is_all,
            updated_at=datetime.now(UTC),
        )
        self._images.pop(image.user_digest, None)
        self._images[image.user_digest] = (image, preparation)
        tracker.finish()

    async def find_image(self, digest: Digest) -> PreparedImage | None:
        """The prepared image of that user digest; None when there is none."""
        found = self._images.get(digest)
        return found[0] if found else None

    async def _default_platform(self) -> Platform:
        return self._platform


async def _chunk(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data
