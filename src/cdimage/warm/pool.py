"""Containers that are ready before somebody asks for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from cdimage.containerd.store import Store
from cdimage.digest import Digest
from cdimage.errors import CdimageError, InvalidReferenceError, UnavailableError
from cdimage.threads import finish
from cdimage.warm.box import Box
from cdimage.warm.containers import launch

_logger = logging.getLogger(__name__)


@dataclass
class _Shelf:
    """What there is of one digest.

    Attributes:
        fresh: Containers that nobody had yet.
        used: Those that tenants may have again, and when they were given back.
        asked_at: When somebody asked last.
        waiting: How many wait for one.
        starting: How many are being started.
        taken: How many are in somebody's hands.
        failures: How many could not be started.
        forgiven: How many of these were before somebody asked last.
        error: Why the last could not be.
    """

    fresh: list[Box] = field(default_factory=list)
    used: dict[str, list[tuple[Box, float]]] = field(default_factory=dict)
    asked_at: float = 0.0
    waiting: int = 0
    starting: int = 0
    taken: int = 0
    failures: int = 0
    forgiven: int = 0
    error: CdimageError | OSError | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left of it, and nobody comes back to it."""
        return not (self.fresh or self.used or self.waiting or self.starting or self.taken)

    def raise_if_failed_since(self, failures: int) -> None:
        """Tell who waits why there is none."""
        if self.failures > failures and self.error is not None:
            raise self.error


class WarmPool:
    """Keeps containers of prepared images started, and hands them out.

    ::

        async with WarmPool(store, size=4, total=32, limits=Limits(memory=512 * MiB)) as pool:
            await pool.keep(digest)
            async with pool.take(digest) as box:
                ...

    A container that was handed out is never handed to another tenant: it is stopped when it is
    given back, or, taken with a ``tenant``, kept for that tenant. When the pool ends, and when it
    is cancelled, all of its containers are stopped; killed, it leaves them to `reap`.

    Args:
        store: Where the images are prepared.
        size: How many of each digest are ready, beside those that were handed out.
        total: How many there may be, of all digests, handed out or not. A digest that nobody asked
            for lately gives way to one that somebody waits for.
        max_idle: After how many seconds, in which nobody asked for its digest or its tenant, a
            container is stopped.
        options: What `launch` is told of each: limits, mounts, labels and the like.
    """

    def __init__(
        self, store: Store, *, size: int, total: int = 64, max_idle: float = 600, **options: Any
    ) -> None:
        if size < 0 or total < 1 or max_idle <= 0:
            raise InvalidReferenceError(
                "a pool keeps 0 containers or more of a digest, 1 or more in all, for a time"
            )
        self._store = store
        self._size = size
        self._total = total
        self._max_idle = max_idle
        self._options = options
        self._shelves: dict[str, _Shelf] = {}
        self._count = 0
        self._leaving = 0
        self._changed = asyncio.Condition()
        self._work: set[asyncio.Task[None]] = set()
        self._is_open = True

    async def keep(self, user_digest: str) -> None:
        """Have containers of a prepared image ready; returns when they are, or there is no room.

        Raises:
            NotFoundError: It is not prepared.
            CdimageError: As of `launch`.
        """
        shelf = self._shelf(user_digest)
        failures = shelf.failures
        self._fill()
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    shelf.failures > failures
                    or len(shelf.fresh) >= self._size
                    or (self._count >= self._total and not shelf.starting)
                    or not self._is_open
                )
            )
        self._raise_if_closed()
        shelf.raise_if_failed_since(failures)

    @asynccontextmanager
    async def take(self, user_digest: str, *, tenant: str | None = None) -> AsyncIterator[Box]:
        """A container, at once when one is ready; given back when the block ends.

        Args:
            user_digest: Of a prepared image.
            tenant: Who may have the same container again; None gets a fresh one, that nobody has
                again. A tenant's container is as he left it, but for processes: his jobs are gone.

        Raises:
            NotFoundError: It is not prepared.
            CdimageError: As of `launch`.
        """
        shelf = self._shelf(user_digest)
        box = await self._get(shelf, tenant)
        shelf.taken += 1
        is_whole = False
        try:
            self._fill()
            yield box
            is_whole = True
        finally:
            shelf.taken -= 1
            if not self._is_open:
                self._leaving += 1
                await finish(self._discard(box))
            elif tenant is not None and is_whole:
                shelf.used.setdefault(tenant, []).append((box, time.monotonic()))
                self._begin(self._tell())
            else:
                self._dismiss(box)

    async def _get(self, shelf: _Shelf, tenant: str | None) -> Box:
        failures = shelf.failures
        while True:
            self._raise_if_closed()
            box = self._ready(shelf, tenant)
            if box is not None:
                return box
            shelf.waiting += 1
            try:
                self._fill()
                async with self._changed:
                    await self._changed.wait_for(
                        lambda: (
                            bool(shelf.fresh)
                            or bool(tenant and shelf.used.get(tenant))
                            or shelf.failures > failures
                            or not self._is_open
                        )
                    )
            finally:
                shelf.waiting -= 1
            shelf.raise_if_failed_since(failures)

    def _raise_if_closed(self) -> None:
        if not self._is_open:
            raise UnavailableError("the pool has ended: containers come from an open one")

    def _ready(self, shelf: _Shelf, tenant: str | None) -> Box | None:
        """One that is there, and lives; those that ended meanwhile are removed."""
        while box := self._next(shelf, tenant):
            if box.is_running:
                return box
            self._dismiss(box)
        return None

    def _next(self, shelf: _Shelf, tenant: str | None) -> Box | None:
        if tenant is not None and (mine := shelf.used.get(tenant)):
            box, _ = mine.pop()
            if not mine:
                del shelf.used[tenant]
            return box
        return shelf.fresh.pop(0) if shelf.fresh else None

    def _shelf(self, user_digest: str) -> _Shelf:
        shelf = self._shelves.setdefault(str(Digest.parse(user_digest)), _Shelf())
        shelf.asked_at = time.monotonic()
        shelf.forgiven = shelf.failures
        return shelf

    def _fill(self) -> None:
        """Begin to start what is missing, as far as there is room: who waits comes first."""
        for digest, shelf in self._shelves.items():
            for _ in range(shelf.waiting - len(shelf.fresh) - shelf.starting):
                if self._count >= self._total:
                    if self._count - self._leaving >= self._total:
                        self._make_room(digest)
                    return
                self._begin_start(digest, shelf)
        oldest = time.monotonic() - self._max_idle
        for digest, shelf in self._shelves.items():
            if shelf.failures > shelf.forgiven or shelf.asked_at < oldest:
                continue
            for _ in range(self._size - len(shelf.fresh) - shelf.starting):
                if self._count >= self._total:
                    return
                self._begin_start(digest, shelf)

    def _begin_start(self, digest: str, shelf: _Shelf) -> None:
        self._count += 1
        shelf.starting += 1
        self._begin(self._start(digest, shelf))

    def _make_room(self, digest: str) -> None:
        """Stop the container that was not asked for the longest; when it is gone, there is room."""
        others = [
            (shelf.asked_at, key) for key, shelf in self._shelves.items()
            if key != digest and shelf.fresh
        ]  # fmt: skip
        if others:
            box = self._shelves[min(others)[1]].fresh.pop()
        else:
            kept = [
                (since, key, tenant)
                for key, shelf in self._shelves.items()
                for tenant, boxes in shelf.used.items()
                for _, since in boxes[:1]
            ]
            if not kept:
                return
            _, key, tenant = min(kept)
            boxes = self._shelves[key].used[tenant]
            box, _ = boxes.pop(0)
            if not boxes:
                del self._shelves[key].used[tenant]
        self._dismiss(box)

    async def _start(self, digest: str, shelf: _Shelf) -> None:
        try:
            box = await launch(self._store.client, digest, **self._options)
        except (CdimageError, OSError) as error:
            self._count -= 1
            shelf.starting -= 1
            shelf.failures += 1
            shelf.error = error
            await self._tell()
            return
        shelf.starting -= 1
        if self._is_open:
            shelf.fresh.append(box)
            self._fill()
            await self._tell()
        else:
            self._dismiss(box)

    def _dismiss(self, box: Box) -> None:
        self._leaving += 1
        self._begin(self._discard(box))

    async def _discard(self, box: Box) -> None:
        try:
            await box.stop()
        except CdimageError as error:
            _logger.warning("a container of the pool could not be stopped: %s", error)
        finally:
            self._count -= 1
            self._leaving -= 1
        if self._is_open:
            self._fill()
            await self._tell()

    async def _retire(self) -> None:
        """Stop what nobody asks for."""
        while True:
            await asyncio.sleep(min(self._max_idle / 4, 10.0))
            oldest = time.monotonic() - self._max_idle
            for digest, shelf in list(self._shelves.items()):
                for tenant, boxes in list(shelf.used.items()):
                    while boxes and boxes[0][1] < oldest:
                        self._dismiss(boxes.pop(0)[0])
                    if not boxes:
                        del shelf.used[tenant]
                if shelf.asked_at < oldest and not shelf.waiting:
                    while shelf.fresh:
                        self._dismiss(shelf.fresh.pop())
                    if shelf.is_idle:
                        del self._shelves[digest]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> WarmPool:
        self._retiring = asyncio.create_task(self._retire())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        self._retiring.cancel()
        with suppress(asyncio.CancelledError):
            await self._retiring
        for shelf in self._shelves.values():
            for box in (*shelf.fresh, *(it for kept in shelf.used.values() for it, _ in kept)):
                self._dismiss(box)
        self._shelves.clear()
        await self._tell()
        while self._work:
            await asyncio.wait(self._work)
