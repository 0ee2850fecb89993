"""The blobs of an image layout, and how they are written and continued."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import DigestMismatchError, UnavailableError
from cdimage.layout.folder import Folder
from cdimage.locks import open_locked
from cdimage.threads import to_end
from cdimage.verify import check_size, size_mismatch

_PIECE: Final = 1 << 20


class LayoutContent:
    """A `cdimage.store.ContentStore` in a directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the whole blob is there."""
        return self._folder.blob_size(descriptor.digest) == descriptor.size

    @asynccontextmanager
    async def writer(self, descriptor: Descriptor) -> AsyncIterator[LayoutWriter | None]:
        """Begin, or continue, to write a blob; None when it is there already.

        Waits while another process has the blob open. Left without a commit, the bytes stay,
        and the next writer continues from them.
        """
        if await self.exists(descriptor):
            yield None
            return
        writer = LayoutWriter(self._folder, descriptor)
        await writer.open()
        try:
            yield None if await self.exists(descriptor) else writer
        finally:
            writer.leave()


class LayoutWriter:
    """An unfinished blob in ``ingest/``; a `cdimage.store.Writer`. Its file is locked."""

    def __init__(self, folder: Folder, descriptor: Descriptor) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self._path = ingest_path(folder, descriptor.digest)
        self._file = -1
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._unwritten: list[bytes] = []
        self._offset = 0
        self._written = 0

    @property
    def offset(self) -> int:
        """How many bytes were taken."""
        return self._offset

    async def open(self) -> None:
        """Take the lock, and hash what an earlier writer has left."""
        self._file = await open_locked(self._path)
        try:
            left = os.fstat(self._file).st_size
            if left > self._descriptor.size:
                os.ftruncate(self._file, 0)
                left = 0
            while left and await to_end(self._hash_some):
                pass
            self._offset = self._written
        except BaseException:
            self.leave()
            raise

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            DigestMismatchError: These are more bytes than the descriptor's size.
            OSError: The disk is full.
        """
        check_size(self._descriptor, self._offset + len(data))
        self._unwritten.append(data)
        self._offset += len(data)
        if self._offset - self._written >= _PIECE:
            await to_end(self._flush)

    async def restart(self) -> None:
        """Throw away what is there and begin at offset 0."""
        os.ftruncate(self._file, 0)
        self._hash = hashlib.new(self._descriptor.digest.algorithm)
        self._unwritten, self._offset, self._written = [], 0, 0

    async def commit(self, labels: Mapping[str, str] | None = None) -> None:  # noqa: ARG002
        """Check size and digest, and make the blob visible, atomically and for good.

        Raises:
            DigestMismatchError: The bytes are others; they are thrown away.
        """
        if self._offset != self._descriptor.size:
            offset = self._offset
            await self.restart()
            raise size_mismatch(self._descriptor, offset)
        await to_end(self._sync)
        digest = self._descriptor.digest
        actual = Digest(digest.algorithm, self._hash.hexdigest())
        if actual != digest:
            await self.restart()
            raise DigestMismatchError(
                f"the bytes that came for {digest} have the digest {actual}",
                expected=str(digest),
                actual=str(actual),
            )
        self._publish()

    def leave(self) -> None:
        """Let go of the file; what was written and not committed stays."""
        file, self._file = self._file, -1
        if file == -1:
            return
        try:
            if self._unwritten:
                self._write_out(file)
            if os.fstat(file).st_size == 0:
                self._path.unlink(missing_ok=True)
        except OSError:
            pass  # the disk is full: what is there is continued
        finally:
            os.close(file)

    def _publish(self) -> None:
        file = self._file
        if os.name == "nt":  # an open file cannot be renamed there
            os.close(file)
            self._file = file = -1
        digest = self._descriptor.digest
        try:
            self._path.replace(self._folder.blob(digest))
        except FileNotFoundError:
            if self._folder.blob_size(digest) is None:
                raise UnavailableError(
                    f"{self._path} was removed while it was written: try again"
                ) from None
        if file != -1:
            os.close(file)
            self._file = -1

    def _flush(self) -> None:
        self._write_out(self._file)

    def _sync(self) -> None:
        self._flush()
        os.fsync(self._file)

    def _write_out(self, file: int) -> None:
        data = b"".join(self._unwritten)
        os.lseek(file, self._written, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        self._hash.update(data)
        self._written += len(data)
        self._unwritten = []

    def _hash_some(self) -> int:
        """Hash the next of the bytes that were there; how many they are."""
        os.lseek(self._file, self._written, os.SEEK_SET)
        chunk = os.read(self._file, 8 * _PIECE)
        self._hash.update(chunk)
        self._written += len(chunk)
        return len(chunk)


def ingest_path(folder: Folder, digest: Digest) -> Path:
    """Where an unfinished blob is."""
    return folder.ingest / f"{digest.algorithm}-{digest.hex}"
