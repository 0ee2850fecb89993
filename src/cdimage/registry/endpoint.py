"""Where a registry's API is, and whether it is spoken to in plain HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from cdimage.errors import BackendError, UnavailableError
from cdimage.reference import DEFAULT_REGISTRY

_DEFAULT_API_HOST: Final = "registry-1.docker.io"
_PROBE_SECONDS: Final = 5.0
_LEGAL: Final = "%/:?#[]@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests for a registry go.

    Attributes:
        registry: As references name it.
        host: That speaks its API, with the port.
        is_plain: Whether it is spoken to in plain HTTP.
    """

    registry: str
    host: str
    is_plain: bool

    @property
    def allows_plain(self) -> bool:
        """Whether secrets may go from here to a place that is not HTTPS."""
        return self.is_plain or is_loopback(self.host)

    def url(self, path: str) -> str:
        """The address of a path under ``/v2/``."""
        return f"{'http' if self.is_plain else 'https'}://{self.host}/v2/{path}"


async def find_endpoint(registry: str, *, insecure: bool) -> Endpoint:
    """Work out where a registry is.

    HTTPS, unless plain HTTP is asked for. A registry on this machine's loopback needs no asking:
    it is spoken to in TLS if it understands that, else in plain HTTP, since nobody can listen.

    Raises:
        UnavailableError: It is on this machine, and does not run.
    """
    host = _DEFAULT_API_HOST if registry == DEFAULT_REGISTRY else registry
    is_plain = insecure or (is_loopback(host) and not await _speaks_tls(host))
    return Endpoint(registry, host, is_plain)


async def _speaks_tls(host: str) -> bool:
    """Whether a TLS handshake succeeds; whose certificate it is, the real requests check."""
    try:
        port = urlsplit(f"//{host}").port
    except ValueError:
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host_name(host), port or 443, ssl=context)
    except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError, TimeoutError):
        return False
    except OSError as error:
        if port is None:  # then it may still be at 80
            return False
        raise UnavailableError(
            f"the registry {host} cannot be reached: nothing listens there; start it"
        ) from error
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def is_loopback(host: str) -> bool:
    """Whether a host, perhaps with a port, is this machine itself."""
    name = host_name(host)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def host_name(host: str) -> str:
    """A host without its port and brackets, in lower case."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def shown_host(url: str) -> str:
    """The host of an address, with the port: all of it that a message may show."""
    with suppress(ValueError):
        return urlsplit(url).netloc.rpartition("@")[2]
    return "a host that cannot be named"


def origin(url: str) -> tuple[str, str]:
    """What must be equal for a secret that is meant for one address to go to another."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def wire_url(url: str) -> str | None:
    """An address as it may be asked; None when it is not one of HTTP, or names a user.

    What is quoted stays as it is, because signatures are made over it.
    """
    try:
        parts = urlsplit(quote(url, safe=_LEGAL, errors="surrogateescape"))
        _ = parts.port
    except ValueError:
        return None
    is_http = parts.scheme in {"http", "https"} and bool(parts.hostname)
    return parts.geturl() if is_http and "@" not in parts.netloc else None


def redirected(url: str, location: str) -> str:
    """The address that a redirect leads to.

    Raises:
        BackendError: It is none, or it leads from HTTPS to plain HTTP.
    """
    try:
        target = wire_url(urljoin(url, location))
    except ValueError:
        target = None
    if target is None:
        raise BackendError(f"{shown_host(url)} redirects to a place that is not https, nor http")
    if url.startswith("https:") and not target.startswith("https:"):
        raise BackendError(f"{shown_host(url)} redirects to a place that is not https")
    return target
