"""Authentication: from a registry's challenge to the header that it accepts.

Flow: distribution v2.8, ``docs/spec/auth/token.md`` and ``oauth.md``.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Protocol

from cdimage.errors import BackendError, NotFoundError, PermissionDeniedError
from cdimage.reference import Reference
from cdimage.registry.challenge import Challenge
from cdimage.registry.credentials import Credentials, basic_header, find_credentials
from cdimage.registry.endpoint import Endpoint, shown_host, wire_url

_DEFAULT_SECONDS: Final = 60.0
_LONGEST_SECONDS: Final = 24 * 3600.0
_MARGIN_SECONDS: Final = 5.0
_CLIENT_ID: Final = "cdimage"


@dataclass(frozen=True, slots=True)
class Token:
    """A header, and until when it is good (by the monotonic clock, in seconds)."""

    header: str = field(repr=False)
    expires: float

    @property
    def is_fresh(self) -> bool:
        """Whether it can still be used."""
        return monotonic() < self.expires


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a token is good for: who gives it, to whom, for which service, to do what.

    Attributes:
        endpoint: That asked for a token.
        credentials: Shown for it.
        realm: The token service's address.
        service: As the registry calls itself; "" when it does not.
        scopes: At least ``repository:<name>:pull``.
    """

    endpoint: Endpoint
    credentials: Credentials
    realm: str
    service: str
    scopes: tuple[str, ...]


class TokenClient(Protocol):
    """How token services are reached."""

    async def ask_token_service(
        self,
        request: TokenRequest,
        fields: list[tuple[str, str]],
        what: str,
        *,
        authorization: str | None = None,
        is_form: bool = False,
    ) -> bytes:
        """What the service answers to a GET, or to a POST of a form."""
        ...


class Tokens:
    """Tokens by what they are good for; each is asked for once, however many wait for it."""

    def __init__(self, client: TokenClient) -> None:
        self._client = client
        self._tokens: dict[TokenRequest, Token] = {}
        self._locks: defaultdict[TokenRequest, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def header(self, request: TokenRequest, refused: str | None = None) -> str:
        """The header of a token that is good now, another than the ``refused`` one.

        Raises:
            PermissionDeniedError: The credentials are refused.
            UnavailableError: The token service cannot be reached or is busy.
            BackendError: It answered without a token.
        """
        async with self._locks[request]:
            known = self._tokens.get(request)
            if known is None or not known.is_fresh or known.header == refused:
                self._tokens[request] = known = await self._fetch(request)
                self._forget()
            return known.header

    def _forget(self) -> None:
        """Keep no secrets of pulls that are over."""
        for request in [it for it, token in self._tokens.items() if not token.is_fresh]:
            if not self._locks[request].locked():
                del self._tokens[request], self._locks[request]

    async def _fetch(self, request: TokenRequest) -> Token:
        endpoint, credentials = request.endpoint, request.credentials
        what = f"a token for {endpoint.netloc} from {shown_host(request.realm)}"
        if credentials.identity_token:
            data = await self._post(request, what, refresh_token=credentials.identity_token)
            return _read_token(data, what)
        service = [("service", request.service)] if request.service else []
        query = [*service, *(("scope", scope) for scope in request.scopes)]
        header = basic_header(credentials) if credentials.username else None
        try:
            data = await self._client.ask_token_service(request, query, what, authorization=header)
        except (NotFoundError, BackendError):
            if not credentials.username:
                raise
            # The service knows the newer way only.
            data = await self._post(
                request, what, username=credentials.username, password=credentials.password
            )
        return _read_token(data, what)

    async def _post(self, request: TokenRequest, what: str, **secrets: str) -> bytes:
        form = {
            "grant_type": "refresh_token" if "refresh_token" in secrets else "password",
            **({"service": request.service} if request.service else {}),
            "client_id": _CLIENT_ID,
            "scope": " ".join(request.scopes),
            **secrets,
        }
        return await self._client.ask_token_service(request, list(form.items()), what, is_form=True)


class Authenticator:
    """Knows the header for one repository at one endpoint, once it has asked for one.

    Args:
        tokens: Shared by all.
        reference: Names the repository.
        endpoint: Who is asked.
        given: The caller's own credentials, in place of those that this machine keeps; a
            mirror, which is somebody else, is never shown them.
    """

    def __init__(
        self,
        tokens: Tokens,
        reference: Reference,
        endpoint: Endpoint,
        given: Credentials | None,
    ) -> None:
        self._tokens = tokens
        self._name = reference.name
        self._repository = reference.repository
        self._endpoint = endpoint
        self._given = None if endpoint.host.is_proxy else given
        self._request: TokenRequest | None = None
        self._fixed: str | None = None

    async def header(self) -> str | None:
        """The header to send now; None to ask without. A token that has expired is replaced."""
        return await self._tokens.header(self._request) if self._request else self._fixed

    async def answer(self, challenges: list[Challenge], refused: str | None) -> str:
        """The header that answers a refusal.

        Args:
            challenges: Of the response.
            refused: The header that was sent and refused, for which there must be another.

        Raises:
            PermissionDeniedError: There is no answer, or the credentials are refused.
        """
        credentials = await self._credentials()
        bearer = next((found for found in challenges if found.scheme == "bearer"), None)
        if credentials.registry_token:
            self._fixed = f"Bearer {credentials.registry_token}"
        elif bearer is not None:
            self._request = self._token_request(bearer, credentials)
            return await self._tokens.header(self._request, refused)
        elif any(found.scheme == "basic" for found in challenges) and credentials.username:
            self._fixed = basic_header(credentials)
        if self._fixed is None or self._fixed == refused:
            raise self._denied(is_refused=self._fixed is not None)
        return self._fixed

    async def _credentials(self) -> Credentials:
        if self._given is not None:
            return self._given
        if self._endpoint.host.is_proxy:
            return await find_credentials(self._endpoint.netloc)
        return await find_credentials(self._endpoint.registry, self._repository)

    def _token_request(self, bearer: Challenge, credentials: Credentials) -> TokenRequest:
        endpoint = self._endpoint
        realm = wire_url(bearer.parameters.get("realm", ""))
        if realm is None:
            raise BackendError(
                f"{self._name} cannot be read: {endpoint.netloc} asks for a token, "
                "but does not say where there are any"
            )
        if not realm.startswith("https:") and not endpoint.allows_plain:
            raise PermissionDeniedError(
                f"{self._name} cannot be read: {endpoint.netloc} wants credentials to be sent to "
                f"{shown_host(realm)} without https"
            )
        # Some registries name scopes of their own; ours is what we need of the others.
        scopes = {f"repository:{self._repository}:pull": None}
        scopes.update(dict.fromkeys(bearer.parameters.get("scope", "").split()))
        service = bearer.parameters.get("service", "")
        return TokenRequest(endpoint, credentials, realm, service, tuple(scopes))

    def _denied(self, *, is_refused: bool) -> PermissionDeniedError:
        host = self._endpoint.netloc if self._endpoint.host.is_proxy else self._endpoint.registry
        why = "refuses the credentials" if is_refused else "asks for credentials; there are none"
        advice = f"log in, for example with `docker login {host}`"
        if self._given is not None:
            advice = "pass others to the pull"
        return PermissionDeniedError(f"{self._name} cannot be read: {host} {why}: {advice}")


def _read_token(data: bytes, what: str) -> Token:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    fields: dict[str, Any] = answer if isinstance(answer, dict) else {}
    token = fields.get("token") or fields.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise BackendError(f"{what} cannot be read: the answer holds none")
    return Token(f"Bearer {token}", monotonic() + _lifetime(fields.get("expires_in")))


def _lifetime(seconds: object) -> float:
    """How long to use a token: a little shorter than it is good, at least a second."""
    if not isinstance(seconds, int | float) or not seconds > 0:
        seconds = _DEFAULT_SECONDS
    return max(min(seconds, _LONGEST_SECONDS) - _MARGIN_SECONDS, 1.0)
