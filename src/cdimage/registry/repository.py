"""One repository of a registry, as a source of images.

Protocol: distribution-spec v1.1.0, "Pull".
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from cdimage.descriptor import Descriptor, Digest, MediaType
from cdimage.errors import BackendError, CdimageError, DigestMismatchError, UnavailableError
from cdimage.image import DOCUMENT_LIMIT, media_type_of, parse_json
from cdimage.reference import Reference
from cdimage.registry.auth import Authenticator
from cdimage.registry.challenge import parse_challenges
from cdimage.registry.client import error_of, read_bounded, translated

if TYPE_CHECKING:
    import aiohttp

    from cdimage.registry.client import Registry

_ACCEPT: Final = ", ".join([*sorted(MediaType.INDEXES | MediaType.MANIFESTS), "*/*;q=0.1"])
_ERROR_LIMIT: Final = 64 << 10
_DETAIL_LIMIT: Final = 200
_RANGE: Final = re.compile(r"bytes (\d+)-")
_DOCUMENTS: Final = MediaType.INDEXES | MediaType.MANIFESTS


class Repository:
    """A `cdimage.store.Source`."""

    def __init__(
        self, registry: Registry, reference: Reference, base: str, *, insecure: bool
    ) -> None:
        self._registry = registry
        self._base = base
        self._name = reference.name
        self._auth = Authenticator(
            registry, reference.registry, reference.repository, insecure=insecure
        )

    @property
    def name(self) -> str:
        """As ``ghcr.io/org/app``."""
        return self._name

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find a manifest or an index: by digest, else by tag, else by the tag ``latest``.

        Its bytes are hashed; what the registry's headers say of its digest is not trusted.

        Raises:
            NotFoundError: There is no such image.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The registry cannot be reached or is busy.
            DigestMismatchError: It sent other bytes than the digest names.
            BackendError: It sent more than a manifest may have, or nonsense.
        """
        wanted = str(reference.digest or reference.tag or "latest")
        what = f"{self._name}{'@' if reference.digest else ':'}{wanted}"
        url = f"{self._base}/manifests/{wanted}"
        async with self._get(url, what, {"Accept": _ACCEPT}) as response:
            data = await read_bounded(response, DOCUMENT_LIMIT)
            media_type = media_type_of(response.headers.get("Content-Type", ""))
        algorithm = reference.digest.algorithm if reference.digest else "sha256"
        digest = Digest.of(data, algorithm)
        if reference.digest not in {None, digest}:
            raise DigestMismatchError(
                f"{self._name} sent a manifest with the digest {digest} for {reference.digest}",
                expected=str(reference.digest),
                actual=str(digest),
            )
        if media_type not in _DOCUMENTS:
            media_type = _stated_type(data, media_type)
        return Descriptor(media_type, digest, len(data), data=data)

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob from ``offset`` to its end.

        A foreign layer is read from its own URLs, which see no credentials.

        Raises:
            NotFoundError: There is no such blob.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The connection broke; the same call may succeed from a later offset.
        """
        if descriptor.data is not None:
            yield _chunks_of(descriptor.data[offset:])
            return
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        what = f"{self._name}@{descriptor.digest}"
        if MediaType.is_foreign(descriptor.media_type) and descriptor.urls:
            opened = self._get_foreign(descriptor.urls, what, headers)
        else:
            is_document = descriptor.media_type in _DOCUMENTS
            kind = "manifests" if is_document else "blobs"
            accept = {"Accept": descriptor.media_type} if is_document else {}
            opened = self._get(
                f"{self._base}/{kind}/{descriptor.digest}", what, {**headers, **accept}
            )
        async with opened as response:
            yield _chunks(response, _skip(response, what, offset))

    @asynccontextmanager
    async def _get(
        self, url: str, what: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET with authentication; a token that is refused is replaced, once."""
        authorization = self._auth.header()
        for attempt in range(2):
            sent = {**headers, "Authorization": authorization} if authorization else {**headers}
            async with self._registry.get(url, sent) as response:
                if response.status != 401 or attempt == 1:
                    await _check(response, what)
                    yield response
                    return
                challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
                refused = authorization
            authorization = await self._auth.answer(challenges, refused)

    @asynccontextmanager
    async def _get_foreign(
        self, urls: tuple[str, ...], what: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        failure: CdimageError = UnavailableError(f"{what} names no place that it can be had from")
        async with AsyncExitStack() as stack:
            for url in urls:
                if not url.startswith(("https://", "http://")):
                    continue
                try:
                    response = await stack.enter_async_context(self._registry.get(url, headers))
                    await _check(response, what)
                    break
                except CdimageError as error:
                    failure = error
            else:
                raise failure
            yield response


async def _check(response: aiohttp.ClientResponse, what: str) -> None:
    if response.status in {200, 206}:
        return
    body = await read_bounded(response, _ERROR_LIMIT)
    raise error_of(response.status, what, _detail(body))


def _detail(body: bytes) -> str:
    """What the registry says of an error (distribution-spec v1.1.0, "Error Codes")."""
    try:
        errors = json.loads(body)["errors"]
        text = "; ".join(f"{error['code']}: {error.get('message', '')}" for error in errors)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    printable = "".join(character for character in text if character.isprintable())
    return printable[:_DETAIL_LIMIT]


def _skip(response: aiohttp.ClientResponse, what: str, offset: int) -> int:
    """How many bytes of the answer lie before the offset: a server may ignore the range."""
    if response.status == 200 or not offset:
        return offset
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        raise BackendError(f"the answer for {what} begins at another byte than was asked for")
    return 0


async def _chunks(response: aiohttp.ClientResponse, skip: int) -> AsyncIterator[bytes]:
    with translated(str(response.url)):
        async for chunk in response.content.iter_any():
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:] if skip else chunk
            skip = 0


async def _chunks_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _stated_type(data: bytes, announced: str) -> str:
    """The type of a document whose Content-Type does not tell it."""
    value: dict[str, Any] = parse_json(data, "manifest")
    stated = value.get("mediaType")
    if isinstance(stated, str) and stated:
        return media_type_of(stated)
    if value.get("schemaVersion") == 1 or "fsLayers" in value:
        return MediaType.DOCKER_MANIFEST
    if "manifests" in value:
        return MediaType.OCI_INDEX
    return MediaType.OCI_MANIFEST if "config" in value else announced
