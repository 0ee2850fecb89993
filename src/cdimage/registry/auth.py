"""Authentication: from a registry's challenge to the header that it accepts.

Flow: distribution v2.8, ``docs/spec/auth/token.md`` and ``oauth.md``.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cdimage.errors import PermissionDeniedError
from cdimage.image import parse_json
from cdimage.registry.challenge import Challenge
from cdimage.registry.credentials import Credentials, find_credentials

if TYPE_CHECKING:
    from cdimage.registry.client import Registry

_DEFAULT_SECONDS: Final = 60.0
_MARGIN_SECONDS: Final = 5.0
_CLIENT_ID: Final = "cdimage"


@dataclass(frozen=True, slots=True)
class Token:
    """A header, and until when it is good (by the monotonic clock, in seconds)."""

    header: str = field(repr=False)
    expires: float = float("inf")

    @property
    def is_fresh(self) -> bool:
        """Whether it can still be used."""
        return time.monotonic() < self.expires


class Authenticator:
    """Knows the header for one repository of one registry; asks for a token once for many."""

    def __init__(self, registry: Registry, host: str, repository: str, *, insecure: bool) -> None:
        self._registry = registry
        self._host = host
        self._repository = repository
        self._insecure = insecure
        self._token: Token | None = None
        self._credentials: Credentials | None = None
        self._lock = asyncio.Lock()

    def header(self) -> str | None:
        """The header to send now; None to ask without."""
        return self._token.header if self._token and self._token.is_fresh else None

    async def answer(self, challenges: list[Challenge], refused: str | None) -> str:
        """The header that answers a challenge; one request for a token, however many wait.

        Args:
            challenges: Of the response.
            refused: The header that was sent and refused; another is got, once.

        Raises:
            PermissionDeniedError: There is no answer, or the credentials are refused.
        """
        async with self._lock:
            current = self.header()
            if current is not None and current != refused:
                return current
            self._token = await self._authenticate(challenges)
            return self._token.header

    async def _authenticate(self, challenges: list[Challenge]) -> Token:
        if self._credentials is None:
            self._credentials = await find_credentials(self._host)
        credentials = self._credentials
        if credentials.registry_token:
            return Token(f"Bearer {credentials.registry_token}")
        by_scheme = {challenge.scheme: challenge for challenge in challenges}
        if "bearer" in by_scheme:
            return await self._fetch_token(by_scheme["bearer"].parameters, credentials)
        if "basic" in by_scheme and credentials.username:
            return Token(_basic(credentials))
        raise PermissionDeniedError(
            f"{self._host}/{self._repository} asks for credentials, and there are none for "
            f"{self._host}: log in, for example with `docker login {self._host}`"
        )

    async def _fetch_token(self, parameters: Mapping[str, str], credentials: Credentials) -> Token:
        realm = parameters.get("realm", "")
        if not realm.startswith("https://") and not (
            self._insecure and realm.startswith("http://")
        ):
            raise PermissionDeniedError(
                f"{self._host} wants tokens to be fetched from a place that is not https"
            )
        scope = parameters.get("scope") or f"repository:{self._repository}:pull"
        query = {"scope": scope}
        if service := parameters.get("service"):
            query["service"] = service
        if credentials.identity_token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": _CLIENT_ID,
                "refresh_token": credentials.identity_token,
            }
            data = await self._registry.fetch_token(realm, form=form)
        else:
            header = _basic(credentials) if credentials.username else None
            data = await self._registry.fetch_token(realm, query=query, authorization=header)
        return self._read_token(parse_json(data, "answer of the token server"))

    def _read_token(self, answer: dict[str, Any]) -> Token:
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise PermissionDeniedError(f"the token server of {self._host} sent no token")
        seconds = answer.get("expires_in")
        if not isinstance(seconds, int | float) or seconds <= 0:
            seconds = _DEFAULT_SECONDS
        return Token(f"Bearer {token}", time.monotonic() + max(seconds - _MARGIN_SECONDS, 1.0))


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
