"""Where a registry's images are asked for: its own API, and its mirrors."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from cdimage.errors import BackendError, UnavailableError
from cdimage.registry.hosts import Host, find_hosts, own_url

_PROBE_SECONDS: Final = 5.0
_LEGAL: Final = "%/:?#[]@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """Where requests for a registry go: its own API, or a mirror's.

    Attributes:
        registry: As references name it.
        host: The place.
    """

    registry: str
    host: Host

    @property
    def netloc(self) -> str:
        """The host with its port: what a message calls it."""
        return urlsplit(self.host.url).netloc

    @property
    def allows_plain(self) -> bool:
        """Whether secrets may go from here to a place that is not HTTPS."""
        return self.host.url.startswith("http:") or is_loopback(self.netloc)

    @property
    def headers(self) -> dict[str, str]:
        """What is sent along with every request to it."""
        return {key.title(): ", ".join(values) for key, values in self.host.headers.items()}

    def url(self, path: str) -> str:
        """The address of a path under ``/v2/``; a proxy is told whose it is."""
        asked_for = f"?ns={quote(self.registry)}" if self.host.is_proxy else ""
        return f"{self.host.url}/{path}{asked_for}"


async def find_endpoints(
    registry: str, folders: Sequence[Path], *, insecure: bool
) -> tuple[Endpoint, ...]:
    """Where a registry's images may be had, in the order in which the places are to be asked.

    Mirrors come from ``hosts.toml`` files; the registry itself is last.

    Args:
        registry: As references name it.
        folders: That hold a folder for each registry.
        insecure: Whether the registry itself is spoken to in plain HTTP.

    Raises:
        InvalidConfigurationError: A file cannot be understood.
        UnavailableError: The registry is on this machine, and does not run.
    """
    hosts = find_hosts(folders, registry) or (Host(own_url(registry)),)
    return tuple([Endpoint(registry, await _settled(host, insecure)) for host in hosts])


async def _settled(host: Host, insecure: bool) -> Host:
    """A host with the scheme that it is spoken to in.

    HTTPS, unless plain HTTP is asked for. A host on this machine's loopback needs no asking: it
    is spoken to in TLS if it understands that, else in plain HTTP, since nobody can listen.
    """
    if host.explicit_scheme and not host.tls_first:
        return host
    if insecure and not host.is_proxy:
        is_plain = True
    elif host.explicit_scheme or is_loopback(urlsplit(host.url).netloc):
        is_plain = not await _understands_tls(host)
    else:
        is_plain = False
    _, separator, rest = host.url.partition("://")
    return replace(host, url=f"{'http' if is_plain else 'https'}{separator}{rest}")


async def _understands_tls(host: Host) -> bool:
    try:
        return await _speaks_tls(urlsplit(host.url).netloc)
    except UnavailableError:
        if host.is_proxy:  # there are others to ask
            return False
        raise


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
