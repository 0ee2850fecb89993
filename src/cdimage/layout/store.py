"""The store of prepared images in an OCI image layout: a directory, and no daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdimage.descriptor import Platform
from cdimage.digest import Digest
from cdimage.errors import CdimageError, UnavailableError
from cdimage.layout.collect import collect, members, note_unneeded, reachable
from cdimage.layout.content import LayoutContent
from cdimage.layout.entry import index_entry, read_entry, user_digest_of
from cdimage.layout.folder import Folder
from cdimage.layout.leases import Lease, dead_leases
from cdimage.layout.source import LayoutSource
from cdimage.pause import PauseBinaries
from cdimage.preparation import Preparation
from cdimage.prepare import ALIAS
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
from cdimage.retry import Retry
from cdimage.store import PreparedImage, Source

LEASE_SECONDS: Final = 24 * 3600.0


def default_path() -> Path:
    """Where images are kept when nobody says: in the user's data directory."""
    from platformdirs import user_data_path  # noqa: PLC0415 - needed here only

    return user_data_path("cdimage", appauthor=False) / "images"


class LayoutStore(PreparedStore):
    """An `ImageStore` in a directory: an OCI image layout, that other tools can read.

    Needs no daemon and no root. Images of other tools in the same layout are left alone.

    Args:
        path: The directory, made if need be; None is `default_path`.
        pause: As for `cdimage.Store`.
        open_source: As for `cdimage.Store`.
        prepared_registry: As for `cdimage.Store`.
        concurrency: As for `cdimage.Store`.
        total_concurrency: As for `cdimage.Store`.
        retry: As for `cdimage.Store`.
        lease_seconds: How long the bytes of a pull that was killed are kept for the next one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        pause: PauseBinaries | None = None,
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
        self._folder = Folder(default_path() if path is None else Path(path))
        self._lease_seconds = lease_seconds

    @property
    def name(self) -> str:
        """As ``oci:/path``."""
        return f"oci:{self._folder}"

    async def list_images(self) -> list[PreparedImage]:
        """The prepared images that are here, those that were registered last first.

        Raises:
            InvalidImageError: The directory is not an image layout.
        """
        entries = self._folder.read_index()
        found = [image for entry in entries if (image := read_entry(entry, self.name)) is not None]
        return sorted(found, key=lambda image: str(image.updated_at), reverse=True)

    async def untag_image(self, user_digest: str) -> None:
        """Drop a prepared image, and with it every blob that only it held.

        Idempotent. An image of another tool that shares blobs keeps them.

        Raises:
            InvalidReferenceError: It is not a digest.
            InvalidImageError: The directory is not an image layout.
        """
        digest = Digest.parse(user_digest)
        if not self._folder.path.is_dir():
            return
        await self._folder.create()
        async with self._folder.lock():
            self._register(digest, [])

    @asynccontextmanager
    async def contents(self) -> AsyncIterator[Held]:
        """What is here, as a source."""
        yield LayoutSource(self._folder)

    async def add_image(self, preparation: Preparation, source: Source, order: Order) -> None:
        """Store all of an image, and register it last.

        Cancelled or killed, it leaves a lease behind, which holds what arrived for the next call.
        """
        folder, tracker = self._folder, Tracker(order.progress)
        await folder.create()
        digests = preparation.digests
        async with folder.lock():
            lease = await Lease.take(folder, preparation.user_digest, digests)
        try:
            limit = asyncio.Semaphore(self._concurrency)
            content = LayoutContent(folder)
            await store_blobs(content, source, preparation, tracker, limit, self._slots)
            async with folder.lock():
                self._register(
                    preparation.user_digest, [index_entry(preparation, datetime.now(UTC))]
                )
                lease.end()
        except (UnavailableError, OSError, asyncio.CancelledError):
            lease.leave()
            raise
        except CdimageError:
            async with folder.lock():
                note_unneeded(folder, digests)
                lease.end()
                collect(folder)
            raise
        tracker.finish()

    def _register(self, digest: Digest, entries: list[dict[str, Any]]) -> None:
        """Put entries in the place of an image's, and collect what it alone held."""
        folder = self._folder
        index = folder.parse_index()
        all_entries = index.json.get("manifests") or []
        gone = [entry for entry in all_entries if user_digest_of(entry) == digest]
        dead = dead_leases(folder, self._lease_seconds, digest if entries else None)
        if gone or dead:
            note_unneeded(folder, reachable(folder, gone).union(*dead.values()))
        if gone or entries:
            kept = [entry for entry in all_entries if entry not in gone]
            folder.write_index(index, [*kept, *entries])
        for lease in dead:
            lease.unlink(missing_ok=True)
        collect(folder)

    async def find_image(self, digest: Digest) -> PreparedImage | None:
        """The prepared image of that user digest; None when there is none."""
        for entry in self._folder.read_index():
            if user_digest_of(entry) == digest:
                return read_entry(entry, self.name)
        return None

    async def is_complete(self, image: PreparedImage) -> bool:
        """Whether the blobs are there; another tool may have removed some."""
        folder = self._folder
        named = [it for it in folder.read_index() if user_digest_of(it) == image.user_digest]
        wanted = reachable(folder, named)
        if image.recipe == ALIAS:  # the user's own index may list more than was asked for
            wanted -= members(folder, image.target.digest)
        return bool(named) and all(folder.blob_size(digest) is not None for digest in wanted)

    async def _default_platform(self) -> Platform:
        return Platform.of_this_machine()
