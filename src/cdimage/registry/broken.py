"""What goes wrong on the way to a registry, as errors of ours. Nothing else gets through."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from cdimage.errors import (
    BackendError,
    CdimageError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cdimage.registry.endpoint import shown_host
from cdimage.registry.reach import OutOfReachError

TRY_AGAIN: Final = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
"""Statuses of servers and proxies that may answer otherwise in a while."""


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
        kind, why = _reason(error)
        raise kind(f"{what} cannot be read: {why.format(host=shown_host(url))}") from None


def _reason(error: Exception) -> tuple[type[CdimageError], str]:
    import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked

    if isinstance(error, aiohttp.ClientConnectorError):
        return _not_connected(error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        kind = UnavailableError if error.status in TRY_AGAIN else PermissionDeniedError
        return kind, "the proxy does not lead to {host}; check HTTPS_PROXY and NO_PROXY"
    # Addresses that cannot be asked are both a ClientError and a ValueError.
    if isinstance(error, aiohttp.InvalidURL):
        error = ValueError()
    table: list[tuple[type[Exception], type[CdimageError], str]] = [
        (TimeoutError, UnavailableError, "{host} did not answer in time; try again later"),
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
    return next((kind, text) for cause, kind, text in table if isinstance(error, cause))


def _not_connected(error: Any) -> tuple[type[CdimageError], str]:
    import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked

    cause = error.os_error
    number = getattr(cause, "errno", None)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return PermissionDeniedError, (
            "the certificate of {host} is not trusted by this machine; add who signed it"
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return BackendError, (
            "{host} does not speak TLS as it should; if it speaks plain HTTP, ask for that"
        )
    if isinstance(cause, OutOfReachError):
        return PermissionDeniedError, (
            "the registry leads to {host}, which lies further inside the network than itself"
        )
    if isinstance(cause, socket.gaierror) and number == socket.EAI_NONAME:
        return NotFoundError, "there is no host {host}; check its name and the network"
    system = (
        os.strerror(number).lower()
        if isinstance(number, int) and number > 0
        else ("its name cannot be looked up")
    )
    return UnavailableError, (
        f"{{host}} cannot be reached ({system}); check its name and the network, and try again"
    )
