"""One repository of a registry, as a source of images.

Protocol: distribution-spec v1.1.0, "Pull".
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import (
    BackendError,
    DigestMismatchError,
    InvalidReferenceError,
    PermissionDeniedError,
)
from cdimage.image import DOCUMENT_LIMIT, media_type_of, parse_json
from cdimage.reference import Reference
from cdimage.registry.auth import Authenticator, Tokens
from cdimage.registry.broken import translated
from cdimage.registry.challenge import parse_challenges
from cdimage.registry.credentials import Credentials
from cdimage.registry.endpoint import Endpoint, origin, wire_url
from cdimage.registry.failure import Failures, checked, read_bounded
from cdimage.registry.hosts import Capability
from cdimage.registry.http import Request

if TYPE_CHECKING:
    import aiohttp

    from cdimage.registry.client import Registry

    _Ask = Callable[[Mapping[str, str]], Awaitable[aiohttp.ClientResponse]]

_DOCUMENTS: Final = MediaType.INDEXES | MediaType.MANIFESTS
_ACCEPT: Final = ", ".join([*sorted(_DOCUMENTS), "*/*;q=0.1"])
_RANGE: Final = re.compile(r"bytes (\d{1,19})-")


class Repository:
    """A `cdimage.store.Source`: one name, at a registry and at its mirrors.

    The places are asked in their order until one has what is wanted.
    """

    def __init__(
        self,
        registry: Registry,
        tokens: Tokens,
        reference: Reference,
        credentials: Credentials | None,
    ) -> None:
        self._registry = registry
        self._tokens = tokens
        self._reference = reference
        self._credentials = credentials
        self._authenticators: dict[Endpoint, Authenticator] = {}

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
        capability = Capability.PULL if reference.digest else Capability.RESOLVE
        failures = Failures()
        for endpoint in await self._endpoints(capability, is_question=True):
            with failures.noting():
                return await self._resolve_at(endpoint, reference.digest, wanted, what)
        raise failures.most_telling()

    async def _resolve_at(
        self, endpoint: Endpoint, digest: Digest | None, wanted: str, what: str
    ) -> Descriptor:
        headers = {"Accept": _ACCEPT}
        async with await self._get(endpoint, f"manifests/{wanted}", what, headers) as response:
            data = await read_bounded(response, DOCUMENT_LIMIT, what)
            found = response.headers
        _check_digest(digest or _announced_digest(found), data, what)
        media_type = _media_type(found.get("Content-Type", ""), data, what)
        # With the bytes, so that reading it costs no second request.
        return Descriptor(media_type, digest or Digest.of(data), len(data), data=data)

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
        response, skip = await self._open(descriptor, offset, what)
        async with response, aclosing(_chunks(response, skip, what)) as chunks:
            yield chunks

    async def _open(
        self, descriptor: Descriptor, offset: int, what: str
    ) -> tuple[aiohttp.ClientResponse, int]:
        """The first good answer, and how many of its bytes lie before the offset."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        kind = "blobs"
        if descriptor.media_type in _DOCUMENTS:
            kind, headers["Accept"] = "manifests", descriptor.media_type
        failures = Failures()
        for ask in await self._places(descriptor, kind, what):
            with failures.noting():
                response = await ask(headers)
                if offset and _is_other_range(response, offset):
                    # It counts in its own way: from the beginning, then.
                    response.close()
                    whole = {key: headers[key] for key in headers if key != "Range"}
                    response = await ask(whole)
                return await _begun(response, offset, what)
        raise failures.most_telling()

    async def _places(self, descriptor: Descriptor, kind: str, what: str) -> list[_Ask]:
        """Ways to ask for a blob, the first to be tried first."""
        endpoints = await self._endpoints(Capability.PULL)
        path = f"{kind}/{descriptor.digest}"
        places: list[_Ask] = [partial(self._ask, endpoint, path, what) for endpoint in endpoints]
        if MediaType.is_foreign(descriptor.media_type) and endpoints:
            urls = filter(None, map(wire_url, descriptor.urls))
            own = [partial(self._ask_elsewhere, endpoints[-1], url, what) for url in urls]
            places = [*own, *places]
        return places

    async def _ask_elsewhere(
        self, endpoint: Endpoint, url: str, what: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """GET what an image says is to be had from an address of its own."""
        return await self._registry.connections.get(Request(url, what, headers, endpoint))

    async def _endpoints(
        self, capability: Capability, *, is_question: bool = False
    ) -> list[Endpoint]:
        """Who can be asked; with the caller's own credentials, only the registry may answer."""
        own_only = is_question and self._credentials is not None
        return [
            endpoint
            for endpoint in await self._registry.endpoints(self._reference.registry)
            if capability in endpoint.host.capabilities
            and not (own_only and endpoint.host.is_proxy)
        ]

    async def _get(
        self, endpoint: Endpoint, path: str, what: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        return await checked(await self._ask(endpoint, path, what, headers), what)

    async def request(
        self,
        method: str,
        path: str,
        what: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """Ask the registry itself, and none of its mirrors; any answer is returned.

        Args:
            method: Of HTTP. The redirects of GET and HEAD are followed.
            path: Under the repository's own; or a whole address, as the registry gave it.
            what: Is asked for, in messages.
            headers: Beside those of authentication.
            body: To send.

        Raises:
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The registry cannot be reached.
        """
        own = [it for it in await self._endpoints(Capability.PULL) if not it.host.is_proxy]
        if not own:
            raise PermissionDeniedError(
                f"{what}: the hosts.toml of {self._reference.registry} leaves only mirrors to ask"
            )
        url = path if "://" in path else own[-1].url(f"{self._reference.repository}/{path}")
        return await self._send(method, own[-1], url, what, headers or {}, body)

    async def _ask(
        self, endpoint: Endpoint, path: str, what: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        url = endpoint.url(f"{self._reference.repository}/{path}")
        return await self._send("GET", endpoint, url, what, headers, None)

    async def _send(
        self,
        method: str,
        endpoint: Endpoint,
        url: str,
        what: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        """Send with authentication; credentials that are refused are replaced, once."""
        connections = self._registry.connections

        async def send(authorization: str | None) -> aiohttp.ClientResponse:
            request = Request(url, what, _with(headers, authorization), endpoint)
            if method in {"GET", "HEAD"}:
                return await connections.get(request, method)
            return await connections.send(method, request, body)

        # Where a redirect, or an address of the registry's, leads, nobody may see its credentials.
        if origin(url) != origin(endpoint.url("")):
            return await send(None)
        auth = self._authenticator(endpoint)
        headers = {**endpoint.headers, **headers}
        sent = await auth.header()
        response = await send(sent)
        if response.status == 401 and origin(str(response.url)) == origin(url):
            response.release()
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            response = await send(await auth.answer(challenges, sent))
        return response

    def _authenticator(self, endpoint: Endpoint) -> Authenticator:
        if endpoint not in self._authenticators:
            self._authenticators[endpoint] = Authenticator(
                self._tokens, self._reference, endpoint, self._credentials
            )
        return self._authenticators[endpoint]


def _is_other_range(response: aiohttp.ClientResponse, offset: int) -> bool:
    return response.status == 206 and _first_byte(response) != offset


def _first_byte(response: aiohttp.ClientResponse) -> int | None:
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


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


def _media_type(content_type: str, data: bytes, what: str) -> str:
    """The type of a document: as announced, else as it says itself, else by its fields."""
    announced = media_type_of(content_type)
    if announced in _DOCUMENTS:
        return announced
    value = parse_json(data, f"answer for {what}")
    stated = value.get("mediaType")
    if isinstance(stated, str) and stated:
        return media_type_of(stated)
    if value.get("schemaVersion") == 1 or "fsLayers" in value:
        return MediaType.DOCKER_MANIFEST  # Docker's schema 1, which the reader explains
    if "manifests" in value:
        return MediaType.OCI_INDEX
    return MediaType.OCI_MANIFEST if "config" in value else announced


async def _begun(
    response: aiohttp.ClientResponse, offset: int, what: str
) -> tuple[aiohttp.ClientResponse, int]:
    """A good answer, and how many of its bytes lie before the offset.

    A server may ignore the range, and begin at 0. One that has no byte at the offset has none
    to give: the reader sees that the blob is too short.
    """
    if offset and response.status == 416:
        return response, sys.maxsize
    response = await checked(response, what)
    if response.status == 200:
        return response, offset
    if _first_byte(response) != offset:
        response.close()
        raise BackendError(
            f"{what} cannot be read: the answer begins at another byte than {offset}; try again"
        )
    return response, 0


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
