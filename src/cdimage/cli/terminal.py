"""Between a job's streams and those of this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from cdimage.errors import CdimageError
from cdimage.warm import Job, JobEnd

_CHUNK: Final = 1 << 16
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE: Final = 3
"""How often somebody who wants a job to end sends the same signal before it is killed."""


def is_interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


async def pass_through(job: Job, *, terminal: bool, seconds: float | None) -> JobEnd:
    """Run a job whose streams, signals and terminal are this process's own.

    Args:
        job: What is to run.
        terminal: Whether it has one.
        seconds: After how many it is killed; None is never.
    """
    async with job, _signals(job, is_raw=terminal):
        with _raw(terminal):
            pumps = [asyncio.create_task(_write(job, 1))]
            if job.stderr is not None:
                pumps.append(asyncio.create_task(_write(job, 2)))
            feeding = asyncio.create_task(_read(job)) if job.stdin is not None else None
            try:
                await _watch(job, pumps, seconds)
                await asyncio.gather(*pumps)
                return await job.wait()
            finally:
                for task in (*pumps, *([feeding] if feeding else [])):
                    task.cancel()
                    with suppress(asyncio.CancelledError, CdimageError, OSError):
                        await task


async def _watch(job: Job, pumps: list[asyncio.Task[None]], seconds: float | None) -> None:
    """Wait for the end, that of its time, or that whoever reads its output goes away."""
    ending = asyncio.ensure_future(job.wait())
    try:
        async with asyncio.timeout(seconds):
            while not ending.done():
                running = [task for task in pumps if not task.done()]
                await asyncio.wait([ending, *running], return_when=asyncio.FIRST_COMPLETED)
                for task in pumps:
                    if task.done():
                        task.result()
    except TimeoutError:
        await job.kill()
    finally:
        with suppress(asyncio.CancelledError):
            if not ending.done():
                ending.cancel()
                await ending
    if not ending.cancelled():
        ending.result()


async def _write(job: Job, file: int) -> None:
    stream = job.stderr if file == 2 else job.stdout
    assert stream is not None  # noqa: S101 - of a job without a terminal
    async for chunk in stream:
        rest = memoryview(chunk)
        while rest:
            rest = rest[await asyncio.to_thread(os.write, file, rest) :]


async def _read(job: Job) -> None:
    assert job.stdin is not None  # noqa: S101 - it was asked for
    while data := await _read_standard_input():
        await job.stdin.write(data)
    await job.close_stdin()


async def _read_standard_input() -> bytes:
    """What comes next; unlike a thread that reads, it can be given up."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(0, ready.set)
    except PermissionError:  # a regular file is always ready
        return os.read(0, _CHUNK)
    try:
        await ready.wait()
        return os.read(0, _CHUNK)
    except OSError:  # a terminal that went away
        return b""
    finally:
        loop.remove_reader(0)


@asynccontextmanager
async def _signals(job: Job, *, is_raw: bool) -> AsyncIterator[None]:
    """Hand what this process is sent to the job; in a terminal, its size as well."""
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in _FORWARDED}
    # What a shell's background or nohup ignores stays ignored.
    before = {number: it for number, it in handlers.items() if it != signal.SIG_IGN}
    sent = dict.fromkeys(_FORWARDED, 0)
    work: set[asyncio.Task[None]] = set()

    def forward(number: signal.Signals) -> None:
        sent[number] += 1
        what = job.kill() if sent[number] >= _PATIENCE else job.signal(number)
        begin(what)

    def begin(what: object) -> None:
        task = asyncio.ensure_future(_quietly(what))
        work.add(task)
        task.add_done_callback(work.discard)

    def resize() -> None:
        columns, rows = shutil.get_terminal_size()
        begin(job.resize(columns, rows))

    for number in before:
        loop.add_signal_handler(number, forward, number)
    if is_raw:
        loop.add_signal_handler(signal.SIGWINCH, resize)
        resize()
    try:
        yield
    finally:
        if is_raw:
            loop.remove_signal_handler(signal.SIGWINCH)
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
        for task in work:
            task.cancel()


async def _quietly(what: object) -> None:
    """A job that has ended meanwhile takes no signal."""
    with suppress(CdimageError):
        await what  # type: ignore[misc]


@contextmanager
def _raw(is_terminal: bool) -> Iterator[None]:
    """Every key goes to the job's terminal, Ctrl-C too."""
    if not is_terminal or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
