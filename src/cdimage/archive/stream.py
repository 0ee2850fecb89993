"""The bytes of a file, unpacked where it is compressed, from any offset on."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from cdimage.compression import new_member, sniff, translated
from cdimage.errors import InvalidImageError

_INPUT: Final = 1 << 16
_CHECKPOINTS: Final = 1000
_PLAIN_GROWTH: Final = 1 << 30
_GROWTH: Final = 200


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """Where unpacking can go on.

    Attributes:
        position: In the unpacked bytes.
        offset: In the file.
        member: The state of the decompressor.
        unread: Bytes of the file before the offset that are not unpacked yet.
    """

    position: int
    offset: int
    member: Any
    unread: bytes


class Stream:
    """Reads on from a position. Not for two users at once."""

    def __init__(self, file: BinaryIO, kind: str, start: _Checkpoint) -> None:
        self._file = file
        self._kind = kind
        self._member = start.member
        self._unread = start.unread
        self.position = start.position
        file.seek(start.offset)

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size`` of them; none at the end.

        Raises:
            InvalidImageError: The file is broken or cut off.
        """
        if self._kind == "none":
            data = self._file.read(size)
        else:
            with translated(self._kind):
                data = self._unpack(size) if size else b""
        self.position += len(data)
        return data

    def skip_to(self, position: int) -> None:
        """Go forward; beyond the end is as good as the end.

        Raises:
            InvalidImageError: It lies behind, or the file is broken.
        """
        if position < self.position:
            raise InvalidImageError("it leads backwards")
        if self._kind == "none":
            self._file.seek(position)
            self.position = position
        while self.position < position and self.read(min(position - self.position, 1 << 20)):
            pass

    def checkpoint(self) -> _Checkpoint | None:
        """What it takes to go on from here later; None where that cannot be had."""
        if self._kind != "gzip" or self._member is None:
            return None
        return _Checkpoint(self.position, self._file.tell(), self._member.copy(), self._unread)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _unpack(self, size: int) -> bytes:
        while True:
            if self._member is None or self._member.eof:
                self._unread = (self._unread or self._file.read(_INPUT)).lstrip(b"\0")
                if not self._unread:
                    return b""
                self._member = new_member(self._kind)
            data: bytes = self._member.decompress(self._unread, size)
            self._unread = self._member.unused_data or getattr(self._member, "unconsumed_tail", b"")
            if data:
                return data
            if not self._member.eof and not self._unread:
                self._unread = self._file.read(_INPUT)
                if not self._unread:
                    raise InvalidImageError(f"the {self._kind} stream is cut off")


class Streams:
    """The streams over one file, and one that may be used again. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        """Look at the beginning of a file.

        Raises:
            OSError: It cannot be read.
        """
        self._path = path
        with path.open("rb") as file:
            self.kind = sniff(file.read(4))
            self.file_size = file.seek(0, 2)
        self._checkpoints: list[_Checkpoint] = []
        self._idle: Stream | None = None
        self._lock = threading.Lock()

    def open(self, position: int = 0) -> Stream:
        """A stream at a position, with as little unpacking as can be."""
        near = [it for it in self._checkpoints if it.position <= position]
        best = near[-1] if near else _Checkpoint(0, 0, None, b"")
        stream = self._take()
        if stream is not None and not best.position <= stream.position <= position:
            stream.close()
            stream = None
        if stream is None:
            member = best.member.copy() if best.member is not None else None
            start = _Checkpoint(best.position, best.offset, member, best.unread)
            stream = Stream(self._path.open("rb"), self.kind, start)
        stream.skip_to(position)
        return stream

    def give_back(self, stream: Stream) -> None:
        """Keep a stream for whoever reads on from where it is, or later."""
        before = self._take(stream)
        if before is not None:
            before.close()

    def _take(self, instead: Stream | None = None) -> Stream | None:
        """The stream that is kept, which is the caller's from now on."""
        with self._lock:
            found, self._idle = self._idle, instead
        return found

    def remember(self, stream: Stream) -> None:
        """Make it cheap to go on from where a stream is."""
        if len(self._checkpoints) < _CHECKPOINTS and (here := stream.checkpoint()) is not None:
            self._checkpoints.append(here)

    def check_growth(self, stream: Stream) -> None:
        """Refuse a file that unpacks to far more than any image does.

        Raises:
            InvalidImageError: It does.
        """
        limit = max(_PLAIN_GROWTH, _GROWTH * self.file_size)
        if self.kind != "none" and stream.position > limit:
            raise InvalidImageError(
                f"it unpacks to more than {_GROWTH} times its size, as no image does"
            )

    def close(self) -> None:
        """Close what is kept. Idempotent."""
        idle = self._take()
        if idle is not None:
            idle.close()
