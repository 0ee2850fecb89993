"""The store of prepared images in containerd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from cdimage.containerd.client import Client
from cdimage.containerd.ingest import Ingest
from cdimage.containerd.records import ALL_PREPARED, PreparedImage, prepared_record, source_labels
from cdimage.containerd.source import ContentSource
from cdimage.descriptor import Digest, Platform
from cdimage.errors import (
    CdimageError,
    DigestMismatchError,
    InvalidPauseProgramError,
    NotFoundError,
    UnavailableError,
    UnsupportedPlatformError,
)
from cdimage.image import Manifest
from cdimage.pause import PauseBinaries
from cdimage.prepare import Original, original, prepare, recipe
from cdimage.pull import Tracker, read, read_config, resolve_image
from cdimage.reference import Reference, prepared_image_name
from cdimage.retry import PersistentSource, Retry
from cdimage.store import Progress, ProgressCallback, Source

if TYPE_CHECKING:
    from cdimage.registry.credentials import Credentials

DEFAULT_CONCURRENCY: Final = 3
DEFAULT_TOTAL_CONCURRENCY: Final = 12
LEASE_SECONDS: Final = 24 * 3600.0

OpenSource = Callable[[Reference, "Credentials | None"], Source]
"""Opens what a reference names, for whoever these credentials belong to."""

_SNAPSHOTTER_LABEL: Final = "containerd.io/defaults/snapshotter"


@dataclass(frozen=True, slots=True)
class _Daemon:
    """What is asked of the daemon once."""

    snapshotter: str
    platform: Platform


class Store:
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
        concurrency: int = DEFAULT_CONCURRENCY,
        total_concurrency: int = DEFAULT_TOTAL_CONCURRENCY,
        retry: Retry | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._client = client
        self._pause = pause or PauseBinaries.bundled()
        self._wanted_snapshotter = snapshotter
        self._open_source = open_source
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(total_concurrency)
        self._retry = retry or Retry()
        self._lease_seconds = lease_seconds
        self._known_daemon: _Daemon | None = None
        self._left: set[str] = set()
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()

    async def get_existing_images(self) -> list[str]:
        """The user digests of the prepared images that are here, sorted.

        Raises:
            UnavailableError: containerd does not answer.
        """
        return sorted(str(image.user_digest) for image in await self.list_images())

    async def list_images(self) -> list[PreparedImage]:
        """The prepared images that are here, those that were registered last first.

        Raises:
            UnavailableError: containerd does not answer.
        """
        found = map(PreparedImage.read, await self._client.images.list(ALL_PREPARED))
        return sorted(
            (image for image in found if image is not None),
            key=lambda image: str(image.updated_at),
            reverse=True,
        )

    async def get_image(self, user_digest: str) -> PreparedImage:
        """The prepared image of that digest.

        Raises:
            InvalidReferenceError: It is not a digest.
            NotFoundError: It is not prepared here.
            UnavailableError: containerd does not answer.
        """
        image = await self._find(Digest.parse(user_digest))
        if image is None:
            raise NotFoundError(f"{user_digest} is not prepared here: pull it first")
        return image

    async def get_original(self, user_digest: str) -> Original | None:
        """What the user's image would have run; None where the record is not cdimage's.

        Raises:
            InvalidReferenceError: It is not a digest.
            NotFoundError: It is not prepared here.
            UnavailableError: containerd does not answer.
        """
        image = await self.get_image(user_digest)
        source = ContentSource(self._client)
        manifest = Manifest.parse(await read(source, image.target), image.target.media_type)
        return original(await read_config(source, manifest))

    async def get_snapshotter(self) -> str:
        """The snapshotter that images are unpacked into, and containers must be started with.

        Raises:
            NotFoundError: containerd has none of that name, or could not start it.
            UnavailableError: containerd does not answer.
        """
        return (await self._daemon()).snapshotter

    async def resolve_image(
        self, image_path: str, *, credentials: Credentials | None = None
    ) -> str:
        """The digest that a reference names now: to be passed to `pull_image`.

        Args:
            image_path: As for `pull_image`.
            credentials: As for `pull_image`.

        Raises:
            InvalidReferenceError: It is not a reference.
            NotFoundError: There is no such image.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The registry cannot be reached; try again.
        """
        reference = Reference.parse(image_path)
        if reference.digest is not None:
            return str(reference.digest)
        async with self._source(reference, credentials) as source:
            return str((await source.resolve(reference)).digest)

    async def pull_image(
        self,
        image_path: str,
        expected_digest: str,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        check_access: bool = False,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Pull an image, verify its digest, put the pause program on top and register it.

        As `ImageStore.pull_image`. A prepared image of the daemon's operating system is
        unpacked into the store's snapshotter; one of another system is only stored.

        Cancelled, it leaves a lease behind, which holds what arrived until it ends. After an
        error that trying again would not mend, nothing is left.

        Args:
            image_path: A reference, as ``debian:12`` or ``ghcr.io/org/app@sha256:…``.
            expected_digest: The digest of an index or of a manifest; the key from now on.
            platform: What the image must be for; None is what a manifest says, or the daemon's
                own platform where there is a choice.
            credentials: The caller's own, for this pull alone, in place of those that this
                machine keeps. Mirrors and other hosts never see them.
            check_access: Ask the registry, by a request for the manifest, whether these
                credentials may have the image, even if it is here already: for workers that
                serve several tenants. A tenant without any passes ``Credentials()``.
            progress: Told what happens to each blob.
        """
        reference, digest = Reference.parse(image_path), Digest.parse(expected_digest)
        if reference.digest not in {None, digest}:
            raise DigestMismatchError(
                f"the reference {reference} and the expected digest {digest} are not the same",
                expected=str(digest),
                actual=str(reference.digest),
            )
        if check_access:
            async with self._source(reference, credentials) as source:
                await source.resolve(reference.at(digest))
        # The first caller does the work; those who waited find it done.
        async with self._locks.setdefault(digest, asyncio.Lock()):
            before = await self._find(digest)
            if before is not None and await self._is_current(before, platform):
                return
            work = partial(self._prepare, reference, digest, platform, before, progress or _ignore)
            try:
                # What containerd holds whole needs no network.
                await work(ContentSource(self._client), reference.at(digest))
            except (NotFoundError, UnsupportedPlatformError):
                async with self._source(reference, credentials) as source:
                    await work(source, reference)

    async def untag_image(self, user_digest: str) -> None:
        """Drop a prepared image, and wait until what only it held is gone from disk.

        Idempotent. Containers that run from it go on: they hold their snapshots themselves.

        Raises:
            InvalidReferenceError: It is not a digest.
            UnavailableError: containerd does not answer.
        """
        await self._client.images.delete(prepared_image_name(user_digest), sync=True)

    async def _find(self, digest: Digest) -> PreparedImage | None:
        record = await self._client.images.get(prepared_image_name(str(digest)))
        return PreparedImage.read(record) if record else None

    async def _is_current(self, image: PreparedImage, platform: Platform | None) -> bool:
        """Whether nothing is left to do: same pause program, same platform, unpacked here."""
        if platform is not None and not image.platform.satisfies(platform):
            return False
        try:
            if image.recipe != recipe(self._pause.read(image.platform)):
                return False
        except (UnsupportedPlatformError, InvalidPauseProgramError):
            return False
        daemon = await self._daemon()
        if image.platform.os != daemon.platform.os:
            return True
        chain_id = image.snapshots.get(daemon.snapshotter)
        return chain_id is not None and await self._client.snapshots.exists(
            daemon.snapshotter, chain_id
        )

    async def _prepare(
        self,
        named: Reference,
        digest: Digest,
        platform: Platform | None,
        before: PreparedImage | None,
        progress: ProgressCallback,
        source: Source,
        reference: Reference,
    ) -> None:
        daemon = await self._daemon()
        image = await resolve_image(source, reference, digest, platform, daemon.platform)
        if isinstance(source, ContentSource):
            await source.check_whole(image.manifest)
        pause = self._pause.read(image.config.platform)
        prepared = prepare(image.manifest, image.config, pause)
        own_system = prepared.config.platform.os == daemon.platform.os
        snapshotter = daemon.snapshotter if own_system else None
        async with self._lease() as client:
            tracker = Tracker(progress)
            ingest = Ingest(client, source, image, prepared, snapshotter, tracker, self._let_go)
            labels = source_labels(named.registry, named.repository)
            await ingest.run(labels, asyncio.Semaphore(self._concurrency), self._slots)
            await client.images.put(
                prepared_record(image, prepared, recipe(pause), snapshotter, before)
            )
            tracker.finish()

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

    @asynccontextmanager
    async def _source(
        self, reference: Reference, credentials: Credentials | None
    ) -> AsyncIterator[Source]:
        if self._open_source is not None:
            yield PersistentSource(self._open_source(reference, credentials), self._retry)
            return
        from cdimage.registry import Registry  # noqa: PLC0415 - loads an HTTP client

        async with Registry() as registry:
            yield PersistentSource(registry.open(reference, credentials), self._retry)

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


def _ignore(event: Progress) -> None:
    """Nobody asked for progress."""
