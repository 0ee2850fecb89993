"""Paths inside a container, as the container sees them.

The kernel follows links, absolute ones too, as if the container's root were the only one
(openat2 with RESOLVE_IN_ROOT, Linux 5.6): no name in an image leads outside.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Final

from cdimage.errors import BackendError, NotFoundError
from cdimage.warm.process import Process

_OPENAT2: Final = 437  # on every processor
_IN_ROOT: Final = 0x10
_NO_MAGIC_LINKS: Final = 0x02
_LINKS: Final = 40  # what the kernel follows in one name

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class Root:
    """The root directory of a container, open. Made by `open_root`."""

    def __init__(self, file: int) -> None:
        self.file = file

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """Open a path of the container, as `os.open` does.

        Raises:
            OSError: As of `os.open`.
        """
        how = _How(flags | os.O_CLOEXEC, mode, _IN_ROOT | _NO_MAGIC_LINKS)
        while True:
            file: int = _libc.syscall(
                _OPENAT2,
                self.file,
                os.fsencode(path) or b".",
                ctypes.byref(how),
                ctypes.sizeof(how),
            )
            if file >= 0:
                return file
            number = ctypes.get_errno()
            if number == errno.ENOSYS:
                raise BackendError("files of containers need Linux 5.6")
            if number not in (errno.EAGAIN, errno.EINTR):  # names were moved meanwhile
                raise OSError(number, os.strerror(number), path)

    def read_text(self, path: str, limit: int = 1 << 20) -> str:
        """A small file; "" when there is none."""
        try:
            file = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return ""
        with os.fdopen(file, "rb") as opened:
            return opened.read(limit).decode(errors="replace")

    @contextmanager
    def folder(self, path: str, *, make: bool = False) -> Iterator[int]:
        """A directory, open; with those above it made if need be.

        Raises:
            OSError: It is not there, or is not a directory.
        """
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            file = self.open(path, flags)
        except FileNotFoundError:
            if not make:
                raise
            self._make(path)
            file = self.open(path, flags)
        try:
            yield file
        finally:
            os.close(file)

    def _make(self, path: str) -> None:
        pure = PurePosixPath(path)
        if len(pure.parts) > 1:
            with self.folder(str(pure.parent), make=True) as above:
                try:
                    os.mkdir(pure.name, 0o755, dir_fd=above)
                except FileExistsError:
                    return


@contextmanager
def open_root(process: Process) -> Iterator[Root]:
    """The root of a process: with everything that is mounted there, and as it is mounted.

    Raises:
        NotFoundError: The process has ended.
        OSError: It belongs to somebody else.
    """
    try:
        file = os.open(f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise NotFoundError("the container has ended") from None
    try:
        if process.has_ended:  # and what was opened may be another's
            raise NotFoundError("the container has ended")
        yield Root(file)
    finally:
        os.close(file)
