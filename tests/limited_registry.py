"""A registry that cannot do everything: a proxy in front of a real one."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

_HOP_BY_HOP = {"transfer-encoding", "content-length", "connection", "host"}


@dataclass
class LimitedRegistry:
    """Passes requests on, but for what the registry cannot.

    Attributes:
        upstream: The real registry's host.
        cannot: Of ``mount``, ``list``, ``delete``, ``delete tags``.
        host: Its own, when it serves.
        failing: Statuses to answer with, by the beginning of the request, how often.
        elsewhere: The host that uploads are sent to; "" for its own.
        authorizations: What was shown to it.
        received: How many bytes came in the bodies of requests.
        sent: How many bytes went out in those of answers.
    """

    upstream: str
    cannot: frozenset[str] = frozenset()
    failing: dict[str, list[int]] = field(default_factory=dict)
    elsewhere: str = ""
    authorizations: list[str] = field(default_factory=list)
    host: str = ""
    received: int = 0
    sent: int = 0
    asked: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[LimitedRegistry]:
        """Listen on a free port until the end."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        self.host = f"{host}:{port}"
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as self._session:
                yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        self.authorizations += request.headers.getall("Authorization", [])
        for what, statuses in self.failing.items():
            if what in self.asked[-1] and statuses:
                return web.Response(status=statuses.pop())
        query = request.query_string
        if "mount" in self.cannot and "mount" in request.query:
            query = ""  # an upload like any other, as the specification has it
        if "list" in self.cannot and request.path.endswith("/tags/list"):
            return web.Response(status=405)
        if request.method == "DELETE" and "/manifests/" in request.path:
            is_tag = ":" not in request.path.rpartition("/")[2]
            if "delete" in self.cannot or (is_tag and "delete tags" in self.cannot):
                return web.Response(status=405)
        body = await request.read()
        self.received += len(body)
        url = f"http://{self.upstream}{request.path}{'?' if query else ''}{query}"
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        async with self._session.request(
            request.method, url, data=io.BytesIO(body), headers=headers, allow_redirects=False
        ) as answer:
            data = await answer.read()
            self.sent += len(data)
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            if "Location" in kept:
                kept["Location"] = kept["Location"].replace(
                    self.upstream, self.elsewhere or self.host
                )
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, body=data, headers=kept)
