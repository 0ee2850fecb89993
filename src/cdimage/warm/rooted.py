"""Paths inside a container, as the container sees them.

The kernel follows links, absolute ones too, as if the container's root were the only one
(openat2 with RESOLVE_IN_ROOT, Linux 5.6): no name in an image leads outside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Final

from cdimage.errors import BackendError, InvalidReferenceError, NotFoundError
from cdimage.warm.process import Process

_OPENAT2: Final = 437  # on every processor
_IN_ROOT: Final = 0x10
_NO_MAGIC_LINKS: Final = 0x02
_ATTEMPTS: Final = 100

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

    def find(self, path: str, flags: int = 0) -> int:
        """Find a path of the container: a descriptor to look at, and to reopen, not to read from.

        Raises:
            OSError: It is not there.
        """
        how = _How(flags | os.O_PATH | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGIC_LINKS)
        for _ in range(_ATTEMPTS):
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
                break
        raise OSError(number, os.strerror(number), path)

    def open_file(self, path: str) -> int:
        """Open a regular file for reading; whatever else is at that path is not opened.

        Raises:
            InvalidReferenceError: It is no regular file, or one that the kernel makes.
            OSError: It is not there.
        """
        found = self.find(path)
        try:
            self.refuse_kernels(found, path)
            return open_found(found, path)
        finally:
            os.close(found)

    def refuse_kernels(self, file: int, path: str) -> None:
        """Refuse what is below /proc or /sys: this process would see more there than a job.

        Raises:
            InvalidReferenceError: It is.
        """
        device = os.fstat(file).st_dev
        for kernels in ("/proc", "/sys"):
            try:
                found = self.find(kernels)
            except OSError:
                continue
            try:
                if os.fstat(found).st_dev == device != os.fstat(self.file).st_dev:
                    raise InvalidReferenceError(f"{path} in the container is the kernel's")
            finally:
                os.close(found)

    def read_text(self, path: str, limit: int = 1 << 18) -> str:
        """A small file; "" when there is none, and what is beyond the limit is left out.

        Raises:
            InvalidReferenceError: It is no regular file.
        """
        try:
            file = self.open_file(path)
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
        try:
            file = self.find(path, os.O_DIRECTORY)
        except FileNotFoundError:
            if not make:
                raise
            self._make(path)
            file = self.find(path, os.O_DIRECTORY)
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


def open_found(found: int, path: str) -> int:
    """Open what was found for reading, if it is a regular file.

    Anything else may do something when it is opened: a terminal becomes this process's own.

    Raises:
        InvalidReferenceError: It is none.
        OSError: Somebody in the container holds a lease on it.
    """
    if not stat.S_ISREG(os.fstat(found).st_mode):
        raise InvalidReferenceError(f"{path} in the container is no regular file")
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{found}", flags)


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
