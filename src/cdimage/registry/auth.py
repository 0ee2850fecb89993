"""Authentication: from a registry's challenge to the header that it accepts.

Flow: distribution v2.8, ``docs/spec/auth/token.md`` and ``oauth.md``.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import defaultdict
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Protocol

from cdimage.errors import BackendError, PermissionDeniedError
from cdimage.reference import Reference
from cdimage.registry.challenge import Challenge
from cdimage.registry.credentials import Credentials, find_credentials
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
    """What a token is good for: who gives it, for which service, to do what.

    Attributes:
        registry: Whose credentials are shown for it.
        realm: The token service's address.
        service: As the registry calls itself; "" when it does not.
        scopes: At least ``repository:<name>:pull``.
    """

    registry: str
    realm: str
    service: str
    scopes: tuple[str, ...]


class TokenClient(Protocol):
    """How token services are reached."""

    async def ask_token_service(
        self,
        realm: str,
        query: list[tuple[str, str]],
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

    def header(self, request: TokenRequest) -> str | None:
        """The header of a token that is here and still good."""
        token = self._tokens.get(request)
        return token.header if token and token.is_fresh else None

    async def obtain(
        self, request: TokenRequest, credentials: Credentials, refused: str | None
    ) -> str:
        """The header of a token, another than the ``refused`` one.

        Raises:
            PermissionDeniedError: The credentials are refused.
            UnavailableError: The token service cannot be reached or is busy.
            BackendError: It answered without a token.
        """
        async with self._locks[request]:
            known = self.header(request)
            if known is not None and known != refused:
                return known
            self._tokens[request] = token = await self._fetch(request, credentials)
            return token.header

    async def _fetch(self, request: TokenRequest, credentials: Credentials) -> Token:
        what = f"a token for {request.registry} from {shown_host(request.realm)}"
        service = [("service", request.service)] if request.service else []
        if credentials.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                *service,
                ("client_id", _CLIENT_ID),
                ("scope", " ".join(request.scopes)),
                ("refresh_token", credentials.identity_token),
            ]
            data = await self._client.ask_token_service(request.realm, form, what, is_form=True)
        else:
            query = [*service, *(("scope", scope) for scope in request.scopes)]
            header = basic_header(credentials) if credentials.username else None
            data = await self._client.ask_token_service(
                request.realm, query, what, authorization=header
            )
        return _read_token(data, what)


class Authenticator:
    """Knows the header for one repository, once the registry has asked for one."""

    def __init__(self, tokens: Tokens, reference: Reference) -> None:
        self._tokens = tokens
        self._name = reference.name
        self._repository = reference.repository
        self._request: TokenRequest | None = None
        self._fixed: str | None = None

    def header(self) -> str | None:
        """The header to send now; None to ask without."""
        return self._tokens.header(self._request) if self._request else self._fixed

    async def answer(
        self, challenges: list[Challenge], endpoint: Endpoint, refused: str | None
    ) -> str:
        """The header that answers a refusal.

        Args:
            challenges: Of the response.
            endpoint: Who refused.
            refused: The header that was sent and refused, for which there must be another.

        Raises:
            PermissionDeniedError: There is no answer, or the credentials are refused.
        """
        credentials = await find_credentials(endpoint.registry)
        bearer = next((found for found in challenges if found.scheme == "bearer"), None)
        if credentials.registry_token:
            self._fixed = f"Bearer {credentials.registry_token}"
        elif bearer is not None:
            self._request = self._token_request(bearer, endpoint)
            return await self._tokens.obtain(self._request, credentials, refused)
        elif any(found.scheme == "basic" for found in challenges) and credentials.username:
            self._fixed = basic_header(credentials)
        if self._fixed is None or self._fixed == refused:
            raise self._denied(endpoint.registry, is_refused=self._fixed is not None)
        return self._fixed

    def _token_request(self, bearer: Challenge, endpoint: Endpoint) -> TokenRequest:
        realm = wire_url(bearer.parameters.get("realm", ""))
        if realm is None:
            raise BackendError(
                f"{self._name} cannot be read: {endpoint.host} asks for a token, "
                "but does not say where there are any"
            )
        if not realm.startswith("https:") and not endpoint.allows_plain:
            raise PermissionDeniedError(
                f"{self._name} cannot be read: {endpoint.host} wants credentials to be sent to "
                f"{shown_host(realm)} without https"
            )
        # Some registries name scopes of their own; ours is what we need of the others.
        scopes = {f"repository:{self._repository}:pull": None}
        scopes.update(dict.fromkeys(bearer.parameters.get("scope", "").split()))
        service = bearer.parameters.get("service", "")
        return TokenRequest(endpoint.registry, realm, service, tuple(scopes))

    def _denied(self, registry: str, *, is_refused: bool) -> PermissionDeniedError:
        why = "refuses the credentials" if is_refused else "asks for credentials; there are none"
        return PermissionDeniedError(
            f"{self._name} cannot be read: {registry} {why}: "
            f"log in, for example with `docker login {registry}`"
        )


def basic_header(credentials: Credentials) -> str:
    """The header of Basic authentication (RFC 7617)."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


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
