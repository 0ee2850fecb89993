"""Files into and out of a container, as tar streams; its image takes no part in it.

Paths are the container's own: links in them, absolute ones too, lead nowhere else (see `rooted`).
"""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tarfile import InvalidHeaderError, ReadError, TruncatedHeaderError  # type: ignore[attr-defined]
from typing import IO, Final, Self

from cdimage.errors import BackendError, InvalidReferenceError
from cdimage.warm.options import UserNamespace
from cdimage.warm.rooted import Root, open_found

_CHUNK: Final = 1 << 20
_FOUND: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICES: Final = (tarfile.CHRTYPE, tarfile.BLKTYPE)


class _StrictEntry(tarfile.TarInfo):
    """An entry whose header is one: `tarfile` itself takes anything else for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile)
        except (InvalidHeaderError, TruncatedHeaderError) as error:
            raise ReadError(str(error)) from None


def put_archive(root: Root, archive: IO[bytes], path: str, users: UserNamespace | None) -> None:
    """Unpack a tar, packed in any way that `tarfile` reads, below a directory of the container.

    Owners, modes and times are the tar's. What is there already is replaced, but for directories,
    which are merged. Interrupted, it leaves what came until then.

    Args:
        root: The container's.
        archive: Read once, from its beginning to its end.
        path: Made if need be.
        users: The container's.

    Raises:
        InvalidReferenceError: It is no tar, holds a device, or climbs out of the directory.
        OSError: The container's file system refuses, as one that may only be read.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r|*", tarinfo=_StrictEntry) as members:
            with root.folder(path, make=True):
                pass
            for member in members:
                _put(root, members, member, path, users)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidReferenceError(f"what is to be put is not a tar: {error}") from None


def get_archive(root: Root, path: str, output: IO[bytes], users: UserNamespace | None) -> None:
    """Pack a file or a directory of the container as a tar, whose first name is its own.

    Raises:
        InvalidReferenceError: It is the kernel's.
        OSError: It is not there.
    """
    pure = PurePosixPath(path)
    name = pure.name or "."
    with root.folder(str(pure.parent)) as above:
        root.refuse_kernels(above, path)
        os.stat(name, dir_fd=above, follow_symlinks=False)
        with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            _get(archive, above, name, name, users)


def write_file(root: Root, path: str, data: bytes, mode: int, owner: tuple[int, int]) -> None:
    """Write a file of the container, as a whole or not at all.

    Raises:
        OSError: The container's file system refuses.
    """
    pure = PurePosixPath(path)
    with root.folder(str(pure.parent), make=True) as folder:
        half = f".{pure.name}.{os.urandom(4).hex()}"
        file = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(data)
                os.fchown(opened.fileno(), *owner)
                os.fchmod(opened.fileno(), mode)
            os.rename(half, pure.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(half, dir_fd=folder)
            raise


def read_file(root: Root, path: str, limit: int) -> bytes:
    """Read a file of the container.

    Raises:
        InvalidReferenceError: It is no file, one of the kernel's, or larger than the limit.
        OSError: It is not there.
    """
    with os.fdopen(root.open_file(path), "rb") as opened:
        data = opened.read(limit + 1)
    if len(data) > limit:
        raise InvalidReferenceError(f"{path} in the container is larger than {limit} bytes")
    return data


def _put(
    root: Root,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    path: str,
    users: UserNamespace | None,
) -> None:
    pure = PurePosixPath(member.name.lstrip("/"))
    if ".." in pure.parts:
        raise InvalidReferenceError(f"the tar's {member.name!r} climbs out of the directory")
    if member.type in _DEVICES:
        raise InvalidReferenceError(f"the tar's {member.name!r} is a device, which is not put")
    if not pure.parts:
        return
    target = PurePosixPath(path) / pure
    with root.folder(str(target.parent), make=True) as folder:
        file = _make(root, archive, member, folder, target, path)
        if file is not None:
            with _closing(file):
                _dress(member, file, users)


def _dress(member: tarfile.TarInfo, file: int, users: UserNamespace | None) -> None:
    """Give what was just made its owner, mode and time."""
    path = f"/proc/self/fd/{file}"  # of what was only found, too
    os.chown(path, outside(users, member.uid), outside(users, member.gid))
    if not member.issym():
        Path(path).chmod(stat.S_IMODE(member.mode))
    when = int(member.mtime * 1e9)
    os.utime(path, ns=(when, when))


def _make(
    root: Root,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    folder: int,
    target: PurePosixPath,
    path: str,
) -> int | None:
    """Make it; a descriptor of it, or None for another name of what is there."""
    name = target.name
    before = _look(name, folder)
    if member.isdir() and before is not None and stat.S_ISDIR(before.st_mode):
        return os.open(name, _FOUND | os.O_DIRECTORY, dir_fd=folder)
    if before is not None:
        if stat.S_ISDIR(before.st_mode):
            raise InvalidReferenceError(f"{target} in the container is a directory: remove it")
        os.unlink(name, dir_fd=folder)
    if member.isdir():
        os.mkdir(name, 0o700, dir_fd=folder)
    elif member.issym():
        os.symlink(member.linkname, name, dir_fd=folder)
    elif member.islnk():
        linked = PurePosixPath(path) / member.linkname.lstrip("/")
        with root.folder(str(linked.parent)) as source:
            os.link(linked.name, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        return None
    elif member.isfifo():
        os.mkfifo(name, 0o600, dir_fd=folder)
    elif member.isfile():
        return _make_file(archive, member, folder, name)
    else:
        return None
    return os.open(name, _FOUND, dir_fd=folder)


def _make_file(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> int:
    content = archive.extractfile(member)
    if content is None:
        raise InvalidReferenceError(f"the tar's {member.name!r} has no content")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    made = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(made, "wb", closefd=False) as file:
            while chunk := content.read(_CHUNK):
                file.write(chunk)
    except BaseException:
        os.close(made)
        raise
    return made


def _get(
    archive: tarfile.TarFile, folder: int, name: str, path: str, users: UserNamespace | None
) -> None:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    member = tarfile.TarInfo(path)
    member.mode, member.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    member.uid, member.gid = _inside(users, found.st_uid), _inside(users, found.st_gid)
    if stat.S_ISDIR(found.st_mode):
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
        _get_members(archive, folder, name, path, users)
    elif stat.S_ISLNK(found.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = os.readlink(name, dir_fd=folder)
        archive.addfile(member)
    elif stat.S_ISREG(found.st_mode):
        _get_file(archive, folder, name, member)
    elif stat.S_ISFIFO(found.st_mode):
        member.type = tarfile.FIFOTYPE
        archive.addfile(member)
    # Sockets and devices are not files that somebody could use elsewhere.


def _get_file(archive: tarfile.TarFile, folder: int, name: str, member: tarfile.TarInfo) -> None:
    with _closing(os.open(name, _FOUND, dir_fd=folder)) as found:
        opened = open_found(found, member.name)
    with os.fdopen(opened, "rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        try:
            archive.addfile(member, file)
        except OSError as error:
            if error.errno is not None:
                raise
            # It became shorter meanwhile, and the tar has announced the old size.
            raise BackendError(f"{member.name} changed while it was read") from None


def _get_members(
    archive: tarfile.TarFile, above: int, name: str, path: str, users: UserNamespace | None
) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    folder = os.open(name, flags, dir_fd=above)
    try:
        device = os.fstat(folder).st_dev
        for entry in sorted(os.listdir(folder)):  # noqa: PTH208 - it is open
            found = os.stat(entry, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) and found.st_dev != device:
                continue  # another file system, as /proc
            _get(archive, folder, entry, f"{path}/{entry}", users)
    finally:
        os.close(folder)


@contextmanager
def _closing(file: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield file
    finally:
        os.close(file)


def _look(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def outside(users: UserNamespace | None, number: int) -> int:
    """What the node calls a user or a group of the container."""
    return number if users is None else users.first + min(number, users.count - 1)


def _inside(users: UserNamespace | None, number: int) -> int:
    if users is None:
        return number
    return number - users.first if users.first <= number < users.first + users.count else 65534
