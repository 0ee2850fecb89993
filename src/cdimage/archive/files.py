"""The files in an archive, read where they are."""

from __future__ import annotations

from pathlib import Path

from cdimage.archive.listing import Member, read_listing
from cdimage.archive.stream import Stream, Streams
from cdimage.digest import Digest
from cdimage.errors import InvalidImageError, NotFoundError
from cdimage.image import DOCUMENT_LIMIT


class Files:
    """An archive that was looked through once. Blocks; safe for concurrent use by threads.

    Raises:
        InvalidImageError: It is not a tar, or one that no tool makes of an image.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._streams = Streams(path)
        self._listing = read_listing(self._streams)

    def __contains__(self, path: str) -> bool:
        return path in self._listing

    def blob(self, digest: Digest) -> Member | None:
        """Where a blob of an image layout is; None when it is not there."""
        return self._listing.find(f"blobs/{digest.algorithm}/{digest.hex}")

    def find(self, path: str) -> Member:
        """Where a file is.

        Raises:
            NotFoundError: It is not there.
        """
        found = self._listing.find(path)
        if found is None:
            raise NotFoundError(f"there is no {path[:200]!r} in it")
        return found

    def open(self, member: Member, offset: int = 0) -> Reading:
        """Begin to read a file at an offset."""
        return Reading(self._streams, self._streams.open(member.offset + offset), member, offset)

    def read(self, path: str) -> bytes:
        """A document.

        Raises:
            NotFoundError: It is not there.
            InvalidImageError: It is too large to be one.
        """
        return self._read(self.find(path), path)

    def read_blob(self, digest: Digest) -> bytes | None:
        """A document, by its digest; None when it is not there."""
        member = self.blob(digest)
        return None if member is None else self._read(member, str(digest))

    def close(self) -> None:
        """Close the archive. Idempotent."""
        self._streams.close()

    def _read(self, member: Member, what: str) -> bytes:
        if member.size > DOCUMENT_LIMIT:
            raise InvalidImageError(f"{what} is larger than {DOCUMENT_LIMIT >> 20} MiB")
        reading, parts = self.open(member), []
        try:
            while part := reading.read(DOCUMENT_LIMIT):
                parts.append(part)
        finally:
            reading.close()
        return b"".join(parts)


class Reading:
    """A file in an archive that is being read."""

    def __init__(self, streams: Streams, stream: Stream, member: Member, offset: int) -> None:
        self._streams = streams
        self._stream = stream
        self._left = max(member.size - offset, 0)

    def read(self, size: int) -> bytes:
        """The next bytes of the file, at most ``size`` of them; none at its end.

        Raises:
            InvalidImageError: The archive is cut off.
        """
        wanted = min(size, self._left)
        data = self._stream.read(wanted) if wanted else b""
        if wanted and not data:
            raise InvalidImageError("it is cut off")
        self._left -= len(data)
        return data

    def close(self) -> None:
        """End; the archive may go on from here."""
        self._streams.give_back(self._stream)
