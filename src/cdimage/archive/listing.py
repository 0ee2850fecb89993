"""What is where in a tar, found without unpacking it, and with bounds on everything."""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import dataclass
from typing import Final

from cdimage.archive.stream import Stream, Streams
from cdimage.errors import InvalidImageError

_MEMBERS: Final = 100_000
_HEADER_LIMIT: Final = 1 << 20
_HOPS: Final = 8
_LARGE: Final = 1 << 20
_SKIP: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar.

    Attributes:
        offset: Of its first byte.
        size: In bytes.
        link: What it is a link to, from the top; "" for a file.
    """

    offset: int
    size: int
    link: str = ""


class Listing:
    """The files in a tar, by their paths."""

    def __init__(self, members: dict[str, Member]) -> None:
        self._members = members

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def find(self, path: str) -> Member | None:
        """A file, by way of links inside the archive; None when it is not there.

        Raises:
            InvalidImageError: A link leads out of the archive, or in circles.
        """
        name = path
        for _ in range(_HOPS):
            found = self._members.get(name)
            if found is None or not found.link:
                return found
            name = found.link
        raise InvalidImageError(f"its links lead in circles at {path!r}")


def read_listing(streams: Streams) -> Listing:
    """Go through a tar once.

    Raises:
        InvalidImageError: It is not a tar, is broken, or holds what an image's does not.
    """
    stream = streams.open()
    members: dict[str, Member] = {}
    try:
        with tarfile.open(fileobj=_Guard(stream, streams), mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members = []  # it would keep them all
                _add(members, member)
                if member.size > _LARGE and stream.position == member.offset_data:
                    streams.remember(stream)
    except (tarfile.TarError, ValueError, OverflowError, EOFError, LookupError) as error:
        raise InvalidImageError(f"it is not a whole tar: {error}") from None
    except RecursionError:
        raise InvalidImageError("it is not a tar: its headers have no end") from None
    finally:
        stream.close()
    return Listing(members)


def _add(members: dict[str, Member], member: tarfile.TarInfo) -> None:
    name = _inside(member.name, member.name)
    if member.issparse():
        raise InvalidImageError(f"{name!r} is a sparse file, as no image has")
    if member.isdev():
        raise InvalidImageError(f"{name!r} is a device, as no image has")
    if member.isdir():
        return
    if name in members:
        raise InvalidImageError(f"{name!r} is in it twice")
    if len(members) >= _MEMBERS:
        raise InvalidImageError(f"it holds more than {_MEMBERS} files")
    link = ""
    if member.issym():
        link = _inside(posixpath.join(posixpath.dirname(name), member.linkname), name)
    elif member.islnk():
        link = _inside(member.linkname, name)
    members[name] = Member(member.offset_data, member.size, link)


def _inside(path: str, name: str) -> str:
    """A path from the top of the archive; what leads out of it is refused."""
    plain = posixpath.normpath(path)
    if plain.startswith(("/", "../")) or plain == "..":
        raise InvalidImageError(f"{name[:200]!r} leads out of the archive")
    return plain


class _Guard:
    """What `tarfile` reads from: forwards only, and no header without end.

    Old releases of `tarfile` loop for ever over sizes below zero, and all of them read an
    extended header into memory whatever size it claims.
    """

    def __init__(self, stream: Stream, streams: Streams) -> None:
        self._stream = stream
        self._streams = streams
        self._budget = _HEADER_LIMIT

    def tell(self) -> int:
        return self._stream.position

    def seek(self, position: int, _whence: int = 0) -> int:
        """A step to the next member: there is budget for its header again."""
        while self._stream.position < position and self._streams.kind != "none":
            before = self._stream.position
            self._stream.skip_to(min(position, before + _SKIP))
            self._streams.check_growth(self._stream)
            if self._stream.position == before:
                break
        self._stream.skip_to(max(position, self._stream.position) if position >= 0 else -1)
        self._budget = _HEADER_LIMIT
        return self._stream.position

    def read(self, size: int) -> bytes:
        self._budget -= max(size, 1)
        if size < 0 or self._budget < 0:
            raise InvalidImageError(f"a header of it is larger than {_HEADER_LIMIT >> 10} KiB")
        parts, missing = [], size
        while missing and (part := self._stream.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
