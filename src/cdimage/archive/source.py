"""An archive file as a source of images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cdimage.archive.docker import DockerImages, full_name
from cdimage.archive.files import Files
from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import (
    InvalidImageError,
    NotFoundError,
    PermissionDeniedError,
)
from cdimage.image import Index, parse_json
from cdimage.named import check_document, choose_named
from cdimage.reference import Reference
from cdimage.threads import to_end

_NAMES: Final = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_SHOWN: Final = 10
_CHUNK: Final = 1 << 20


def open_archive(reference: Reference) -> ArchiveSource:
    """The archive that a reference of ``docker-archive`` or ``oci-archive`` names.

    Nothing is opened before the first question.
    """
    is_docker = reference.transport == "docker-archive"
    return ArchiveSource(Path(reference.repository), is_docker=is_docker)


class ArchiveSource:
    """A `cdimage.store.Source` over a tar of an image layout, or of ``docker save``.

    The tar may be compressed with gzip or zstd. It may come from anybody: nothing of it is written
    anywhere, and memory is bounded whatever it claims. Used within one event loop.

    Args:
        path: Of the file.
        is_docker: Whether it is Docker's; one that is an image layout as well is read as that.
    """

    def __init__(self, path: Path, *, is_docker: bool) -> None:
        self._path = path
        self._is_docker = is_docker
        self._opening = asyncio.Lock()
        self._files: Files | None = None
        self._docker: DockerImages | None = None

    @property
    def name(self) -> str:
        """As ``oci-archive:image.tar``."""
        return f"{'docker' if self._is_docker else 'oci'}-archive:{self._path}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file. Idempotent."""
        files, self._files = self._files, None
        if files is not None:
            files.close()

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find a manifest or an index: by digest, by name, or the only one that there is.

        The manifest of an image in Docker's old form is made here: of its family, compact, and
        always the same for the same image.

        Raises:
            NotFoundError: There is no such file, or no such image in it.
            PermissionDeniedError: The file may not be read.
            InvalidReferenceError: There are several images, and none is named.
            InvalidImageError: It is broken, or is not an archive of images.
            DigestMismatchError: It holds other bytes under the digest.
        """
        files = await self._opened()
        return await to_end(partial(self._find, files, reference))

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob from ``offset`` to its end; the caller hashes it.

        Raises:
            NotFoundError: It is not in the archive.
            InvalidImageError: It is of another size than its descriptor says.
        """
        files = await self._opened()
        async with aclosing(self._chunks(files, descriptor, offset)) as chunks:
            yield chunks

    async def _chunks(
        self, files: Files, descriptor: Descriptor, offset: int
    ) -> AsyncGenerator[bytes, None]:
        with self._translated():
            known = self._docker.blobs.get(descriptor.digest) if self._docker else None
            if isinstance(known, bytes):
                yield known[offset:]
                return
            member = known or files.blob(descriptor.digest)
            if member is None:
                raise NotFoundError(f"{descriptor.digest} is not in {self.name}")
            if member.size != descriptor.size:
                raise InvalidImageError(
                    f"{descriptor.digest} has {member.size} bytes in it, "
                    f"and not the {descriptor.size} that the image says"
                )
            reading = await to_end(partial(files.open, member, offset))
        try:
            while True:
                with self._translated():
                    chunk = await to_end(partial(reading.read, _CHUNK))
                if not chunk:
                    return
                yield chunk
        finally:
            reading.close()

    async def _opened(self) -> Files:
        async with self._opening:
            if self._files is None:
                with self._translated():
                    self._files = await to_end(partial(Files, self._path))
            return self._files

    def _find(self, files: Files, reference: Reference) -> Descriptor:
        with self._translated():
            if "index.json" in files and "oci-layout" in files:
                return self._find_in_layout(files, reference)
            if self._is_docker and "manifest.json" in files:
                self._docker = self._docker or DockerImages(files)
                return self._docker.find(reference, self.name)
            if "manifest.json" in files:
                raise InvalidImageError(f"it is of docker save: write docker-archive:{self._path}")
            raise InvalidImageError("it has neither an index.json nor a manifest.json")

    def _find_in_layout(self, files: Files, reference: Reference) -> Descriptor:
        version = parse_json(files.read("oci-layout"), "oci-layout").get("imageLayoutVersion")
        if not str(version).startswith("1."):
            raise InvalidImageError(f"its layout has the version {str(version)[:40]!r}")
        if reference.digest is not None:
            return self._document(files, reference.digest, "")
        index = Index.parse(files.read("index.json"), MediaType.OCI_INDEX)
        normal = full_name if self._is_docker else str
        found = choose_named(index, reference.tag, self.name, normal)
        return self._document(files, found.digest, found.media_type)

    def _document(self, files: Files, digest: Digest, media_type: str) -> Descriptor:
        data = files.read_blob(digest)
        if data is None:
            raise NotFoundError(f"{digest} is not in {self.name}")
        return check_document(data, digest, self.name, media_type)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Say which file it is that is broken, missing or not to be read."""
        try:
            yield
        except InvalidImageError as error:
            if self.name in str(error):
                raise
            raise InvalidImageError(f"{self.name} cannot be used: {error}") from None
        except FileNotFoundError:
            raise NotFoundError(f"there is no file {self._path}: check the name") from None
        except IsADirectoryError:
            raise InvalidImageError(
                f"{self._path} is a directory: if it is an image layout, write oci:{self._path}"
            ) from None
        except PermissionError:
            raise PermissionDeniedError(f"{self._path} cannot be read: you may not") from None
