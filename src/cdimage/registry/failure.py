"""What goes wrong with a registry, as errors of ours. Everything is translated here.

Specification: distribution-spec v1.1.0, "Error Codes".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from cdimage.errors import (
    BackendError,
    CdimageError,
    InvalidReferenceError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cdimage.registry.endpoint import shown_host

if TYPE_CHECKING:
    import aiohttp

_BODY_LIMIT: Final = 64 << 10
_DETAIL_LIMIT: Final = 200
_QUERY: Final = re.compile(r"\?[^\s\"'<>]+")
_AGAIN: Final = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})

_BY_CODE: Final[dict[str, type[CdimageError]]] = {
    "BLOB_UNKNOWN": NotFoundError,
    "DENIED": PermissionDeniedError,
    "MANIFEST_BLOB_UNKNOWN": NotFoundError,
    "MANIFEST_UNKNOWN": NotFoundError,
    "NAME_INVALID": InvalidReferenceError,
    "NAME_UNKNOWN": NotFoundError,
    "TAG_INVALID": InvalidReferenceError,
    "TOOMANYREQUESTS": UnavailableError,
    "UNAUTHORIZED": PermissionDeniedError,
    "UNAVAILABLE": UnavailableError,
}
_SENTENCES: Final[dict[type[CdimageError], str]] = {
    BackendError: "{what} cannot be read: {host} answered with status {status}{detail}",
    InvalidReferenceError: "{what} is a name that {host} does not take{detail}: correct it",
    NotFoundError: "{what} is not there, says {host}{detail}: check the name",
    PermissionDeniedError: (
        "{what} cannot be read: {host} refuses access{detail}; "
        "it may be private or not exist: check the name, and log in to the registry"
    ),
    UnavailableError: (
        "{what} cannot be read now: {host} answered with status {status}{detail}; try again later"
    ),
}


def kind_of(status: int, codes: Sequence[str] = ()) -> type[CdimageError]:
    """The class for an answer that is not success; a busy server is that, whatever it says."""
    if status in _AGAIN:
        return UnavailableError
    if status == 401:
        return PermissionDeniedError
    if 400 <= status < 500:
        for code in codes:
            if code in _BY_CODE:
                return _BY_CODE[code]
    return {403: PermissionDeniedError, 404: NotFoundError}.get(status, BackendError)


def error_of(status: int, body: bytes, what: str, host: str) -> CdimageError:
    """The error for an answer that is not success."""
    codes, detail = _said(body)
    kind = kind_of(status, codes)
    said = f" ({detail})" if detail else ""
    return kind(_SENTENCES[kind].format(what=what, host=host, status=status, detail=said))


def _said(body: bytes) -> tuple[list[str], str]:
    """The codes in an error's body, and what a person may be shown of it."""
    try:
        found = json.loads(body)["errors"]
        pairs = [(str(error["code"]), str(error.get("message") or "")) for error in found]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [], ""
    text = "; ".join(f"{code}: {message}" if message else code for code, message in pairs)
    # A registry may quote an address, whose query can hold a signature.
    text = _QUERY.sub("", "".join(filter(str.isprintable, text)))
    return [code for code, _ in pairs], text[:_DETAIL_LIMIT]


async def checked(response: aiohttp.ClientResponse, what: str) -> aiohttp.ClientResponse:
    """The response, if it is success; else it is released.

    Raises:
        CdimageError: What `error_of` says.
    """
    if response.status in {200, 206}:
        return response
    async with response:
        body = b""
        # The status is the news, not why its explanation cannot be read.
        with suppress(UnavailableError, BackendError):
            body = await read_bounded(response, _BODY_LIMIT, what)
        raise error_of(response.status, body, what, shown_host(str(response.url)))


async def read_bounded(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """A small body.

    Raises:
        BackendError: It is larger than ``limit`` bytes.
        UnavailableError: The connection broke.
    """
    parts, size = [], 0
    with translated(str(response.url), what):
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                host = shown_host(str(response.url))
                raise BackendError(
                    f"{what} cannot be read: {host} sent more than {limit >> 10} KiB"
                )
            parts.append(chunk)
    return b"".join(parts)


@contextmanager
def translated(url: str, what: str) -> Iterator[None]:
    """Turn what the HTTP client raises inside into ours. Nothing else may run inside.

    Args:
        url: Who is asked; only its host is shown.
        what: Is asked for.
    """
    import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked
    from aiohttp.http_exceptions import HttpProcessingError  # noqa: PLC0415

    try:
        yield
    except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
        kind, why = _reason(error, shown_host(url))
        raise kind(f"{what} cannot be read: {why}") from None


def _reason(error: Exception, host: str) -> tuple[type[CdimageError], str]:
    import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked

    table: list[tuple[type[Exception], type[CdimageError], str]] = [
        (aiohttp.ClientConnectorCertificateError, PermissionDeniedError,
         "the certificate of {host} is not trusted by this machine; add who signed it"),
        (aiohttp.ClientConnectorSSLError, UnavailableError,
         "{host} does not speak TLS as it should; if it speaks plain HTTP, ask for that"),
        (aiohttp.ClientHttpProxyError, UnavailableError,
         "the proxy does not lead to {host}; check HTTPS_PROXY and NO_PROXY"),
        (TimeoutError, UnavailableError, "{host} did not answer in time; try again later"),
        (aiohttp.ClientConnectorError, UnavailableError,
         "{host} cannot be reached ({system}); check its name and the network, and try again"),
        (aiohttp.ServerDisconnectedError, UnavailableError,
         "{host} closed the connection; try again"),
        (aiohttp.ClientPayloadError, UnavailableError,
         "the connection to {host} broke before the end; try again"),
        (aiohttp.ClientResponseError, BackendError, "what {host} sends is not HTTP"),
        (aiohttp.ClientError, UnavailableError, "the connection to {host} broke; try again"),
        (OSError, UnavailableError, "the connection to {host} broke; try again"),
        (ValueError, BackendError, "{host} is not an address that can be asked; correct it"),
        (Exception, BackendError, "what {host} sends is not HTTP"),
    ]  # fmt: skip
    # Addresses that cannot be asked are both a ClientError and a ValueError.
    if isinstance(error, aiohttp.InvalidURL):
        error = ValueError()
    kind, text = next((kind, text) for cause, kind, text in table if isinstance(error, cause))
    return kind, text.format(host=host, system=_system_reason(error))


def _system_reason(error: Any) -> str:
    number = getattr(getattr(error, "os_error", None), "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return "the name leads nowhere"
