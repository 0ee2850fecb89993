"""Locks on files, that hold between processes and end with them."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

_FIRST_WAIT: Final = 0.002
_LONGEST_WAIT: Final = 0.1
_FLAGS: Final = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    _FAR: Final = 1 << 62

    def try_lock(file: int) -> bool:
        """Take the lock of an open file, if nobody has it; closing the file ends it."""
        os.lseek(file, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
else:

    def try_lock(file: int) -> bool:
        """Take the lock of an open file, if nobody has it; closing the file ends it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def open_locked(path: Path) -> int:
    """Open a file, made if need be, with its lock; waits while another has it.

    The lock is one on the file that is at this path now: not on one that was renamed or removed
    while we waited.
    """
    wait = _FIRST_WAIT
    while True:
        file = os.open(path, _FLAGS, 0o644)
        try:
            if try_lock(file) and is_at(file, path):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - spreads those who wait
        wait = min(2 * wait, _LONGEST_WAIT)


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock of a file that is there for nothing else."""
    file = await open_locked(path)
    try:
        yield
    finally:
        os.close(file)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of a file that is there."""
    try:
        file = os.open(path, _FLAGS & ~os.O_CREAT)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(file)
    finally:
        os.close(file)


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
