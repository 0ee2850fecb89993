"""Registries: their endpoints, connections and tokens."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

from cdimage.reference import Reference
from cdimage.registry.auth import TokenRequest, Tokens
from cdimage.registry.credentials import Credentials
from cdimage.registry.endpoint import Endpoint, find_endpoints
from cdimage.registry.failure import checked, read_bounded
from cdimage.registry.http import Connections, Request
from cdimage.registry.repository import Repository

HOSTS_FOLDERS: Final = (Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d"))
"""Where containerd and Docker look for mirrors and certificates."""

_CONNECT_SECONDS: Final = 30.0
_STILL_SECONDS: Final = 60.0
_TOKEN_LIMIT: Final = 1 << 20


class Registry:
    """Opens repositories of any registry, over connections and tokens that they share.

    Used within one event loop; the first request opens connections, `close` ends them.
    Credentials are those that Docker and Podman keep, read when a registry asks for them.
    ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` are followed.

    A registry on this machine's loopback is spoken to in TLS if it understands that, else in
    plain HTTP; every other in HTTPS, unless its ``hosts.toml`` says otherwise. What a registry
    warns of is logged, once.

    Args:
        insecure: Hosts (with their ports) to speak plain HTTP to as well; True for all.
        hosts_folders: Each holds a folder for a registry, with a ``hosts.toml`` or certificates.
        connect_seconds: How long a connection may take to be made.
        still_seconds: How long a connection may stand still; there is no limit on the whole.
    """

    def __init__(
        self,
        *,
        insecure: bool | Collection[str] = False,
        hosts_folders: Sequence[Path] = HOSTS_FOLDERS,
        connect_seconds: float = _CONNECT_SECONDS,
        still_seconds: float = _STILL_SECONDS,
    ) -> None:
        self._insecure = insecure if isinstance(insecure, bool) else frozenset(insecure)
        self._hosts_folders = hosts_folders
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._finding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tokens = Tokens(self)
        self.connections = Connections(connect_seconds, still_seconds)

    def open(self, reference: Reference, credentials: Credentials | None = None) -> Repository:
        """The repository that a reference lies in, as a `cdimage.store.Source`; asks nobody.

        Args:
            reference: Names it.
            credentials: In place of those that this machine keeps, and for this repository
                alone. The registry itself must then say that they may see an image; a mirror
                is not believed, and not shown them.
        """
        return Repository(self, self._tokens, reference, credentials)

    async def close(self) -> None:
        """End the connections. Idempotent."""
        await self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def endpoints(self, registry: str) -> tuple[Endpoint, ...]:
        """Where a registry's images may be had, mirrors first; worked out once.

        Raises:
            InvalidConfigurationError: Its ``hosts.toml`` cannot be understood.
            UnavailableError: It is on this machine, and does not run.
        """
        async with self._finding[registry]:
            if registry not in self._endpoints:
                asked = self._insecure
                insecure = asked if isinstance(asked, bool) else registry in asked
                self._endpoints[registry] = await find_endpoints(
                    registry, self._hosts_folders, insecure=insecure
                )
            return self._endpoints[registry]

    async def ask_token_service(
        self,
        request: TokenRequest,
        fields: list[tuple[str, str]],
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
        url = request.realm
        if not is_form:
            url += f"{'&' if urlsplit(url).query else '?'}{urlencode(fields)}"
        asked = Request(url, what, headers, request.endpoint)
        sent = self.connections.send("POST", asked, fields) if is_form else None
        response = await (sent or self.connections.send("GET", asked))
        async with await checked(response, what):
            return await read_bounded(response, _TOKEN_LIMIT, what)
