"""What a registry answers when it is not success, as errors of ours.

Specification: distribution-spec v1.1.0, "Error Codes".
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from cdimage.errors import (
    BackendError,
    CdimageError,
    InvalidReferenceError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cdimage.registry.broken import TRY_AGAIN, translated
from cdimage.registry.endpoint import shown_host

if TYPE_CHECKING:
    import aiohttp

_logger = logging.getLogger(__name__)
_BODY_LIMIT: Final = 64 << 10
_DETAIL_LIMIT: Final = 200
_SECONDS_DIGITS: Final = 9
_QUERY: Final = re.compile(r"\?[^\s\"'<>]+")

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
        "{what} cannot be read now: {host} answered with status {status}{detail}; try again {later}"
    ),
}


def kind_of(status: int, codes: Sequence[str] = ()) -> type[CdimageError]:
    """The class for an answer that is not success; a busy server is that, whatever it says."""
    if status in TRY_AGAIN:
        return UnavailableError
    if status == 401:
        return PermissionDeniedError
    if 400 <= status < 500:
        for code in codes:
            if code in _BY_CODE:
                return _BY_CODE[code]
    return {403: PermissionDeniedError, 404: NotFoundError}.get(status, BackendError)


def error_of(
    status: int, body: bytes, what: str, host: str, retry_after: float | None = None
) -> CdimageError:
    """The error for an answer that is not success.

    Args:
        status: Of HTTP.
        body: As much as was read of it.
        what: Was asked for.
        host: Who was asked.
        retry_after: How many seconds it asked to wait.
    """
    codes, detail = _said(body)
    kind = kind_of(status, codes)
    said = f" ({detail})" if detail else ""
    later = f"in {retry_after:.0f} seconds" if retry_after else "later"
    sentence = _SENTENCES[kind].format(
        what=what, host=host, status=status, detail=said, later=later
    )
    if kind is UnavailableError:
        return UnavailableError(sentence, retry_after=retry_after)
    return kind(sentence)


def retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3).

    Args:
        value: The header; None for none.
        now: Seconds since the epoch.
    """
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:_SECONDS_DIGITS])
    try:
        return max(parsedate_to_datetime(value).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


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


async def checked(
    response: aiohttp.ClientResponse, what: str, success: Collection[int] = (200, 206)
) -> aiohttp.ClientResponse:
    """The response, if it is success; else it is released.

    Raises:
        CdimageError: What `error_of` says.
    """
    if response.status in success:
        return response
    async with response:
        body = b""
        # The status is the news, not why its explanation cannot be read.
        with suppress(UnavailableError, BackendError):
            body = await read_bounded(response, _BODY_LIMIT, what)
        wait = retry_after(response.headers.get("Retry-After"), time.time())
        raise error_of(response.status, body, what, shown_host(str(response.url)), wait)


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


class Failures:
    """What went wrong at each of the places that were asked, mirrors first."""

    def __init__(self) -> None:
        self._errors: list[CdimageError] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keep an error, and go on to the next place."""
        try:
            yield
        except CdimageError as error:
            _logger.debug("%s", error)
            self._errors.append(error)

    def most_telling(self) -> CdimageError:
        """The last one, which is the registry's own; it mentions the first."""
        if not self._errors:
            return PermissionDeniedError(
                "no place that is configured for this registry may be asked this: "
                "correct its hosts.toml"
            )
        *mirrors, last = self._errors
        if mirrors:
            last.args = (f"{last} (and before that, from a mirror: {mirrors[0]})",)
        return last
