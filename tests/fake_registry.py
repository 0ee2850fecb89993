"""A registry and a token server that can be told to misbehave: real HTTP, on a loopback port."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from cdimage.descriptor import MediaType
from cdimage.digest import Digest

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeRegistry:
    """Serves blobs and manifests from memory; `misbehave` replaces the answer of a path.

    Attributes:
        host: With its port.
        seen: All requests, in order.
        token: What a caller must bring; None lets everybody in.
        users: What the token server accepts; empty lets everybody have a token.
    """

    host: str = ""
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    seen: list[web.Request] = field(default_factory=list)
    misbehave: dict[str, Answer] = field(default_factory=dict)
    challenge: str | None = None
    accepted: str | None = None
    tokens: list[dict[str, object]] = field(default_factory=list)

    def add_manifest(self, tag: str, data: bytes, media_type: str = MediaType.OCI_MANIFEST) -> str:
        """Serve a manifest by a tag and by its digest, which is returned."""
        digest = str(Digest.of(data))
        self.manifests[tag] = self.manifests[digest] = (media_type, data)
        return digest

    def add_blob(self, data: bytes) -> str:
        """Serve a blob; returns its digest."""
        digest = str(Digest.of(data))
        self.blobs[digest] = data
        return digest

    def paths(self) -> list[str]:
        """What was asked for, without the repository."""
        return [request.path.partition("/app/")[2] or request.path for request in self.seen]

    @asynccontextmanager
    async def serving(
        self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> AsyncIterator[FakeRegistry]:
        """Listen on a free port until the end.

        Args:
            tls: Of a server; None speaks plain HTTP.
            host: The name that it is to be asked by, which leads to the loopback.
        """
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.host = f"{host}:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        kind, _, name = request.path.removeprefix("/v2/").partition("/")[2].partition("/")
        if answer := self.misbehave.get(f"{kind}/{name}") or self.misbehave.get(kind):
            return await answer(request)
        if request.path == "/token":
            token = self.tokens.pop(0) if self.tokens else {"token": "good"}
            return web.json_response(token)
        if self.accepted and request.headers.get("Authorization") != self.accepted:
            headers = {"WWW-Authenticate": self.challenge or ""}
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401,
                                     headers=headers)  # fmt: skip
        if kind == "manifests" and name in self.manifests:
            media_type, data = self.manifests[name]
            return web.Response(body=data, content_type=media_type)
        if kind == "blobs" and name in self.blobs:
            return _ranged(request, self.blobs[name])
        body = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "who?"}]})
        return web.Response(status=404, text=body)


def _ranged(request: web.Request, data: bytes) -> web.Response:
    wanted = request.headers.get("Range")
    if wanted is None:
        return web.Response(body=data)
    start = int(wanted.removeprefix("bytes=").rstrip("-"))
    headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    return web.Response(status=206, body=data[start:], headers=headers)
