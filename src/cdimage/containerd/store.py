"""The store of prepared images in containerd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from cdimage.containerd.client import Client
from cdimage.containerd.ingest import Ingest
from cdimage.containerd.listing import list_prepared, read_record
from cdimage.containerd.records import (
    index_labels,
    prepared_record,
    source_labels,
)
from cdimage.containerd.source import ContentSource
from cdimage.containerd.turns import Turns
from cdimage.descriptor import Platform
from cdimage.digest import Digest
from cdimage.errors import CdimageError, NotFoundError, UnavailableError
from cdimage.pause import PauseBinaries
from cdimage.preparation import Preparation, Variant
from cdimage.prepared_name import prepared_image_name
from cdimage.prepared_store import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TOTAL_CONCURRENCY,
    Held,
    OpenSource,
    Order,
    PreparedStore,
)
from cdimage.pull import Tracker
from cdimage.reference import Reference
from cdimage.retry import Retry
from cdimage.store import PreparedImage, Source

LEASE_SECONDS: Final = 24 * 3600.0

_SNAPSHOTTER_LABEL: Final = "containerd.io/defaults/snapshotter"


@dataclass(frozen=True, slots=True)
class _Daemon:
    """What is asked of the daemon once."""

    snapshotter: str
    platform: Platform


class Store(PreparedStore):
    """An `ImageStore` on containerd.

    Safe for concurrent use, by tasks and by processes: an image that several ask for at the
    same time is downloaded once. The records that users make with other tools are left alone,
    and a base is never left behind under a name.

    Args:
        client: From `connect`.
        pause: The pause programs; None is those that ship with cdimage.
        snapshotter: What everything is unpacked into, and what containers must then be started
            with. None is the namespace's default, or else the daemon's for its platform.
        open_source: Where images come from, given the caller's credentials for one pull, or
            None; None is their registries.
        prepared_registry: ``HOST/PREFIX`` of a `RegistryStore` to look in first. What is there is
            taken only if it is, to the byte, what would be prepared here.
        concurrency: How many layers of one image are fetched at the same time.
        total_concurrency: How many layers of all images are.
        retry: How patient to be with a source that is unavailable.
        lease_seconds: How long the bytes of a pull that was killed are kept for the next one.
    """

    def __init__(
        self,
        client: Client,
        *,
        pause: PauseBinaries | None = None,
        snapshotter: str | None = None,
        open_source: OpenSource | None = None,
        prepared_registry: str | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        total_concurrency: int = DEFAULT_TOTAL_CONCURRENCY,
        retry: Retry | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        super().__init__(
            pause=pause,
            open_source=open_source,
            prepared_registry=prepared_registry,
            concurrency=concurrency,
            total_concurrency=total_concurrency,
            retry=retry,
        )
        self._client = client
        self._wanted_snapshotter = snapshotter
        self._lease_seconds = lease_seconds
        self._known_daemon: _Daemon | None = None
        self._left: set[str] = set()
        self._turns = Turns()

    @property
    def name(self) -> str:
        """As ``containerd at /run/containerd/containerd.sock``."""
        return f"containerd at {self._client.address}"

    @property
    def client(self) -> Client:
        """The daemon that it is in."""
        return self._client

    async def list_images(self) -> list[PreparedImage]:
        """The prepared images that are here, those that were registered last first.

        Raises:
            UnavailableError: containerd does not answer.
        """
        return await list_prepared(self._client)

    async def get_snapshotter(self) -> str:
        """The snapshotter that images are unpacked into, and containers must be started with.

        Raises:
            NotFoundError: containerd has none of that name, or could not start it.
            UnavailableError: containerd does not answer.
        """
        return (await self._daemon()).snapshotter

    async def untag_image(self, user_digest: str) -> None:
        """Drop a prepared image, and wait until what only it held is gone from disk.

        Idempotent. Containers that run from it go on: they hold their snapshots themselves.

        Raises:
            InvalidReferenceError: It is not a digest.
            UnavailableError: containerd does not answer.
        """
        await self._client.images.delete(prepared_image_name(user_digest), sync=True)

    @asynccontextmanager
    async def contents(self) -> AsyncIterator[Held]:
        """What the daemon holds, as a source: any image by digest, and ``containerd:NAME``."""
        yield ContentSource(self._client)

    async def add_image(self, preparation: Preparation, source: Source, order: Order) -> None:
        """Store all of an image, unpack it, and register it last.

        A prepared image of the daemon's operating system is unpacked into the store's
        snapshotter; of several platforms, the daemon's own; one of another system is only stored.

        Cancelled, it leaves a lease behind, which holds what arrived until it ends.
        """
        daemon = await self._daemon()
        unpacked = _unpacked(preparation, daemon.platform)
        labels = source_labels(order.named)
        tracker = Tracker(order.progress)
        async with self._lease() as client:
            limit = asyncio.Semaphore(self._concurrency)
            for variant in preparation.variants:
                snapshotter = daemon.snapshotter if variant is unpacked else None
                ingest = Ingest(
                    client, source, variant, snapshotter, tracker, self._let_go, self._turns
                )
                await ingest.run(labels, limit, self._slots)
            if (index := preparation.index) is not None:
                await client.content.put(index.descriptor, index.data, index_labels(preparation))
            record = prepared_record(preparation, unpacked, daemon.snapshotter, order.before)
            await client.images.put(record)
            tracker.finish()

    async def find_image(self, digest: Digest) -> PreparedImage | None:
        """The prepared image of that user digest; None when there is none."""
        record = await self._client.images.get(prepared_image_name(str(digest)))
        return read_record(record) if record else None

    async def is_complete(self, image: PreparedImage) -> bool:
        """Whether it is unpacked here, if it is of the daemon's system."""
        daemon = await self._daemon()
        own = [it for it in image.platforms if it.os == daemon.platform.os]
        if len(image.platforms) > 1:
            own = [it for it in own if it.satisfies(daemon.platform)]
        chain_id = image.snapshots.get(daemon.snapshotter)
        if not own or chain_id == "":  # the image of an alias may have no layers
            return True
        return chain_id is not None and await self._client.snapshots.exists(
            daemon.snapshotter, chain_id
        )

    async def _default_platform(self) -> Platform:
        return (await self._daemon()).platform

    def _local_source(self, reference: Reference) -> AbstractAsyncContextManager[Source]:
        if reference.transport == "containerd":
            return self.contents()
        return super()._local_source(reference)

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[Client]:
        """A client whose work is held until the end, and after a failure that may pass."""
        leases = self._client.leases
        lease = await leases.create(self._lease_seconds)
        try:
            yield self._client.leased(lease)
        except (UnavailableError, OSError):
            self._left.add(lease)
            raise
        except CdimageError:
            with suppress(CdimageError):
                await leases.delete(lease, sync=True)
            raise
        await leases.delete(lease)

    async def _let_go(self) -> bool:
        """End the leases of pulls that broke, with all that they alone hold; whether any did."""
        left, self._left = self._left, set()
        for lease in left:
            await self._client.leases.delete(lease, sync=True)
        return bool(left)

    async def _daemon(self) -> _Daemon:
        if self._known_daemon is None:
            self._known_daemon = await self._ask_daemon()
        return self._known_daemon

    async def _ask_daemon(self) -> _Daemon:
        plugins = await self._client.introspection.plugins()
        name = self._wanted_snapshotter
        if name is None:
            labels = await self._client.namespaces.labels(self._client.namespace)
            by_platform = "windows" if plugins.platform.os == "windows" else "overlayfs"
            name = labels.get(_SNAPSHOTTER_LABEL) or by_platform
        plugin = plugins.snapshotters.get(name)
        if plugin is None or plugin.error:
            usable = sorted(key for key, it in plugins.snapshotters.items() if not it.error)
            why = f"could not start it: {plugin.error}" if plugin else "has none of that name"
            raise NotFoundError(
                f"the snapshotter {name!r} cannot be used, because containerd {why}; "
                f"it has {', '.join(usable)}"
            )
        return _Daemon(name, plugins.platform)


def _unpacked(preparation: Preparation, daemon: Platform) -> Variant | None:
    """The variant that containers on this daemon start from."""
    if len(preparation.variants) == 1:
        (only,) = preparation.variants
        return only if only.platform.os == daemon.os else None
    fitting = (it for it in preparation.variants if it.platform.satisfies(daemon))
    return next(fitting, None)
