"""One repository of a registry, as a source of images.

Protocol: distribution-spec v1.1.0, "Pull".
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

from cdimage.descriptor import Descriptor, Digest, MediaType
from cdimage.errors import (
    BackendError,
    CdimageError,
    DigestMismatchError,
    InvalidReferenceError,
    NotFoundError,
)
from cdimage.image import DOCUMENT_LIMIT, media_type_of, parse_json
from cdimage.reference import Reference
from cdimage.registry.auth import Authenticator
from cdimage.registry.challenge import parse_challenges
from cdimage.registry.endpoint import origin, wire_url
from cdimage.registry.failure import checked, read_bounded, translated

if TYPE_CHECKING:
    import aiohttp

    from cdimage.registry.client import Registry

_DOCUMENTS: Final = MediaType.INDEXES | MediaType.MANIFESTS
_ACCEPT: Final = ", ".join([*sorted(_DOCUMENTS), "*/*;q=0.1"])
_RANGE: Final = re.compile(r"bytes (\d{1,19})-")


class Repository:
    """A `cdimage.store.Source`."""

    def __init__(self, registry: Registry, reference: Reference, auth: Authenticator) -> None:
        self._registry = registry
        self._reference = reference
        self._auth = auth

    @property
    def name(self) -> str:
        """As ``ghcr.io/org/app``."""
        return self._reference.name

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find a manifest or an index: by digest, else by tag, else by the tag ``latest``.

        Its bytes are hashed here.

        Raises:
            InvalidReferenceError: The reference is of another repository.
            NotFoundError: There is no such image.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The registry cannot be reached or is busy.
            DigestMismatchError: It sent other bytes than the digest, or it itself, says.
            BackendError: It sent more than a manifest may have, or what is not HTTP.
            InvalidImageError: It does not say what it sent, and that is not JSON.
        """
        if reference.name != self.name:
            raise InvalidReferenceError(f"{reference} is not in the repository {self.name}")
        wanted = str(reference.digest or reference.tag or "latest")
        what = f"{self.name}{'@' if reference.digest else ':'}{wanted}"
        async with await self._get(f"manifests/{wanted}", what, {"Accept": _ACCEPT}) as response:
            data = await read_bounded(response, DOCUMENT_LIMIT, what)
            headers = response.headers
        expected = reference.digest or _announced_digest(headers)
        _check_digest(expected, data, what)
        digest = reference.digest or Digest.of(data)
        media_type = _media_type(headers.get("Content-Type", ""), data)
        # With the bytes, so that reading it costs no second request.
        return Descriptor(media_type, digest, len(data), data=data)

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob from ``offset`` (bytes) to its end, in chunks of any length.

        A foreign layer is read from its own addresses, which see no credentials.

        Raises:
            NotFoundError: There is no such blob.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The connection broke; the same call may succeed from a later offset.
            BackendError: The registry sent another range than was asked for.
        """
        if descriptor.data is not None:
            yield _chunk(descriptor.data[offset:])
            return
        what = f"{self.name}@{descriptor.digest}"
        async with await self._open(descriptor, offset, what) as response:
            skip = _skip(response, offset, what)
            async with aclosing(_chunks(response, skip, what)) as chunks:
                yield chunks

    async def _open(self, descriptor: Descriptor, offset: int, what: str) -> aiohttp.ClientResponse:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if MediaType.is_foreign(descriptor.media_type) and descriptor.urls:
            return await self._get_foreign(descriptor.urls, what, headers)
        if descriptor.media_type in _DOCUMENTS:
            headers["Accept"] = descriptor.media_type
            return await self._get(f"manifests/{descriptor.digest}", what, headers)
        return await self._get(f"blobs/{descriptor.digest}", what, headers)

    async def _get(
        self, path: str, what: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """GET with authentication; credentials that are refused are replaced, once."""
        endpoint = await self._registry.endpoint(self._reference.registry)
        url = endpoint.url(f"{self._reference.repository}/{path}")
        sent = self._auth.header()
        response = await self._registry.get(url, _with(headers, sent), what)
        # Where a redirect led, nobody may ask for this registry's credentials.
        if response.status == 401 and origin(str(response.url)) == origin(url):
            response.release()
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            sent = await self._auth.answer(challenges, endpoint, sent)
            response = await self._registry.get(url, _with(headers, sent), what)
        return await checked(response, what)

    async def _get_foreign(
        self, urls: tuple[str, ...], what: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """GET from the first address that has it."""
        failure: CdimageError = NotFoundError(
            f"{what} is a foreign layer without an address of HTTP that it can be had from"
        )
        for url in filter(None, map(wire_url, urls)):
            try:
                return await checked(await self._registry.get(url, headers, what), what)
            except CdimageError as error:
                failure = error
        raise failure


def _with(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)


def _announced_digest(headers: Mapping[str, str]) -> Digest | None:
    """What the registry itself calls the bytes; None when that is not a digest."""
    try:
        return Digest.parse(headers.get("Docker-Content-Digest", ""))
    except InvalidReferenceError:
        return None


def _check_digest(expected: Digest | None, data: bytes, what: str) -> None:
    if expected is None or expected.matches(data):
        return
    actual = Digest.of(data, expected.algorithm)
    raise DigestMismatchError(
        f"what came for {what} has the digest {actual}, not {expected}",
        expected=str(expected),
        actual=str(actual),
    )


def _media_type(content_type: str, data: bytes) -> str:
    """The type of a document: as announced, else as it says itself, else by its fields."""
    announced = media_type_of(content_type)
    if announced in _DOCUMENTS:
        return announced
    value = parse_json(data, "manifest")
    stated = value.get("mediaType")
    if isinstance(stated, str) and stated:
        return media_type_of(stated)
    if value.get("schemaVersion") == 1 or "fsLayers" in value:
        return MediaType.DOCKER_MANIFEST  # Docker's schema 1, which the reader explains
    if "manifests" in value:
        return MediaType.OCI_INDEX
    return MediaType.OCI_MANIFEST if "config" in value else announced


def _skip(response: aiohttp.ClientResponse, offset: int, what: str) -> int:
    """How many bytes of the answer lie before the offset: a server may ignore the range."""
    if response.status == 200:
        return offset
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        raise BackendError(
            f"{what} cannot be read: the answer begins at another byte than {offset}"
        )
    return 0


async def _chunks(
    response: aiohttp.ClientResponse, skip: int, what: str
) -> AsyncGenerator[bytes, None]:
    while True:
        # The caller's own exceptions must not pass through the translation.
        with translated(str(response.url), what):
            chunk = await response.content.readany()
        if not chunk:
            return
        if skip < len(chunk):
            yield chunk[skip:] if skip else chunk
        skip = max(skip - len(chunk), 0)


async def _chunk(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data
