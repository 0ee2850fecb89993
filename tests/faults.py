"""A proxy in front of a real registry that breaks what passes through it.

It speaks HTTP by hand, because a library would not let it lie. Each connection serves one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

_CHUNK = 64 << 10


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def kind(self) -> str:
        """``blobs``, ``manifests`` or ``token``."""
        parts = self.path.partition("?")[0].split("/")
        return next((part for part in ("blobs", "manifests") if part in parts), parts[-1])


@dataclass
class Answer:
    """What the registry said, on its way to whoever asked."""

    status: int
    headers: dict[str, str]
    body: asyncio.StreamReader
    client: asyncio.StreamWriter

    @property
    def is_of_layer(self) -> bool:
        """Whether this is of a blob as large as layers are here."""
        of_range = self.headers.get("content-range", "").rpartition("/")[2]
        return int(of_range or self.headers.get("content-length", "0")) > _CHUNK

    async def send_head(self) -> None:
        lines = [f"HTTP/1.1 {self.status} x", *(f"{k}: {v}" for k, v in self.headers.items())]
        self.client.write(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode())
        await self.client.drain()

    async def send_body(self, limit: int | None = None, *, flip_at: int | None = None) -> None:
        """Pass the body on: at most so many bytes of it, with one bit of one byte turned."""
        sent = 0
        while (limit is None or sent < limit) and (chunk := await self.body.read(_CHUNK)):
            if flip_at is not None and sent <= flip_at < sent + len(chunk):
                at = flip_at - sent
                chunk = chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]
            chunk = chunk if limit is None else chunk[: limit - sent]
            self.client.write(chunk)
            await self.client.drain()
            sent += len(chunk)


Act = Callable[["FaultyRegistry", Asked, Answer], Awaitable[None]]


@dataclass
class Fault:
    """What is done to the answers of some requests.

    Attributes:
        kind: Of request: ``layers``, ``manifests`` or ``token``.
        act: Sends the answer, in its own way.
        times: How often it is done; None for always.
    """

    kind: str
    act: Act
    times: int | None = None


@dataclass
class FaultyRegistry:
    """The proxy.

    Attributes:
        upstream: The real registry's host and port.
        faults: Those that are still to happen; the first that fits is taken.
        token_uses: How many requests a token is good for; None needs no token.
        host: Its own.
        seen: What was asked for, in order.
        sent: How many bytes were answered.
        peer: Another host, of the same contents, that redirects may lead to.
    """

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    token_uses: int | None = None
    host: str = ""
    seen: list[Asked] = field(default_factory=list)
    peer: FaultyRegistry | None = None
    _tokens: dict[str, int] = field(default_factory=dict)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FaultyRegistry]:
        """Listen on a free port until the end."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                asked = await _read_request(reader)
                self.seen.append(asked)
                await self._answer(asked, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, asked: Asked, client: asyncio.StreamWriter) -> None:
        answer = self._refusal(asked, client)
        if answer is None and asked.kind == "token":
            token = f"token-{len(self._tokens)}"
            self._tokens[token] = self.token_uses or 0
            answer = _made(200, f'{{"token": "{token}", "expires_in": 3600}}', client)
        if answer is not None:
            await self._send(asked, answer)
            return
        host, _, port = self.upstream.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            kept = {k: v for k, v in asked.headers.items() if k in {"accept", "range"}}
            lines = [f"{k}: {v}" for k, v in {**kept, "host": self.upstream}.items()]
            head = "\r\n".join([f"{asked.method} {asked.path} HTTP/1.1", *lines])
            writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode())
            status, headers = await _read_head(reader)
            await self._send(asked, Answer(int(status.split()[1]), headers, reader, client))
        finally:
            writer.close()

    def _refusal(self, asked: Asked, client: asyncio.StreamWriter) -> Answer | None:
        """An answer to whoever brings no good token, where one is needed."""
        if self.token_uses is None or asked.kind == "token":
            return None
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if self._tokens.get(token, 0) > 0:
            self._tokens[token] -= 1
            return None
        error = ',error="invalid_token"' if token else ""
        refusal = _made(401, '{"errors": [{"code": "UNAUTHORIZED"}]}', client)
        refusal.headers["WWW-Authenticate"] = f'Bearer realm="http://{self.host}/token"{error}'
        return refusal

    async def _send(self, asked: Asked, answer: Answer) -> None:
        for fault in self.faults:
            fits = fault.kind == asked.kind or (fault.kind == "layers" and answer.is_of_layer)
            if fits and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                await fault.act(self, asked, answer)
                return
        await answer.send_head()
        await answer.send_body()


async def _read_request(reader: asyncio.StreamReader) -> Asked:
    first = await reader.readexactly(1)
    if not first.isalpha():
        raise ConnectionError("this is TLS, which is not spoken here")
    line, headers = await _read_head(reader, first)
    await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = line.split()
    return Asked(method, path, headers)


async def _read_head(
    reader: asyncio.StreamReader, first: bytes = b""
) -> tuple[str, dict[str, str]]:
    head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    headers.pop("connection", None)
    return head[0], headers


def _made(status: int, text: str, client: asyncio.StreamWriter) -> Answer:
    body = asyncio.StreamReader()
    body.feed_data(text.encode())
    body.feed_eof()
    return Answer(status, {"content-length": str(len(text))}, body, client)


# What can be done to an answer.


def cut(size: int) -> Act:
    """Send so many bytes of the body, and close the connection."""

    async def act(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
        await answer.send_head()
        await answer.send_body(size)

    return act


async def hang_up(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
    """Close the connection without an answer."""


def stall(size: int) -> Act:
    """Send so many bytes of the body, and then nothing."""

    async def act(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
        await answer.send_head()
        await answer.send_body(size)
        await asyncio.Event().wait()

    return act


def refuse(status: int, retry_after: str | None = None) -> Act:
    """Answer with a status."""

    async def act(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
        refusal = _made(status, "busy", answer.client)
        if retry_after is not None:
            refusal.headers["Retry-After"] = retry_after
        await refusal.send_head()
        await refusal.send_body()

    return act


def altered(
    size: int | None = None,
    flip_at: int | None = None,
    status: int | None = None,
    **headers: str | None,
) -> Act:
    """Send another status or headers than the registry's (None removes one), or a turned bit."""

    async def act(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
        answer.status = status or answer.status
        for name, value in headers.items():
            answer.headers.pop(name.replace("_", "-"), None)
            if value is not None:
                answer.headers[name.replace("_", "-")] = value
        await answer.send_head()
        await answer.send_body(size, flip_at=flip_at)

    return act


async def ignore_range(registry: FaultyRegistry, asked: Asked, answer: Answer) -> None:
    """Answer a range with the whole, as the registry does without one."""
    whole = {k: v for k, v in asked.headers.items() if k != "range"}
    faults, registry.faults = registry.faults, []
    await registry._answer(replace(asked, headers=whole), answer.client)
    registry.faults = faults


async def endless(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
    """Send data until the other side has had enough."""
    answer.headers.pop("content-length", None)
    await answer.send_head()
    while True:
        answer.client.write(bytes(_CHUNK))
        await answer.client.drain()


async def redirect_to_peer(registry: FaultyRegistry, asked: Asked, answer: Answer) -> None:
    """Send whoever asks to another host, as registries with a store of objects do."""
    assert registry.peer is not None
    await _redirect(answer, f"http://{registry.peer.host}{asked.path}")


async def redirect_in_circles(registry: FaultyRegistry, asked: Asked, answer: Answer) -> None:
    """Send whoever asks here again."""
    await _redirect(answer, f"http://{registry.host}{asked.path}")


async def _redirect(answer: Answer, location: str) -> None:
    moved = _made(307, "", answer.client)
    moved.headers["Location"] = location
    await moved.send_head()


async def portal(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
    """Answer with a page for people, as hotels do."""
    page = _made(200, "<html>Please log in to the network.</html>", answer.client)
    page.headers["Content-Type"] = "text/html"
    await page.send_head()
    await page.send_body()


async def babble(_: FaultyRegistry, asked: Asked, answer: Answer) -> None:
    """Answer with what is not HTTP."""
    answer.client.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n\0\1\2")
    await answer.client.drain()
