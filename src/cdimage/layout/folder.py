"""The directory of an OCI image layout: where its files are, and its index.

Specification: image-spec v1.1.0, ``image-layout.md``. Beside what it defines there is ``ingest/``,
with what is unfinished.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from cdimage.descriptor import MediaType
from cdimage.digest import Digest
from cdimage.errors import (
    InvalidImageError,
    NotFoundError,
    PermissionDeniedError,
)
from cdimage.image import DOCUMENT_LIMIT, Index, dump_json, parse_json
from cdimage.locks import locked

_VERSION: Final = "1.0.0"
_HALF: Final = ".half"
_CHUNK: Final = 1 << 20
_FOLDERS: Final = ("", "blobs", "blobs/sha256", "blobs/sha512", "ingest")
_SAFE: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_READ: Final = os.O_RDONLY | _SAFE | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Folder:
    """An image layout. Nothing is made before the first write.

    What is read may come from anybody: links are not followed, and what is no plain file is
    refused.

    Attributes:
        path: The directory.
        ingest: Where unfinished blobs and leases are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folders = {part: path / part for part in _FOLDERS}
        self.ingest = self._folders["ingest"]

    def __str__(self) -> str:
        return str(self.path)

    def blob(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self._folders[f"blobs/{digest.algorithm}"] / digest.hex

    async def create(self) -> None:
        """Make what is missing of the layout. Idempotent.

        Raises:
            InvalidImageError: Something else is in its place.
            OSError: It cannot be made.
        """
        missing, marker = self._check_folders(), self.path / "oci-layout"
        is_marked = marker.exists()
        if not is_marked and self._holds_something_else():
            raise self._broken("it has no file oci-layout, and is not empty")
        for path in missing:
            path.mkdir(parents=True, exist_ok=True)
        if not is_marked:
            async with self.lock():
                self.replace(marker, dump_json({"imageLayoutVersion": _VERSION}))

    def check_there(self) -> None:
        """Refuse a layout that does not exist.

        Raises:
            NotFoundError: There is no such directory, or nothing in it.
            InvalidImageError: It is not a layout.
        """
        if not (self.path / "oci-layout").exists():
            if self._holds_something_else():
                raise self._broken("it has no file oci-layout")
            raise NotFoundError(f"there is no image layout {self}: name a directory that is one")
        self._check_folders()

    def lock(self) -> AbstractAsyncContextManager[None]:
        """What whoever changes the index, or collects, must hold; between processes."""
        return locked(self.ingest / "lock")

    def read_index(self) -> list[dict[str, Any]]:
        """The entries of the index; none where there is no layout.

        Raises:
            InvalidImageError: It is not a layout, or a broken one.
        """
        return self.parse_index().json.get("manifests") or []

    def parse_index(self) -> Index:
        """The index; an empty one where there is no layout."""
        self._check_folders()
        try:
            marker = self._read(self.path / "oci-layout", 1 << 16)
        except NotFoundError:
            if self._holds_something_else():
                raise self._broken("it has no file oci-layout") from None
            return _index_of([])
        version = str(parse_json(marker, f"oci-layout in {self}").get("imageLayoutVersion"))
        if not version.startswith("1."):
            raise self._broken(f"its version is {version[:40]!r}, and only 1.0.0 is known")
        try:
            data = self._read(self.path / "index.json", DOCUMENT_LIMIT)
        except NotFoundError:
            return _index_of([])
        try:
            return Index.parse(data, MediaType.OCI_INDEX)
        except InvalidImageError as error:
            raise self._broken(str(error)) from None

    def write_index(self, index: Index, entries: list[dict[str, Any]]) -> None:
        """Replace the entries of the index that is there, atomically; other fields stay.

        The lock must be held.

        Raises:
            InvalidImageError: The index would be larger than can be read again.
        """
        data = dump_json({**index.json, "manifests": entries})
        if len(data) > DOCUMENT_LIMIT:
            raise InvalidImageError(f"{self} holds too many images: untag some, or use another")
        self.replace(self.path / "index.json", data)

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Open a blob; the caller closes it.

        Raises:
            NotFoundError: It is not here.
            InvalidImageError: It is not a plain file.
        """
        self._check_folders()
        try:
            return self._open(self.blob(digest))
        except NotFoundError:
            raise NotFoundError(f"{digest} is not in {self}") from None

    def blob_size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None when it is not here."""
        try:
            found = self.blob(digest).stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def _holds_something_else(self) -> bool:
        """Whether this is a directory for another purpose: not one that is just being made."""
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        return bool(names - {"blobs", "ingest", "lost+found", "oci-layout"})

    def _check_folders(self) -> list[Path]:
        """Refuse a layout that leads out of itself; the directories that it lacks."""
        missing = []
        for part, path in self._folders.items():
            try:
                found = path.stat(follow_symlinks=not part)
            except FileNotFoundError:
                missing.append(path)
                continue
            if stat.S_ISLNK(found.st_mode):
                raise self._broken(f"{part} is a link: a layout has real directories")
            if not stat.S_ISDIR(found.st_mode):
                raise self._broken(f"{part or 'it'} is not a directory")
        return missing

    def _open(self, path: Path) -> BinaryIO:
        try:
            file = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{path} is not there") from None
        except PermissionError:
            raise PermissionDeniedError(f"{path} cannot be read: you may not") from None
        except OSError as error:  # a link, by O_NOFOLLOW
            raise self._broken(f"{path.name} is not a plain file ({error.strerror})") from None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise self._broken(f"{path.name} is not a plain file")
        return os.fdopen(file, "rb")

    def _read(self, path: Path, limit: int) -> bytes:
        with self._open(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise self._broken(f"{path.name} is larger than {limit >> 10} KiB")
        return data

    def replace(self, path: Path, data: bytes) -> None:
        """Write a file that a reader sees whole, before or after; also over a crash.

        The lock must be held.
        """
        half = self.ingest / f"{path.name}-{secrets.token_hex(4)}{_HALF}"
        try:
            with half.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            half.replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                half.unlink()
            raise

    def remove_halves(self) -> None:
        """Remove what those left who were killed while replacing. The lock must be held."""
        for half in self.ingest.glob(f"*{_HALF}"):
            half.unlink(missing_ok=True)

    def _broken(self, why: str) -> InvalidImageError:
        return InvalidImageError(f"{self} cannot be used as an image layout: {why}")


def _index_of(entries: list[dict[str, Any]]) -> Index:
    value = {"schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": entries}
    return Index(dump_json(value), MediaType.OCI_INDEX)


async def chunks_of(file: BinaryIO, offset: int) -> AsyncGenerator[bytes, None]:
    """The bytes of a file from an offset to its end; closes it."""
    with file:
        file.seek(offset)
        while True:
            chunk = await asyncio.to_thread(file.read, _CHUNK)
            yield chunk
            if len(chunk) < _CHUNK:
                return
