"""HTTP, as registries need it: redirects, proxies, certificates, and time-outs."""

from __future__ import annotations

import io
import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdimage.errors import BackendError, PermissionDeniedError
from cdimage.registry.broken import translated
from cdimage.registry.credentials import Credentials, basic_header
from cdimage.registry.endpoint import Endpoint, is_loopback, origin, redirected, shown_host
from cdimage.registry.reach import OutOfReachError, Reach, check_literal, limited, reach_of
from cdimage.registry.trust import ssl_context

if TYPE_CHECKING:
    import aiohttp

_READ_BUFFER: Final = 256 << 10
_REDIRECTS: Final = 10
_REDIRECT_STATUS: Final = frozenset({301, 302, 303, 307, 308})
_USER_AGENT: Final = "cdimage"
_WARNING: Final = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
_WARNING_LIMIT: Final = 300
_WARNINGS_LIMIT: Final = 100

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask for.

    Attributes:
        url: As `cdimage.registry.endpoint.wire_url` gives it.
        what: Is asked for, in messages.
        headers: To send; the secret ones go to the host of ``url`` and to no other.
        endpoint: Of whom it is asked, or who sent us there.
    """

    url: str
    what: str
    headers: Mapping[str, str]
    endpoint: Endpoint

    @property
    def is_elsewhere(self) -> bool:
        """Whether the endpoint sent us to another host."""
        return origin(self.url) != origin(self.endpoint.url(""))


class Connections:
    """The connections to all registries. Used within one event loop.

    Args:
        connect_seconds: How long a connection may take to be made.
        still_seconds: How long a connection may stand still; there is no limit on the whole.
    """

    def __init__(self, connect_seconds: float, still_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._still_seconds = still_seconds
        self._sessions: dict[Reach, aiohttp.ClientSession] = {}
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
        self._reaches: dict[str, Reach] = {}
        self._warnings: set[str] = set()

    async def close(self) -> None:
        """End them. Idempotent."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def get(self, request: Request, method: str = "GET") -> aiohttp.ClientResponse:
        """GET or HEAD, following redirects; the caller closes the response.

        Headers of the request go to its own host and to no other.

        Raises:
            UnavailableError: A host cannot be reached, or stands still.
            PermissionDeniedError: A redirect leads further inside than the endpoint lies.
            BackendError: The redirects have no end, or lead to nowhere.
        """
        first = request
        for _ in range(_REDIRECTS + 1):
            response = await self.send(method, request)
            location = response.headers.get("Location")
            if response.status not in _REDIRECT_STATUS or location is None:
                return response
            response.release()
            url, headers = redirected(request.url, location), request.headers
            if origin(url) != origin(request.url):
                headers = {key: headers[key] for key in headers if key in {"Accept", "Range"}}
            request = Request(url, request.what, headers, request.endpoint)
        raise BackendError(
            f"{first.what} cannot be read: {shown_host(first.url)} redirects in circles"
        )

    async def send(
        self, method: str, request: Request, body: bytes | list[tuple[str, str]] | None = None
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer, whatever it is; the caller closes it.

        Args:
            method: Of HTTP.
            request: Where to, and with which headers.
            body: Bytes, or the fields of a form; None for none.
        """
        import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked
        from yarl import URL  # noqa: PLC0415

        url, endpoint = request.url, request.endpoint
        limit = await self._limit(request)
        with translated(url, request.what):
            proxy, proxy_headers = _proxy(url)
            # With a proxy, it is the proxy's own name that is resolved here.
            session = self._session(Reach.LINK_LOCAL if proxy else limit)
            connect = endpoint.host.dial_timeout or self._connect_seconds
            response = await session.request(
                method,
                URL(url, encoded=True),  # a signature holds for the very bytes
                headers=request.headers,
                data=io.BytesIO(body) if isinstance(body, bytes) else body,
                allow_redirects=False,
                proxy=proxy,
                proxy_headers=proxy_headers,
                ssl=self._trust(request) if url.startswith("https:") else True,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=connect, sock_read=self._still_seconds
                ),
            )
        _logger.debug("%s %s: %d", method, url.partition("?")[0], response.status)
        self._show_warnings(response)
        return response

    async def _limit(self, request: Request) -> Reach:
        """How far inside the request may lead."""
        if not request.is_elsewhere:
            return Reach.LINK_LOCAL
        known = request.endpoint.netloc
        if known not in self._reaches:
            self._reaches[known] = await reach_of(known)
        limit = self._reaches[known]
        try:
            check_literal(shown_host(request.url), limit)
        except OutOfReachError:
            raise PermissionDeniedError(
                f"{request.what} cannot be read: {known} leads to {shown_host(request.url)}, "
                "which lies further inside the network than itself"
            ) from None
        return limit

    def _trust(self, request: Request) -> ssl.SSLContext:
        """What this machine trusts, and the endpoint's own; certificates of ours stay with it."""
        host = request.endpoint.host
        client = () if request.is_elsewhere else host.client
        key = (host.ca, client, host.skip_verify)
        if key not in self._contexts:
            self._contexts[key] = ssl_context(host.ca, client, skip_verify=host.skip_verify)
        return self._contexts[key]

    def _session(self, limit: Reach) -> aiohttp.ClientSession:
        if limit not in self._sessions:
            import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked

            resolver = limited(aiohttp.DefaultResolver(), limit)
            # Not trust_env: it would send what is in ~/.netrc, to hosts of redirects too.
            self._sessions[limit] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver),
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[limit]

    def _show_warnings(self, response: aiohttp.ClientResponse) -> None:
        """Log what a registry warns of, once (distribution-spec v1.1.0, "Warnings")."""
        for header in response.headers.getall("Warning", []):
            found = _WARNING.search(header)
            if found is None or len(self._warnings) >= _WARNINGS_LIMIT:
                continue
            text = "".join(filter(str.isprintable, found[1].replace("\\", "")))[:_WARNING_LIMIT]
            shown = f"{shown_host(str(response.url))} warns: {text}"
            if shown not in self._warnings:
                self._warnings.add(shown)
                _logger.warning("%s", shown)


def _proxy(url: str) -> tuple[str | None, dict[str, str]]:
    """The proxy for an address, by the environment, and what is sent to it alone.

    This machine is asked without one.
    """
    from urllib.request import (  # type: ignore[attr-defined]  # noqa: PLC0415 - slow to load
        getproxies_environment,
        proxy_bypass_environment,
    )

    from yarl import URL  # noqa: PLC0415 - comes with the HTTP client

    scheme, host = origin(url)
    if is_loopback(host):
        return None, {}
    proxies = getproxies_environment()
    found = proxies.get(scheme)
    if not found or proxy_bypass_environment(host, proxies):
        return None, {}
    proxy = URL(found)
    pair = Credentials(proxy.user or "", proxy.password or "")
    # The client makes a Proxy-Authorization of it.
    headers = {"Authorization": basic_header(pair)} if pair else {}
    return str(proxy.with_user(None)), headers
