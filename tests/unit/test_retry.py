"""Sources that fail for a while: what is tried again, how often, and from which byte."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.documents import make_image
from tests.fake_registry import FakeRegistry

from cdimage.descriptor import Descriptor, MediaType
from cdimage.errors import (
    CdimageError,
    DigestMismatchError,
    UnavailableError,
)
from cdimage.pull import read
from cdimage.reference import Reference
from cdimage.registry import Registry
from cdimage.registry.failure import retry_after
from cdimage.retry import PersistentSource, Retry

MANIFEST = make_image()[0]
BLOB = random.Random(7).randbytes(300_000)
LAYER = Descriptor.of(f"{MediaType.OCI_LAYER}+gzip", BLOB)
SOON = Retry(attempts=3, first_seconds=0.001, longest_seconds=0.002, patience_seconds=0.5)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    async with registry.serving():
        registry.add_manifest("1.0", MANIFEST.data)
        registry.add_blob(BLOB)
        yield registry


@pytest.fixture
async def source(fake: FakeRegistry) -> AsyncIterator[PersistentSource]:
    async with Registry(still_seconds=0.2) as registry:
        yield PersistentSource(registry.open(Reference.parse(f"{fake.host}/app")), SOON)


def refusing(status: int, times: int, fake: FakeRegistry, kind: str, **headers: str) -> None:
    """Answer with a status some times, and then as it should be."""
    left = times

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal left
        left -= 1
        if left <= 0:
            del fake.misbehave[kind]
        return web.Response(
            status=status, headers={k.replace("_", "-"): headers[k] for k in headers}
        )

    fake.misbehave[kind] = answer


def cutting(fake: FakeRegistry, size: int, *, polite: bool = False) -> None:
    """Serve ranges of at most a size: then the connection breaks, or the answer just ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        rest = BLOB[start:]
        response = web.StreamResponse(
            status=206,
            headers={"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"},
        )
        response.content_length = min(size, len(rest)) if polite else len(rest)
        await response.prepare(request)
        await response.write(rest[:size])
        if not polite and size < len(rest):
            assert request.transport is not None
            request.transport.close()
        return response

    fake.misbehave["blobs"] = answer


async def fetch(source: PersistentSource, offset: int = 0) -> bytes:
    async with source.fetch(LAYER, offset) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_busy_registry_is_asked_again(
    fake: FakeRegistry, source: PersistentSource, status: int
) -> None:
    refusing(status, 2, fake, "manifests")
    refusing(status, 2, fake, "blobs")
    found = await source.resolve(Reference.parse(f"{fake.host}/app:1.0"))
    assert found.digest == MANIFEST.digest
    assert await fetch(source) == BLOB
    assert len(fake.seen) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418])
async def test_what_will_not_change_is_not_asked_again(
    fake: FakeRegistry, source: PersistentSource, status: int
) -> None:
    refusing(status, 9, fake, "blobs")
    with pytest.raises(CdimageError):
        await fetch(source)
    assert len(fake.seen) == 1


async def test_patience_ends(fake: FakeRegistry, source: PersistentSource) -> None:
    refusing(503, 9, fake, "blobs")
    with pytest.raises(UnavailableError, match="status 503"):
        await fetch(source)
    assert len(fake.seen) == SOON.attempts


@pytest.mark.parametrize("polite", [False, True])
async def test_a_blob_is_continued_over_as_many_connections_as_it_takes(
    fake: FakeRegistry, source: PersistentSource, polite: bool
) -> None:
    cutting(fake, 25_000, polite=polite)
    assert await fetch(source, 1000) == BLOB[1000:]
    assert len(fake.seen) == 12
    asked = [request.headers["Range"] for request in fake.seen]
    assert asked[:2] == ["bytes=1000-", "bytes=26000-"]


async def test_a_blob_that_is_too_short_ends_and_is_refused(
    fake: FakeRegistry, source: PersistentSource
) -> None:
    fake.blobs[str(LAYER.digest)] = BLOB[:1000]

    async def answer(request: web.Request) -> web.StreamResponse:
        if "Range" in request.headers:
            return web.Response(status=416, headers={"Content-Range": "bytes */1000"})
        return web.Response(body=BLOB[:1000])

    fake.misbehave["blobs"] = answer
    with pytest.raises(DigestMismatchError, match="1000 bytes instead of"):
        await read(source, LAYER)
    assert len(fake.seen) == 2


async def test_a_registry_that_stands_still_is_left_and_asked_again(
    fake: FakeRegistry, source: PersistentSource
) -> None:
    done = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        del fake.misbehave["blobs"]
        response = web.StreamResponse()
        response.content_length = len(BLOB)
        await response.prepare(request)
        await response.write(BLOB[:100_000])
        await done.wait()
        return response

    fake.misbehave["blobs"] = answer
    assert await fetch(source) == BLOB
    done.set()
    assert fake.seen[1].headers["Range"] == "bytes=100000-"


async def test_a_wait_that_is_asked_for_is_waited(fake: FakeRegistry) -> None:
    refusing(429, 1, fake, "blobs", Retry_After="1")
    start = time.monotonic()
    async with Registry() as registry:
        repository = registry.open(Reference.parse(f"{fake.host}/app"))
        assert await fetch(PersistentSource(repository, Retry(first_seconds=0.001))) == BLOB
    assert time.monotonic() - start >= 1


async def test_a_wait_that_is_too_long_is_left_to_the_caller(
    fake: FakeRegistry, source: PersistentSource
) -> None:
    refusing(429, 9, fake, "blobs", Retry_After="3600")
    with pytest.raises(UnavailableError, match="try again in 3600 seconds") as caught:
        await fetch(source)
    assert caught.value.retry_after == 3600
    assert len(fake.seen) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (formatdate(1_000_030, usegmt=True), 30.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("٣", None),
    ],
)
def test_the_header_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, now=1_000_000.0) == seconds


@given(st.text())
def test_no_header_raises_anything(header: str) -> None:
    found = retry_after(header, now=0.0)
    assert found is None or found >= 0
