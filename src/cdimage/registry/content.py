"""The blobs of a repository, written to: uploads, mounts, and manifests.

Protocol: distribution-spec v1.1.0, "Push".
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urljoin

from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import BackendError, CdimageError, DigestMismatchError
from cdimage.image import Index, Manifest
from cdimage.registry.endpoint import wire_url
from cdimage.registry.failure import checked
from cdimage.registry.repository import Repository
from cdimage.retry import Retry, persistently
from cdimage.verify import check_size, size_mismatch

if TYPE_CHECKING:
    import aiohttp

_CHUNK: Final = 8 << 20
_DOCUMENTS: Final = MediaType.INDEXES | MediaType.MANIFESTS | MediaType.CONFIGS
_BYTES: Final = {"Content-Type": "application/octet-stream"}


class RegistryContent:
    """A `cdimage.store.ContentStore` over a repository of a registry.

    What is as good when it is asked twice is asked again while the registry is busy.

    Args:
        repository: Where to.
        retry: How patient to be.
        mount_from: A repository of the same registry that blobs may be mounted from.
        mountable: Those that it may have.
    """

    def __init__(
        self,
        repository: Repository,
        retry: Retry,
        mount_from: str | None = None,
        mountable: Collection[Digest] = (),
    ) -> None:
        self._repository = repository
        self._retry = retry
        self._mount_from = mount_from
        self._mountable = mountable

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the whole blob is there. A foreign layer need not be: its addresses have it."""
        if MediaType.is_foreign(descriptor.media_type) and descriptor.urls:
            return True
        response = await self._send("HEAD", f"blobs/{descriptor.digest}", (200, 404))
        return response.status == 200

    @asynccontextmanager
    async def writer(self, descriptor: Descriptor) -> AsyncIterator[RegistryWriter | None]:
        """Begin to write a blob; None when it is there already, or was mounted.

        Left without a commit, the upload is cancelled.
        """
        mounted, upload = await self._mount(descriptor)
        # An image's documents are its own and small: to ask for them takes longer than to send.
        is_asked = upload is None and descriptor.media_type not in _DOCUMENTS
        if mounted or (is_asked and await self.exists(descriptor)):
            yield None
            return
        writer = RegistryWriter(self, descriptor, upload)
        try:
            yield writer
        finally:
            with suppress(CdimageError):
                await writer.cancel()

    async def put_manifest(self, document: Index | Manifest, tag: str | None = None) -> None:
        """Write a manifest or an index, whose blobs are there, under its digest or a tag."""
        path = f"manifests/{tag or document.digest}"
        headers = {"Content-Type": document.media_type}
        await self._send("PUT", path, (201,), headers, document.data)

    async def delete_manifest(self, name: str) -> bool:
        """Delete a manifest by its digest, or a tag; whether the registry does such a thing."""
        response = await self._send("DELETE", f"manifests/{name}", (200, 202, 400, 404, 405, 501))
        return response.status in {200, 202, 404}

    async def begin(self) -> str:
        """Begin an upload; its address."""
        return await self._next("POST", "blobs/uploads/", (202,))

    async def append(self, upload: str, offset: int, data: bytes) -> str:
        """Send the next bytes of an upload; its address from now on."""
        headers = {**_BYTES, "Content-Range": f"{offset}-{offset + len(data) - 1}"}
        return await self._next("PATCH", upload, (202, 204), headers, data)

    async def finish(self, upload: str, digest: Digest, rest: bytes) -> None:
        """Send the last bytes of an upload, and have the registry compare its digest.

        Raises:
            DigestMismatchError: The registry counts another.
        """
        joint = "&" if "?" in upload else "?"
        url = f"{upload}{joint}digest={quote(str(digest))}"
        response = await self._send("PUT", url, (201, 204, 400), _BYTES, rest)
        if response.status == 400:
            raise DigestMismatchError(
                f"{self._repository.name} says that the bytes sent are not those of {digest}",
                expected=str(digest),
                actual="another",
            )

    async def cancel(self, upload: str) -> None:
        """Throw away an upload."""
        await self._send("DELETE", upload, range(200, 500))

    async def _mount(self, descriptor: Descriptor) -> tuple[bool, str | None]:
        """Have the registry take a blob from another repository.

        Returns:
            Whether it did; or else the upload that it has begun, if it has.
        """
        if self._mount_from is None or descriptor.digest not in self._mountable:
            return False, None
        digest, source = quote(str(descriptor.digest)), quote(self._mount_from, safe="")
        path = f"blobs/uploads/?mount={digest}&from={source}"
        # Who may not read there, or cannot mount, copies; what then fails says why.
        response = await self._send("POST", path, range(200, 500))
        return response.status == 201, _location(response) if response.status == 202 else None

    async def _next(self, *request: object) -> str:
        return _location(await self._send(*request))  # type: ignore[arg-type]

    async def _send(
        self,
        method: str,
        path: str,
        success: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """The answer, whose body nobody needs."""
        what = self._repository.name

        async def ask() -> aiohttp.ClientResponse:
            response = await self._repository.request(method, path, what, headers, body)
            async with await checked(response, what, success):
                return response

        # The bytes of an upload may have been taken before the connection broke.
        is_upload = method == "PATCH" or (method == "PUT" and "manifests/" not in path)
        with _writing():
            return await (ask() if is_upload else persistently(self._retry, ask))


class RegistryWriter:
    """An upload; a `cdimage.store.Writer`. It begins at 0, and is sent in pieces of 8 MiB."""

    def __init__(
        self, content: RegistryContent, descriptor: Descriptor, upload: str | None
    ) -> None:
        self._content = content
        self._descriptor = descriptor
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._upload = upload
        self._unsent: list[bytes] = []
        self._sent = 0
        self._offset = 0

    @property
    def offset(self) -> int:
        """How many bytes were taken."""
        return self._offset

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            DigestMismatchError: These are more bytes than the descriptor's size.
        """
        check_size(self._descriptor, self._offset + len(data))
        self._hash.update(data)
        self._unsent.append(data)
        self._offset += len(data)
        if self._offset - self._sent >= _CHUNK:
            self._upload = await self._content.append(
                self._upload or await self._content.begin(), self._sent, self._take()
            )
            self._sent = self._offset

    async def restart(self) -> None:
        """Throw away what is there and begin at offset 0."""
        await self.cancel()
        self._hash = hashlib.new(self._descriptor.digest.algorithm)
        self._unsent, self._sent, self._offset = [], 0, 0

    async def commit(self, labels: Mapping[str, str] | None = None) -> None:  # noqa: ARG002
        """Check size and digest, and make the blob visible.

        Raises:
            DigestMismatchError: The bytes are others; they are thrown away.
        """
        digest = self._descriptor.digest
        if self._offset != self._descriptor.size:
            raise size_mismatch(self._descriptor, self._offset)
        actual = Digest(digest.algorithm, self._hash.hexdigest())
        if actual != digest:
            raise DigestMismatchError(
                f"the bytes that came for {digest} have the digest {actual}",
                expected=str(digest),
                actual=str(actual),
            )
        upload = self._upload or await self._content.begin()
        await self._content.finish(upload, digest, self._take())
        self._upload = None

    async def cancel(self) -> None:
        """Throw away the upload, if there is one."""
        upload, self._upload = self._upload, None
        if upload is not None:
            await self._content.cancel(upload)

    def _take(self) -> bytes:
        data = b"".join(self._unsent)
        self._unsent = []
        return data


def _location(response: aiohttp.ClientResponse) -> str:
    """Where an upload goes on."""
    found = wire_url(urljoin(str(response.url), response.headers.get("Location", "")))
    if found is None:
        raise BackendError(f"{response.url.host} takes an upload, but does not say where")
    return found


@contextmanager
def _writing() -> Iterator[None]:
    """Have errors say that something cannot be written, where those of reading say it of that."""
    try:
        yield
    except CdimageError as error:
        error.args = (str(error).replace(" cannot be read", " cannot be written", 1),)
        raise
