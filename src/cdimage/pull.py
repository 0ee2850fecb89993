"""Copying blobs from a source to a store: whatever arrives is counted and hashed as it streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import DigestMismatchError, InvalidImageError
from cdimage.image import DOCUMENT_LIMIT
from cdimage.store import ContentStore, Progress, ProgressCallback, Source, State, Writer
from cdimage.verify import Verifier


async def read(source: Source, descriptor: Descriptor) -> bytes:
    """Read a small blob into memory, checked.

    Raises:
        InvalidImageError: It is larger than `DOCUMENT_LIMIT`.
        DigestMismatchError: The bytes are others than the descriptor says.
    """
    if descriptor.data is not None:
        return descriptor.data
    if descriptor.size > DOCUMENT_LIMIT:
        raise InvalidImageError(f"{descriptor.digest} is larger than {DOCUMENT_LIMIT >> 20} MiB")
    verifier, parts = Verifier(descriptor), []
    async with source.fetch(descriptor) as chunks:
        async for chunk in chunks:
            verifier.update(chunk)
            parts.append(chunk)
    verifier.finish()
    return b"".join(parts)


async def put(
    content: ContentStore, descriptor: Descriptor, data: bytes, labels: Mapping[str, str]
) -> None:
    """Write a small blob that is in memory; success if it is there."""
    async with content.writer(descriptor) as writer:
        if writer is None:
            return
        if writer.offset:
            await writer.restart()
        await writer.write(data)
        await writer.commit(labels)


async def copy_blob(
    source: Source,
    content: ContentStore,
    descriptor: Descriptor,
    *,
    limits: Sequence[asyncio.Semaphore],
    labels: Mapping[str, str],
    progress: ProgressCallback,
) -> None:
    """Copy one blob; nothing moves when it is there already.

    Continues from the bytes that an earlier attempt, by whomever, left in the store. Bytes that
    turn out to be wrong are thrown away and fetched again, once.

    Args:
        source: Where from.
        content: Where to.
        descriptor: The blob.
        limits: How many blobs are fetched at the same time; taken in this order.
        labels: Set on the blob when it is committed.
        progress: Called as bytes arrive.

    Raises:
        DigestMismatchError: The source sent other bytes than the descriptor says.
        UnavailableError: The connection broke. What arrived stays for the next attempt.
    """
    async with AsyncExitStack() as stack:
        for limit in limits:
            await stack.enter_async_context(limit)
        writer = await stack.enter_async_context(content.writer(descriptor))
        if writer is None:
            # Somebody else fetched it while we waited.
            progress(Progress(descriptor, State.FETCHED, descriptor.size, descriptor.size))
            return
        resumed_at = writer.offset
        try:
            await _stream(source, writer, descriptor, progress)
            await writer.commit(labels)
        except DigestMismatchError:
            # Whoever sent them, of now or of then, may do better.
            await writer.restart()
            resumed_at = 0
            await _stream(source, writer, descriptor, progress)
            await writer.commit(labels)
    progress(Progress(descriptor, State.FETCHED, descriptor.size, resumed_at))


async def _stream(
    source: Source, writer: Writer, descriptor: Descriptor, progress: ProgressCallback
) -> None:
    begin = writer.offset
    progress(Progress(descriptor, State.FETCHING, begin, begin))
    if begin == descriptor.size:
        return
    async with source.fetch(descriptor, begin) as chunks:
        async for chunk in chunks:
            await writer.write(chunk)
            progress(Progress(descriptor, State.FETCHING, writer.offset, begin))


class Tracker:
    """Makes the events of one pull add up, on their way to a callback."""

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._latest: dict[Digest, Progress] = {}

    def __call__(self, event: Progress) -> None:
        """Pass an event on; what is done after fetching keeps where that was resumed."""
        before = self._latest.get(event.descriptor.digest)
        if before is not None and event.state in {State.UNPACKING, State.DONE}:
            event = replace(event, resumed_at=before.resumed_at)
        self._latest[event.descriptor.digest] = event
        self._callback(event)

    def finish(self) -> None:
        """Everything is here: say so of the blobs that needed no unpacking."""
        for event in list(self._latest.values()):
            if not event.is_last:
                self(replace(event, state=State.DONE))


@asynccontextmanager
async def one_error() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first error by itself, instead of a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
