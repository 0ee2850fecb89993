"""Unpacking what is compressed while it streams, with bounded memory.

Which way it is compressed is seen from its first bytes: gzip, zstd, or not at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from cdimage.errors import InvalidImageError

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_PIECE: Final = 1 << 20
_GZIP_WINDOW: Final = 31


class Decompressor:
    """Unpacks a stream, piece by piece, into pieces of at most 1 MiB."""

    def __init__(self) -> None:
        self._head = b""
        self._kind = ""
        self._member: Any = None

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes unpack to.

        Raises:
            InvalidImageError: They are broken.
        """
        if not self._kind:
            data = self._head + data
            self._head = b""
            if len(data) < len(ZSTD_MAGIC):
                self._head = data
                return
            self._kind = sniff(data)
        if self._kind == "none":
            yield data
            return
        with translated(self._kind):
            yield from self._unpack(data)

    def finish(self) -> None:
        """See that the stream was whole.

        Raises:
            InvalidImageError: It was cut off.
        """
        if self._member is not None and not self._member.eof:
            raise InvalidImageError(f"the {self._kind} stream is cut off")

    def _unpack(self, data: bytes) -> Iterator[bytes]:
        while data or (self._member is not None and self._kind == "zstd" and not self._is_hungry()):
            if self._member is None or self._member.eof:
                if not data.strip(b"\0"):
                    return
                self._member = new_member(self._kind)
            piece = self._member.decompress(data, _PIECE)
            data = self._rest()
            if piece:
                yield piece

    def _is_hungry(self) -> bool:
        return bool(self._member.eof or self._member.needs_input)

    def _rest(self) -> bytes:
        member = self._member
        rest: bytes = member.unused_data
        return rest if self._kind == "zstd" else rest or member.unconsumed_tail


@contextmanager
def translated(kind: str) -> Iterator[None]:
    """Turn what the libraries raise about broken bytes into ours."""
    try:
        yield
    except (zlib.error, EOFError) as error:
        raise InvalidImageError(f"the {kind} stream is broken: {error}") from None
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # its module is loaded only where it is used
            raise
        raise InvalidImageError(f"the {kind} stream is broken: {error}") from None


def sniff(data: bytes) -> str:
    """How bytes are compressed, by their beginning: ``gzip``, ``zstd`` or ``none``."""
    if data.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if data.startswith(ZSTD_MAGIC) else "none"


def new_member(kind: str) -> Any:
    """What unpacks one gzip member or one zstd frame."""
    if kind == "gzip":
        return zlib.decompressobj(_GZIP_WINDOW)
    import sys  # noqa: PLC0415

    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    return zstd.ZstdDecompressor()
