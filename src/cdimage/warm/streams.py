"""Standard streams of a job: FIFOs, whose other ends the shim opens."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from cdimage.threads import own_thread

_CHUNK: Final = 1 << 16
_CAPACITY: Final = 1 << 18
_SET_CAPACITY: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)


Input = bytes | BinaryIO | AsyncIterable[bytes]
"""What can be read: as it is, from a file, or as it comes."""


class OutputStream:
    """What a job writes, as chunks of bytes, to its end.

    The end comes when nobody holds the other end any more: neither the job nor what it started.
    Read by one task at a time; what is not read makes the job wait.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._is_at_end = False
        _enlarge(file)

    @classmethod
    def fifo(cls, path: Path) -> OutputStream:
        """Of a FIFO that is made for it."""
        os.mkfifo(path, 0o600)
        return cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    async def read(self) -> bytes:
        """The next bytes, as soon as there are any; b"" at the end."""
        if self._is_at_end:
            return b""
        # Before the shim opens the FIFO, reading would say that it is at its end; waiting does not.
        await _ready(self._file, for_writing=False)
        data = os.read(self._file, _CHUNK)
        self._is_at_end = not data
        return data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def drain(self) -> None:
        """Read to the end and forget it: a shim that has no reader does not let go of a job."""
        while await self.read():
            pass

    def close(self) -> None:
        """Let go of the FIFO."""
        self._is_at_end = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class InputStream:
    """What a job reads."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._has_ended = asyncio.Event()
        _enlarge(file)

    @classmethod
    def fifo(cls, path: Path) -> InputStream:
        """Of a FIFO that is made for it."""
        os.mkfifo(path, 0o600)
        # For reading, too: otherwise it could not be opened before the shim does.
        return cls(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))

    async def write_all(self, source: Input) -> None:
        """Write what there is to read, to its end."""
        if isinstance(source, bytes):
            await self.write(source)
        elif isinstance(source, AsyncIterable):
            async for chunk in source:
                await self.write(chunk)
        else:
            while chunk := await own_thread(partial(source.read, _CHUNK)):
                await self.write(chunk)

    async def write(self, data: bytes) -> None:
        """Write all of it; waits while nobody reads.

        Raises:
            BrokenPipeError: Who reads has ended.
        """
        view = memoryview(data)
        while view:
            if self._has_ended.is_set():
                raise BrokenPipeError(errno.EPIPE, "the job has ended")
            try:
                view = view[os.write(self._file, view) :]
            except BlockingIOError:
                await self._room()

    @property
    def has_ended(self) -> bool:
        """Whether who reads has ended."""
        return self._has_ended.is_set()

    def end(self) -> None:
        """Let who writes know that who reads has ended: the FIFO, which we hold, does not tell."""
        self._has_ended.set()

    async def _room(self) -> None:
        waits = [
            asyncio.ensure_future(_ready(self._file, for_writing=True)),
            asyncio.ensure_future(self._has_ended.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def close(self) -> None:
        """Let go of the FIFO; what was written can still be read from it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


async def _ready(file: int, *, for_writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    watch, forget = (
        (loop.add_writer, loop.remove_writer) if for_writing else
        (loop.add_reader, loop.remove_reader)
    )  # fmt: skip
    watch(file, _set, ready)
    try:
        await ready
    finally:
        forget(file)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _enlarge(file: int) -> None:
    """Fewer turns for those that write much; a user's share of the kernel's memory is bounded."""
    with suppress(OSError):
        fcntl.fcntl(file, _SET_CAPACITY, _CAPACITY)
