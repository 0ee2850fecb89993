"""HTTP to registries: one session, redirects, limits, and one table of errors."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from cdimage.errors import (
    BackendError,
    CdimageError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cdimage.reference import DEFAULT_REGISTRY, Reference

if TYPE_CHECKING:
    import aiohttp

    from cdimage.registry.repository import Repository

_DEFAULT_API_HOST: Final = "registry-1.docker.io"
_CONNECT_SECONDS: Final = 30.0
_STILL_SECONDS: Final = 60.0
_READ_BUFFER: Final = 1 << 20
_REDIRECTS: Final = 10
_TOKEN_LIMIT: Final = 1 << 20
_REDIRECT_STATUS: Final = frozenset({301, 302, 303, 307, 308})
_AGAIN_STATUS: Final = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
_USER_AGENT: Final = "cdimage"


class Registry:
    """Opens repositories, over connections that they share. One per event loop.

    A registry on this machine's loopback is spoken to in plain HTTP, as the field does; every
    other in HTTPS.

    Args:
        insecure: Hosts (with their ports) that are to be spoken to in plain HTTP as well.
    """

    def __init__(self, *, insecure: Collection[str] = ()) -> None:
        self._insecure = frozenset(insecure)
        self._session: aiohttp.ClientSession | None = None

    def open(self, reference: Reference) -> Repository:
        """The repository that a reference lies in, as a `cdimage.store.Source`."""
        from cdimage.registry.repository import Repository  # noqa: PLC0415 - a cycle

        insecure = reference.registry in self._insecure or _is_loopback(reference.registry)
        host = _DEFAULT_API_HOST if reference.registry == DEFAULT_REGISTRY else reference.registry
        base = f"{'http' if insecure else 'https'}://{host}/v2/{reference.repository}"
        return Repository(self, reference, base, insecure=insecure)

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET, following redirects; other hosts never see the Authorization header.

        Raises:
            UnavailableError: The host cannot be reached, or stands still.
        """
        sent = dict(headers)
        for _ in range(_REDIRECTS + 1):
            with translated(url):
                async with self._opened().get(url, headers=sent, allow_redirects=False) as response:
                    target = response.headers.get("Location")
                    if response.status not in _REDIRECT_STATUS or target is None:
                        yield response
                        return
            followed = urljoin(url, target)
            self._check_redirect(url, followed)
            if urlsplit(followed).netloc != urlsplit(url).netloc:
                sent.pop("Authorization", None)
            url = followed
        raise BackendError(f"{_host(url)} redirects in circles")

    async def fetch_token(
        self,
        realm: str,
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        authorization: str | None = None,
    ) -> bytes:
        """What a token server answers: to a GET with a query, or to a POST of a form.

        Raises:
            PermissionDeniedError: It refuses the credentials.
            UnavailableError: It cannot be reached.
        """
        headers = {"Authorization": authorization} if authorization else {}
        method = "POST" if form is not None else "GET"
        with translated(realm):
            async with self._opened().request(
                method, realm, params=query, data=form, headers=headers, allow_redirects=False
            ) as response:
                data = await read_bounded(response, _TOKEN_LIMIT)
                if response.status in {400, 401, 403}:
                    raise PermissionDeniedError(
                        f"the token server {_host(realm)} refuses the credentials"
                    )
                if response.status != 200:
                    raise error_of(response.status, f"the token server {_host(realm)}", "")
                return data

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked

            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_STILL_SECONDS
            )
            self._session = aiohttp.ClientSession(
                timeout=timeout,
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
            )
        return self._session

    def _check_redirect(self, url: str, followed: str) -> None:
        scheme = urlsplit(followed).scheme
        if scheme not in {"http", "https"} or (scheme == "http" and url.startswith("https:")):
            raise BackendError(f"{_host(url)} redirects to a place that is not https")


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what the HTTP client raises inside into ours; no query of the URL is shown."""
    import aiohttp  # noqa: PLC0415 - loaded when the first registry is asked

    host = _host(url)
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        raise PermissionDeniedError(
            f"the certificate of {host} is not trusted by this machine"
        ) from None
    except aiohttp.ClientSSLError:
        raise UnavailableError(f"{host} does not speak TLS as it should") from None
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or "the name cannot be resolved"
        raise UnavailableError(f"{host} cannot be reached: {reason}") from None
    except TimeoutError:
        raise UnavailableError(f"{host} did not answer in time") from None
    except aiohttp.InvalidURL:
        raise BackendError(f"{host} is not an address that can be asked") from None
    except aiohttp.ClientResponseError as error:
        raise BackendError(f"{host} sent something that is not HTTP: {error.message}") from None
    except aiohttp.ClientError as error:
        raise UnavailableError(f"the connection to {host} broke: {_reason(error)}") from None


def error_of(status: int, what: str, detail: str) -> CdimageError:
    """The error for a status that is not success.

    Args:
        status: HTTP's.
        what: Who answered, for the sentence.
        detail: What the registry said of it; "" for nothing.
    """
    said = f" ({detail})" if detail else ""
    if status in {401, 403}:
        return PermissionDeniedError(
            f"{what} refuses access{said}: it may be private, or not there; log in to it"
        )
    if status == 404:
        return NotFoundError(f"{what} is not there{said}")
    if status in _AGAIN_STATUS:
        return UnavailableError(f"{what} answers with status {status}{said}: try again later")
    return BackendError(f"{what} answers with status {status}{said}")


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """A small body.

    Raises:
        BackendError: It is larger than ``limit`` bytes.
    """
    parts, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise BackendError(f"{response.url.host} sent more than {limit >> 10} KiB")
        parts.append(chunk)
    return b"".join(parts)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _reason(error: Exception) -> str:
    names = {"ServerDisconnectedError": "the server closed it", "ClientPayloadError": "it is short"}
    return names.get(type(error).__name__, type(error).__name__)


def _is_loopback(registry: str) -> bool:
    host = urlsplit(f"//{registry}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
