"""The registry as a source, against one on loopback that behaves and misbehaves."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from tests.documents import make_image
from tests.fake_registry import FakeRegistry

from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import (
    BackendError,
    CdimageError,
    DigestMismatchError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cdimage.pull import read
from cdimage.reference import Reference
from cdimage.registry import Registry, Repository
from cdimage.registry.auth import Authenticator, Tokens
from cdimage.registry.challenge import Challenge
from cdimage.registry.endpoint import Endpoint
from cdimage.registry.hosts import Host

MANIFEST = make_image()[0]
BLOB = bytes(range(256)) * 2000
LAYER = Descriptor.of(f"{MediaType.OCI_LAYER}+gzip", BLOB)


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    async with registry.serving():
        registry.add_manifest("1.0", MANIFEST.data)
        registry.add_blob(BLOB)
        yield registry


@pytest.fixture
async def source(fake: FakeRegistry) -> AsyncIterator[Repository]:
    async with Registry() as registry:
        yield registry.open(Reference.parse(f"{fake.host}/app"))


def tagged(fake: FakeRegistry, tag: str = "1.0") -> Reference:
    return Reference.parse(f"{fake.host}/app:{tag}")


async def fetch(source: Repository, descriptor: Descriptor = LAYER, offset: int = 0) -> bytes:
    async with source.fetch(descriptor, offset) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_tag_is_resolved_and_its_bytes_are_not_asked_for_twice(
    fake: FakeRegistry, source: Repository
) -> None:
    found = await source.resolve(tagged(fake))
    assert found == MANIFEST.descriptor
    assert await read(source, found) == MANIFEST.data
    assert fake.paths() == ["manifests/1.0"]


async def test_with_a_tag_and_a_digest_the_digest_is_asked_for(
    fake: FakeRegistry, source: Repository
) -> None:
    reference = Reference.parse(f"{fake.host}/app:other@{MANIFEST.digest}")
    assert (await source.resolve(reference)).digest == MANIFEST.digest
    assert fake.paths() == [f"manifests/{MANIFEST.digest}"]


@pytest.mark.parametrize(
    "announced", ["application/json", "application/octet-stream", "text/plain; charset=utf-8"]
)
async def test_a_type_that_tells_nothing_is_read_from_the_document(
    fake: FakeRegistry, source: Repository, announced: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=MANIFEST.data, headers={"Content-Type": announced})

    fake.misbehave["manifests/1.0"] = answer
    assert (await source.resolve(tagged(fake))).media_type == MediaType.OCI_MANIFEST


async def test_other_bytes_than_the_digest_names_are_refused(
    fake: FakeRegistry, source: Repository
) -> None:
    wanted = Digest.of(b"something else")
    fake.manifests[str(wanted)] = (MediaType.OCI_MANIFEST, MANIFEST.data)
    with pytest.raises(DigestMismatchError, match=str(wanted)) as caught:
        await source.resolve(tagged(fake).at(wanted))
    assert (caught.value.expected, caught.value.actual) == (str(wanted), str(MANIFEST.digest))


async def test_an_endless_manifest_is_cut_off(fake: FakeRegistry, source: Repository) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(bytes(1 << 16))
        return response

    fake.misbehave["manifests"] = answer
    with pytest.raises(BackendError, match="sent more than 8192 KiB"):
        await source.resolve(tagged(fake))


@pytest.mark.parametrize("offset", [0, 1, 100_000, len(BLOB) - 1])
async def test_a_blob_is_read_from_any_offset(
    fake: FakeRegistry, source: Repository, offset: int
) -> None:
    assert await fetch(source, LAYER, offset) == BLOB[offset:]


async def test_a_server_that_ignores_the_range_costs_bytes_and_nothing_else(
    fake: FakeRegistry, source: Repository
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=BLOB)

    fake.misbehave["blobs"] = answer
    assert await fetch(source, LAYER, 12_345) == BLOB[12_345:]


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", "bytes x", ""])
async def test_a_server_that_answers_with_another_range_is_not_believed(
    fake: FakeRegistry, source: Repository, content_range: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=206, body=BLOB, headers={"Content-Range": content_range})

    fake.misbehave["blobs"] = answer
    with pytest.raises(BackendError, match="another byte"):
        await fetch(source, LAYER, 5)


async def test_a_connection_that_breaks_can_be_tried_again(
    fake: FakeRegistry, source: Repository
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(BLOB))})
        await response.prepare(request)
        await response.write(BLOB[:1000])
        assert request.transport is not None
        request.transport.close()
        return response

    fake.misbehave["blobs"] = answer
    with pytest.raises(UnavailableError, match="broke"):
        await fetch(source)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, PermissionDeniedError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
        (400, BackendError),
        (418, BackendError),
    ],
)
async def test_each_status_is_the_error_that_the_caller_can_act_on(
    fake: FakeRegistry, source: Repository, status: int, error: type[CdimageError]
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text='{"errors":[{"code":"X","message":"a\\nb"}]}')

    fake.misbehave["manifests"] = answer
    with pytest.raises(error) as caught:
        await source.resolve(tagged(fake))
    assert f"{fake.host}/app" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_registry_that_is_not_there_is_unavailable() -> None:
    async with Registry() as registry:
        source = registry.open(Reference.parse("127.0.0.1:1/app"))
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 cannot be reached"):
            await source.resolve(Reference.parse("127.0.0.1:1/app:x"))


async def test_a_server_that_does_not_speak_http_is_an_error_of_ours() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the first caller tries TLS
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.example ESMTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Registry() as registry:
        source = registry.open(Reference.parse(f"{host}/app"))
        with pytest.raises(CdimageError):
            await source.resolve(Reference.parse(f"{host}/app:x"))


async def test_redirects_are_followed_and_other_hosts_see_no_credentials(
    fake: FakeRegistry, source: Repository
) -> None:
    other = FakeRegistry(blobs={str(LAYER.digest): BLOB})

    async def answer(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"http://{other.host}/v2/app/blobs/{LAYER.digest}?sig=x")

    fake.accepted, fake.challenge = "Bearer good", f'Bearer realm="http://{fake.host}/token"'
    async with other.serving():
        await source.resolve(tagged(fake))
        fake.misbehave["blobs"] = answer
        assert await fetch(source) == BLOB
    assert fake.seen[-1].headers["Authorization"] == "Bearer good"
    assert [request.headers.get("Authorization") for request in other.seen] == [None]


async def test_redirects_in_circles_end(fake: FakeRegistry, source: Repository) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(request.path)

    fake.misbehave["blobs"] = answer
    with pytest.raises(BackendError, match="in circles"):
        await fetch(source)
    assert len(fake.seen) == 11


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:1"])
async def test_redirects_lead_to_http_only(
    fake: FakeRegistry, source: Repository, target: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    fake.misbehave["blobs"] = answer
    with pytest.raises(BackendError, match="not https"):
        await fetch(source)


async def test_a_token_is_fetched_once_for_many_requests(
    fake: FakeRegistry, source: Repository
) -> None:
    fake.accepted = "Bearer good"
    fake.challenge = (
        f'Bearer realm="http://{fake.host}/token",service="s",scope="repository:app:pull"'
    )
    await asyncio.gather(*(fetch(source) for _ in range(8)))
    asked = [request for request in fake.seen if request.path == "/token"]
    assert len(asked) == 1
    assert dict(asked[0].query) == {"service": "s", "scope": "repository:app:pull"}


async def test_a_token_that_is_refused_is_replaced_once(
    fake: FakeRegistry, source: Repository
) -> None:
    fake.accepted, fake.challenge = "Bearer new", f'Bearer realm="http://{fake.host}/token"'
    fake.tokens = [{"token": "old", "expires_in": 3600}, {"access_token": "new"}]
    with pytest.raises(PermissionDeniedError):
        await source.resolve(tagged(fake))
    fake.tokens = [{"access_token": "new"}]
    assert await fetch(source) == BLOB


async def test_a_token_that_has_expired_is_replaced_before_it_is_refused(
    fake: FakeRegistry, source: Repository
) -> None:
    fake.accepted, fake.challenge = "Bearer good", f'Bearer realm="http://{fake.host}/token"'
    fake.tokens = [{"token": "good", "expires_in": 3600}]
    await fetch(source)
    fake.accepted = "Bearer second"
    fake.tokens = [{"token": "second", "expires_in": 3600}]
    assert await fetch(source) == BLOB
    assert fake.paths().count("/token") == 2


async def test_tokens_are_not_fetched_in_the_clear_for_a_registry_on_https(
    fake: FakeRegistry,
) -> None:
    async with Registry() as registry:
        endpoint = Endpoint("registry.example", Host("https://registry.example/v2"))
        auth = Authenticator(
            Tokens(registry), Reference.parse("registry.example/app"), endpoint, None
        )
        challenge = Challenge("bearer", {"realm": f"http://{fake.host}/token"})
        with pytest.raises(PermissionDeniedError, match="without https"):
            await auth.answer([challenge], None)
    assert fake.seen == []


async def test_basic_credentials_of_dockers_configuration_are_used(
    fake: FakeRegistry, source: Repository, tmp_path: Path
) -> None:
    encoded = base64.b64encode(b"me:secret:with:colons").decode()
    config = {"auths": {fake.host: {"auth": encoded}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fake.accepted, fake.challenge = f"Basic {encoded}", 'Basic realm="r"'
    assert await fetch(source) == BLOB


async def test_without_credentials_the_error_says_what_to_do(
    fake: FakeRegistry, source: Repository
) -> None:
    fake.accepted, fake.challenge = "Basic x", 'Basic realm="r"'
    with pytest.raises(PermissionDeniedError, match="docker login"):
        await fetch(source)


async def test_an_identity_token_is_exchanged(
    fake: FakeRegistry, source: Repository, tmp_path: Path
) -> None:
    config = {"auths": {fake.host: {"auth": "", "identitytoken": "refresh"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fake.accepted, fake.challenge = "Bearer good", f'Bearer realm="http://{fake.host}/token"'
    assert await fetch(source) == BLOB
    assert [r.method for r in fake.seen if r.path == "/token"] == ["POST"]


async def test_a_foreign_layer_is_read_from_its_own_place_without_credentials(
    fake: FakeRegistry, source: Repository
) -> None:
    other = FakeRegistry(blobs={str(LAYER.digest): BLOB})
    async with other.serving():
        url = f"http://{other.host}/v2/app/blobs/{LAYER.digest}"
        foreign = Descriptor(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            LAYER.digest, LAYER.size, urls=("ftp://x/y", f"http://{fake.host}/no", url),
        )  # fmt: skip
        assert await fetch(source, foreign) == BLOB
    assert other.seen[0].headers.get("Authorization") is None


async def test_nothing_is_compressed_on_the_way(fake: FakeRegistry, source: Repository) -> None:
    await fetch(source)
    assert fake.seen[0].headers["Accept-Encoding"] == "identity"
