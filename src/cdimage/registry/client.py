"""HTTP to registries: one session, and redirects."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlencode, urlsplit

from cdimage.errors import BackendError
from cdimage.reference import Reference
from cdimage.registry.auth import Authenticator, Tokens
from cdimage.registry.endpoint import (
    Endpoint,
    find_endpoint,
    is_loopback,
    origin,
    redirected,
    shown_host,
)
from cdimage.registry.failure import checked, read_bounded, translated
from cdimage.registry.repository import Repository

if TYPE_CHECKING:
    import aiohttp

_CONNECT_SECONDS: Final = 30.0
_STILL_SECONDS: Final = 60.0
_READ_BUFFER: Final = 1 << 20
_REDIRECTS: Final = 10
_REDIRECT_STATUS: Final = frozenset({301, 302, 303, 307, 308})
_TOKEN_LIMIT: Final = 1 << 20
_USER_AGENT: Final = "cdimage"


class Registry:
    """Opens repositories of any registry, over connections and tokens that they share.

    Used within one event loop; the first request opens connections, `close` ends them.
    Credentials are those of Docker's ``config.json``, read when a registry asks for them.
    ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` are followed.

    A registry on this machine's loopback is spoken to in TLS if it understands that, else in
    plain HTTP; every other in HTTPS.

    Args:
        insecure: Hosts (with their ports) to speak plain HTTP to as well; True for all.
    """

    def __init__(self, *, insecure: bool | Collection[str] = False) -> None:
        self._insecure = insecure if isinstance(insecure, bool) else frozenset(insecure)
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._tokens = Tokens(self)

    def open(self, reference: Reference) -> Repository:
        """The repository that a reference lies in, as a `cdimage.store.Source`; asks nobody."""
        return Repository(self, reference, Authenticator(self._tokens, reference))

    async def close(self) -> None:
        """End the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def endpoint(self, registry: str) -> Endpoint:
        """Where a registry's API is; worked out once.

        Raises:
            UnavailableError: It is on this machine, and does not run.
        """
        if registry not in self._endpoints:
            asked = self._insecure
            insecure = asked if isinstance(asked, bool) else registry in asked
            self._endpoints[registry] = await find_endpoint(registry, insecure=insecure)
        return self._endpoints[registry]

    async def get(self, url: str, headers: Mapping[str, str], what: str) -> aiohttp.ClientResponse:
        """GET, following redirects; the caller closes the response.

        The Authorization header goes to the host of ``url`` and to no other.

        Args:
            url: As `cdimage.registry.endpoint.wire_url` gives it.
            headers: To send.
            what: Is asked for, in messages.

        Raises:
            UnavailableError: A host cannot be reached, or stands still.
            BackendError: The redirects have no end, or lead to nowhere.
        """
        sent, first = dict(headers), url
        for _ in range(_REDIRECTS + 1):
            response = await self._send("GET", url, what, headers=sent)
            location = response.headers.get("Location")
            if response.status not in _REDIRECT_STATUS or location is None:
                return response
            response.release()
            target = redirected(url, location)
            if origin(target) != origin(url):
                sent.pop("Authorization", None)
            url = target
        raise BackendError(f"{what} cannot be read: {shown_host(first)} redirects in circles")

    async def ask_token_service(
        self,
        realm: str,
        query: list[tuple[str, str]],
        what: str,
        *,
        authorization: str | None = None,
        is_form: bool = False,
    ) -> bytes:
        """What a token service answers to a GET, or to a POST of a form. Redirects are refused.

        Raises:
            PermissionDeniedError: It refuses the credentials.
            UnavailableError: It cannot be reached or is busy.
        """
        headers = {"Authorization": authorization} if authorization else {}
        if is_form:
            response = await self._send("POST", realm, what, headers=headers, form=query)
        else:
            joint = "&" if urlsplit(realm).query else "?"
            url = f"{realm}{joint}{urlencode(query)}"
            response = await self._send("GET", url, what, headers=headers)
        async with await checked(response, what):
            return await read_bounded(response, _TOKEN_LIMIT, what)

    async def _send(
        self,
        method: str,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str],
        form: list[tuple[str, str]] | None = None,
    ) -> aiohttp.ClientResponse:
        from yarl import URL  # noqa: PLC0415 - comes with the HTTP client

        with translated(url, what):
            proxy, proxy_auth = _proxy(url)
            return await self._opened().request(
                method,
                URL(url, encoded=True),  # a signature holds for the very bytes
                headers=headers,
                data=form,
                allow_redirects=False,
                proxy=proxy,
                proxy_auth=proxy_auth,
                ssl=self._trust() if url.startswith("https:") else True,
            )

    def _trust(self) -> ssl.SSLContext:
        """What this machine trusts; read when the first certificate is to be checked."""
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked

            # Not trust_env: it would send what is in ~/.netrc, to hosts of redirects too.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_SECONDS, sock_read=_STILL_SECONDS
                ),
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _proxy(url: str) -> tuple[str | None, aiohttp.BasicAuth | None]:
    """The proxy for an address, by the environment; this machine is asked without one."""
    from urllib.request import (  # type: ignore[attr-defined]  # noqa: PLC0415 - slow to load
        getproxies_environment,
        proxy_bypass_environment,
    )

    import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked
    from yarl import URL  # noqa: PLC0415

    proxies = getproxies_environment()
    scheme, host = origin(url)
    found = proxies.get(scheme)
    if not found or is_loopback(host) or proxy_bypass_environment(host, proxies):
        return None, None
    proxy = URL(found)
    auth = aiohttp.BasicAuth(proxy.user, proxy.password or "") if proxy.user else None
    return str(proxy.with_user(None)), auth
