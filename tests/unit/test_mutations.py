"""Thousands of broken documents, headers and tokens: errors of ours, soon, and nothing kept."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.documents import make_image
from tests.fake_registry import FakeRegistry
from tests.mutations import mutated, mutated_header

from cdimage.descriptor import Descriptor, MediaType, Platform
from cdimage.digest import Digest
from cdimage.errors import CdimageError, NotFoundError
from cdimage.image import Config, Index, Manifest
from cdimage.pause import PauseBinaries
from cdimage.prepare import prepare
from cdimage.pull import read
from cdimage.reference import Reference
from cdimage.registry import Registry
from cdimage.registry.credentials import Credentials
from cdimage.resolve import resolve_image

# 30 times what a property is usually tried with: 3000 each here, 150,000 in `make fuzz`.
many = settings(max_examples=30 * settings().max_examples)
SOON = 2.0
"""Seconds that no document may take; most take a thousandth."""
LINUX = Platform("linux", "amd64")
PAUSE = PauseBinaries.bundled().read(LINUX)
MANIFEST, CONFIG = make_image()
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_INDEX,
        "manifests": [
            {
                "mediaType": MediaType.OCI_MANIFEST,
                "digest": str(MANIFEST.descriptor.digest),
                "size": MANIFEST.descriptor.size,
                "platform": {"os": "linux", "architecture": "amd64"},
            }
        ],
    }
).encode()
seeds = st.integers(0, 2**64)
HTTP_EXAMPLES = 3000


class Memory:
    """A source of what it is given, whose name says what it is."""

    name = "memory"

    def __init__(self, *blobs: bytes, media_type: str) -> None:
        self._blobs = {Digest.of(blob): blob for blob in blobs}
        self._root = Descriptor(media_type, Digest.of(blobs[0]), len(blobs[0]), data=blobs[0])

    async def resolve(self, reference: Reference) -> Descriptor:
        return self._root

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if descriptor.digest not in self._blobs:
            raise NotFoundError(f"{descriptor.digest} is not in memory")
        yield _once(self._blobs[descriptor.digest][offset:])


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def resolve_and_prepare(source: Memory) -> None:
    """All that is done with documents before anything is written."""

    async def run() -> None:
        root = await source.resolve(Reference.parse("x.example/y"))
        reference = Reference.parse(f"x.example/y@{root.digest}")
        image = await resolve_image(source, reference, root.digest, None, LINUX)
        prepare(image.manifest, image.config, PAUSE)

    start = time.monotonic()
    with suppress(CdimageError):
        asyncio.run(run())
    assert time.monotonic() - start < SOON


@given(seeds)
@many
def test_a_broken_manifest_is_an_error_of_ours(seed: int) -> None:
    data = mutated(MANIFEST.data, seed)
    resolve_and_prepare(Memory(data, CONFIG.data, media_type=MediaType.OCI_MANIFEST))


@given(seeds)
@many
def test_a_broken_config_is_an_error_of_ours(seed: int) -> None:
    config = mutated(CONFIG.data, seed)
    manifest = json.loads(MANIFEST.data)
    manifest["config"].update(digest=str(Digest.of(config)), size=len(config))
    data = json.dumps(manifest).encode()
    resolve_and_prepare(Memory(data, config, media_type=MediaType.OCI_MANIFEST))


@given(seeds)
@many
def test_a_broken_index_is_an_error_of_ours(seed: int) -> None:
    data = mutated(INDEX, seed)
    resolve_and_prepare(Memory(data, MANIFEST.data, CONFIG.data, media_type=MediaType.OCI_INDEX))


def test_the_documents_are_good_before_they_are_broken() -> None:
    assert Manifest.parse(MANIFEST.data, MediaType.OCI_MANIFEST).layers
    assert Config.parse(CONFIG.data, MediaType.OCI_CONFIG).diff_ids
    assert Index.parse(INDEX, MediaType.OCI_INDEX).manifests


HEADERS = {
    "Content-Type": MediaType.OCI_MANIFEST,
    "Content-Range": "bytes 100-199/200",
    "Docker-Content-Digest": str(MANIFEST.descriptor.digest),
    "Location": "/v2/app/blobs/elsewhere?x=1",
    "Retry-After": "120",
    "Warning": '299 - "this is old"',
    "WWW-Authenticate": 'Bearer realm="/token",service="s",scope="repository:app:pull"',
    "Content-Encoding": "gzip",
}
STATUSES = (200, 200, 200, 206, 206, 301, 307, 400, 401, 401, 403, 404, 416, 429, 500, 503)
TOKEN = b'{"token": "good", "access_token": "good", "expires_in": 60, "issued_at": "now"}'


@pytest.fixture
async def broken() -> AsyncIterator[FakeRegistry]:
    """A registry whose every answer is another, by the seed that was set last."""
    registry = FakeRegistry()
    dice = random.Random()

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {
            name: mutated_header(HEADERS[name], dice.randrange(2**32)) or "x"
            for name in dice.sample(sorted(HEADERS), dice.randrange(len(HEADERS)))
        }
        if dice.random() < 0.5:
            realm = f'Bearer realm="http://{registry.host}/token",service="s"'
            headers["WWW-Authenticate"] = realm
        body = mutated(MANIFEST.data, dice.randrange(2**32)) if dice.random() < 0.5 else b"{}"
        return web.Response(status=dice.choice(STATUSES), headers=headers, body=body)

    async def token(request: web.Request) -> web.StreamResponse:
        status = dice.choice((200, 200, 200, 401, 404, 503))
        return web.Response(status=status, body=mutated(TOKEN, dice.randrange(2**32)))

    registry.misbehave = {"manifests": answer, "blobs": answer, "token": token}
    registry.reseed = dice.seed  # type: ignore[attr-defined]
    async with registry.serving():
        yield registry


async def test_broken_answers_are_errors_of_ours_and_nothing_is_kept(broken: FakeRegistry) -> None:
    """Each example asks for a manifest, and for a blob from its middle."""
    counts = []
    async with Registry(still_seconds=1) as registry:
        for seed in range(HTTP_EXAMPLES):
            broken.reseed(seed)  # type: ignore[attr-defined]
            reference = Reference.parse(f"{broken.host}/app:1")
            source = registry.open(reference, Credentials("me", "hunter2"))
            start = time.monotonic()
            with suppress(CdimageError):
                await source.resolve(reference)
            with suppress(CdimageError):
                async with source.fetch(MANIFEST.descriptor, 100) as chunks:
                    async for _ in chunks:
                        pass
            with suppress(CdimageError):
                await read(source, MANIFEST.config)
            assert time.monotonic() - start < SOON, seed
            broken.seen.clear()
            if seed in (HTTP_EXAMPLES // 3, HTTP_EXAMPLES - 1):
                gc.collect()
                counts.append(len(gc.get_objects()))
    assert counts[1] - counts[0] < HTTP_EXAMPLES // 10
