"""What a hostile or broken registry, redirect, token service or image must not achieve."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.documents import make_image
from tests.fake_registry import FakeRegistry

from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import (
    BackendError,
    CdimageError,
    DigestMismatchError,
    InvalidReferenceError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cdimage.reference import Reference
from cdimage.registry import Registry, Repository
from cdimage.registry.credentials import credentials_in, helper_for, parse_config
from cdimage.registry.endpoint import redirected, wire_url
from cdimage.registry.failure import error_of

MANIFEST = make_image()[0]
BLOB = bytes(range(256)) * 2000
LAYER = Descriptor.of(f"{MediaType.OCI_LAYER}+gzip", BLOB)
SECRET = "hunter2"
BASIC = f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def always(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers, body=body)

    return answer


def raw(data: bytes) -> Answer:
    """Bytes straight onto the connection, which then ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(data)
        request.transport.close()
        return web.Response()

    return answer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    async with registry.serving():
        registry.add_manifest("1.0", MANIFEST.data)
        registry.add_manifest("latest", MANIFEST.data)
        registry.add_blob(BLOB)
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    async with registry.serving():
        registry.add_blob(BLOB)
        yield registry


@pytest.fixture
async def source(fake: FakeRegistry) -> AsyncIterator[Repository]:
    async with Registry(insecure=True) as registry:
        yield registry.open(Reference.parse(f"{fake.host}/app"))


def tagged(fake: FakeRegistry, tag: str = "1.0") -> Reference:
    return Reference.parse(f"{fake.host}/app:{tag}")


async def fetch(source: Repository, descriptor: Descriptor = LAYER, offset: int = 0) -> bytes:
    async with source.fetch(descriptor, offset) as chunks:
        return b"".join([chunk async for chunk in chunks])


def log_in(folder: Path, host: str) -> None:
    config = {"auths": {host: {"username": "me", "password": SECRET}}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
async def test_a_host_that_a_redirect_leads_to_cannot_ask_for_the_credentials(
    fake: FakeRegistry, other: FakeRegistry, source: Repository, folder: Path, scheme: str
) -> None:
    log_in(folder, fake.host)
    challenge = f'{scheme} realm="http://{other.host}/token"'
    other.misbehave["blobs"] = always(401, {"WWW-Authenticate": challenge})
    target = f"http://{other.host}/v2/app/blobs/x?signature={SECRET}"
    fake.misbehave["blobs"] = always(307, {"Location": target})
    with pytest.raises(PermissionDeniedError) as caught:
        await fetch(source)
    assert [request.headers.get("Authorization") for request in other.seen] == [None]
    assert SECRET not in str(caught.value)


async def test_what_is_in_netrc_goes_to_nobody(
    fake: FakeRegistry,
    other: FakeRegistry,
    source: Repository,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = folder / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    location = f"http://{other.host}/v2/app/blobs/{LAYER.digest}"
    fake.misbehave["blobs"] = always(307, {"Location": location})
    assert await fetch(source) == BLOB
    seen = [*fake.seen, *other.seen]
    assert [request.headers.get("Authorization") for request in seen] == [None, None]


@pytest.mark.parametrize("error", [TimeoutError("mine"), OSError("mine"), ValueError("mine")])
async def test_an_error_of_the_caller_passes_through_unchanged(
    source: Repository, error: Exception
) -> None:
    async def read_and_fail() -> None:
        async with source.fetch(LAYER) as chunks:
            assert await anext(chunks)
            raise error

    with pytest.raises(type(error)) as caught:
        await read_and_fail()
    assert caught.value is error


async def test_an_error_of_the_caller_is_not_retried_at_the_next_foreign_address(
    other: FakeRegistry, source: Repository
) -> None:
    url = f"http://{other.host}/v2/app/blobs/{LAYER.digest}"
    media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    foreign = Descriptor(media_type, LAYER.digest, LAYER.size, urls=(url, url))
    with pytest.raises(DigestMismatchError):
        async with source.fetch(foreign):
            raise DigestMismatchError("wrong", expected="a", actual="b")
    assert len(other.seen) == 1


async def test_leaving_a_blob_early_closes_its_connection(
    fake: FakeRegistry, source: Repository
) -> None:
    ended = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1 << 16))
        finally:
            ended.set()

    fake.misbehave["blobs"] = answer
    async with source.fetch(LAYER) as chunks:
        await anext(chunks)
    async with asyncio.timeout(10):
        await ended.wait()
    fake.misbehave.clear()
    assert await fetch(source) == BLOB


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "http://h:99999/",
        "http://me:pw@127.0.0.1/",
        "https://",
        "//",
        "http://\udcff/",
    ],
)
async def test_a_redirect_to_what_is_no_address_is_an_error_of_ours(
    fake: FakeRegistry, source: Repository, location: str
) -> None:
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
    fake.misbehave["blobs"] = raw(head + location.encode(errors="surrogateescape") + b"\r\n\r\n")
    with pytest.raises(CdimageError):
        await fetch(source)


@given(st.text(), st.sampled_from(["http", "https"]))
def test_no_redirect_raises_a_foreign_error(location: str, scheme: str) -> None:
    try:
        target = redirected(f"{scheme}://registry.example/v2/", location)
    except BackendError:
        return
    assert wire_url(target) == target
    assert target.startswith("https:") or scheme == "http"


async def test_what_a_redirect_has_quoted_stays_as_it_is(
    fake: FakeRegistry, other: FakeRegistry, source: Repository
) -> None:
    path = f"/v2/app/blobs/{LAYER.digest}?sig=a%2Fb%2B%7E%3d&x=%41"
    fake.misbehave["blobs"] = always(307, {"Location": f"http://{other.host}{path}"})
    assert await fetch(source) == BLOB
    assert other.seen[0].raw_path == path


async def test_a_host_that_cannot_be_asked_is_an_error_of_ours() -> None:
    reference = Reference.parse(f"{'a' * 70}.example/app:x")
    async with Registry() as client:
        with pytest.raises(BackendError, match="not an address"):
            await client.open(reference).resolve(reference)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 ?\r\n\r\n",
        b"SSH-2.0-server\r\n\r\n",
        b"",
    ],
)
async def test_no_answer_raises_a_foreign_error(
    fake: FakeRegistry, source: Repository, answer: bytes
) -> None:
    fake.misbehave["manifests"] = fake.misbehave["blobs"] = raw(answer)
    for asked in (source.resolve(tagged(fake)), fetch(source)):
        with pytest.raises((UnavailableError, BackendError)) as caught:
            await asked
        assert f"{fake.host}/app" in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"token": 7}',
        b'{"token": ""}',
        b'{"token": "a\\nb"}',
        b'{"token": "\\ud800"}',
        b" " * (1 << 21),
    ],
    ids=["nothing", "list", "deep", "number", "empty", "line feed", "surrogate", "too much"],
)
async def test_a_token_service_that_gives_no_token_is_an_error_of_ours(
    fake: FakeRegistry, source: Repository, answer: bytes
) -> None:
    fake.accepted, fake.challenge = "Bearer good", f'Bearer realm="http://{fake.host}/token"'
    fake.misbehave["token"] = always(200, body=answer)
    with pytest.raises(BackendError):
        await source.resolve(tagged(fake))


@pytest.mark.parametrize("seconds", [10**400, -1, 0, 1e-9, True, "60", None])
async def test_any_lifetime_of_a_token_is_taken(
    fake: FakeRegistry, source: Repository, seconds: object
) -> None:
    fake.accepted, fake.challenge = "Bearer good", f'Bearer realm="http://{fake.host}/token"'
    fake.tokens = [{"token": "good", "expires_in": seconds}]
    assert await fetch(source) == BLOB


async def test_an_expired_token_is_not_sent(
    fake: FakeRegistry, source: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("cdimage.registry.auth.monotonic", lambda: now)
    fake.accepted, fake.challenge = "Bearer good", f'Bearer realm="http://{fake.host}/token"'
    fake.tokens = [{"token": "good", "expires_in": 300}]
    await fetch(source)
    now += 294
    await fetch(source)
    assert fake.paths().count("/token") == 1
    now += 2
    await fetch(source)
    assert fake.paths().count("/token") == 2
    sent = [r.headers.get("Authorization") for r in fake.seen if r.path != "/token"]
    assert sent == [None, "Bearer good", "Bearer good", "Bearer good"]


async def test_a_token_is_shared_by_all_that_open_the_repository(fake: FakeRegistry) -> None:
    fake.accepted, fake.challenge = "Bearer good", f'Bearer realm="http://{fake.host}/token"'
    async with Registry(insecure={fake.host}) as registry:
        for _ in range(3):
            await fetch(registry.open(tagged(fake)))
    assert fake.paths().count("/token") == 1


async def test_scopes_that_a_registry_names_are_asked_for_beside_ours(
    fake: FakeRegistry, source: Repository
) -> None:
    fake.accepted = "Bearer good"
    fake.challenge = f'Bearer realm="http://{fake.host}/token?a=b",scope="theirs"'
    await fetch(source)
    asked = next(request for request in fake.seen if request.path == "/token")
    assert asked.query.getall("scope") == ["repository:app:pull", "theirs"]
    assert asked.query["a"] == "b"
    assert "service" not in asked.query


async def test_basic_credentials_that_are_refused_are_sent_once(
    fake: FakeRegistry, source: Repository, folder: Path
) -> None:
    log_in(folder, fake.host)
    fake.accepted, fake.challenge = "Basic other", 'Basic realm="r"'
    with pytest.raises(PermissionDeniedError) as caught:
        await fetch(source)
    assert [r.headers.get("Authorization") for r in fake.seen] == [None, BASIC]
    assert SECRET not in str(caught.value)


async def test_basic_credentials_that_were_good_once_are_not_sent_twice_when_refused(
    fake: FakeRegistry, source: Repository, folder: Path
) -> None:
    log_in(folder, fake.host)
    fake.accepted, fake.challenge = BASIC, 'Basic realm="r"'
    assert await fetch(source) == BLOB
    fake.accepted = "Basic other"
    fake.seen.clear()
    with pytest.raises(PermissionDeniedError, match="refuses the credentials"):
        await fetch(source)
    assert [r.headers.get("Authorization") for r in fake.seen] == [BASIC]


async def test_bytes_arrive_as_they_are_stored_whatever_they_are_said_to_be(
    fake: FakeRegistry, source: Repository
) -> None:
    packed = gzip.compress(BLOB)
    fake.misbehave["blobs"] = always(200, {"Content-Encoding": "gzip"}, packed)
    assert await fetch(source) == packed


@pytest.mark.parametrize("location", ["http://r.example/v2/", "http://other.example/"])
def test_a_redirect_does_not_lead_from_https_to_plain_http(location: str) -> None:
    with pytest.raises(BackendError, match="not https"):
        redirected("https://r.example/v2/", location)
    assert redirected("http://r.example/v2/", location) == location


@pytest.mark.parametrize("url", ["https://me@r.example/", "https://me:pw@r.example/"])
def test_an_address_that_names_a_user_is_not_asked(url: str) -> None:
    assert wire_url(url) is None


async def test_without_a_tag_the_latest_is_asked_for(
    fake: FakeRegistry, source: Repository
) -> None:
    await source.resolve(Reference.parse(f"{fake.host}/app"))
    assert fake.paths() == ["manifests/latest"]


async def test_another_repository_is_not_resolved_here(
    fake: FakeRegistry, source: Repository
) -> None:
    with pytest.raises(InvalidReferenceError, match="not in the repository"):
        await source.resolve(Reference.parse(f"{fake.host}/other:1.0"))
    assert fake.seen == []


@pytest.mark.parametrize(("announced", "is_refused"), [("sha256:" + "0" * 64, True), ("x", False)])
async def test_a_registry_that_disagrees_with_its_own_bytes_is_not_believed(
    fake: FakeRegistry, source: Repository, announced: str, is_refused: bool
) -> None:
    headers = {"Docker-Content-Digest": announced, "Content-Type": MediaType.OCI_MANIFEST}
    fake.misbehave["manifests"] = always(200, headers, MANIFEST.data)
    if is_refused:
        with pytest.raises(DigestMismatchError):
            await source.resolve(tagged(fake))
    else:
        assert (await source.resolve(tagged(fake))).digest == MANIFEST.digest


async def test_a_sha512_digest_is_checked_as_such(fake: FakeRegistry, source: Repository) -> None:
    digest = Digest.of(MANIFEST.data, "sha512")
    fake.manifests[str(digest)] = (MediaType.OCI_MANIFEST, MANIFEST.data)
    found = await source.resolve(tagged(fake).at(digest))
    assert found.digest == digest


async def test_embedded_bytes_cost_no_request(fake: FakeRegistry, source: Repository) -> None:
    embedded = Descriptor(MediaType.OCI_CONFIG, Digest.of(b""), 0, data=b"")
    assert await fetch(source, embedded) == b""
    embedded = Descriptor(MediaType.OCI_CONFIG, Digest.of(b"{}"), 2, data=b"{}")
    assert await fetch(source, embedded, 1) == b"}"
    assert fake.seen == []


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "MANIFEST_UNKNOWN", NotFoundError),
        (403, "TOOMANYREQUESTS", UnavailableError),
        (404, "DENIED", PermissionDeniedError),
        (400, "NAME_INVALID", InvalidReferenceError),
        (503, "MANIFEST_UNKNOWN", UnavailableError),
        (401, "MANIFEST_UNKNOWN", PermissionDeniedError),
        (403, "SURPRISE", PermissionDeniedError),
    ],
)
def test_the_code_decides_where_the_status_leaves_it_open(
    status: int, code: str, error: type[CdimageError]
) -> None:
    message = f"see https://r.example/x?token={SECRET}\nnow"
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    found = error_of(status, body, "r.example/app:x", "r.example")
    assert type(found) is error
    assert SECRET not in str(found)
    assert "\n" not in str(found)


@given(st.integers(300, 599), st.binary() | st.from_regex(rb'\{"errors":.*\}'))
def test_no_error_body_raises_anything_else(status: int, body: bytes) -> None:
    assert isinstance(error_of(status, body, "r.example/app", "r.example"), CdimageError)


async def test_an_endless_explanation_does_not_hide_the_status(
    fake: FakeRegistry, source: Repository
) -> None:
    fake.misbehave["manifests"] = always(404, body=bytes(1 << 20))
    with pytest.raises(NotFoundError):
        await source.resolve(tagged(fake))


KEYS = st.sampled_from(
    ["auths", "credHelpers", "credsStore", "r.example", "auth", "username", "identitytoken"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | KEYS, inner),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES))
def test_no_configuration_raises_anything_but_what_is_said(config: dict[str, object]) -> None:
    try:
        parsed = parse_config(json.dumps(config).encode(), "config.json")
        helper, server = helper_for(parsed, "r.example")
        credentials_in(parsed, "r.example", "", "config.json")
    except PermissionDeniedError:
        return
    assert isinstance(helper, str)
    assert server == "r.example"


@given(st.binary())
def test_no_bytes_of_a_configuration_raise_anything_else(data: bytes) -> None:
    with suppress(PermissionDeniedError):
        parse_config(data, "config.json")


@pytest.mark.parametrize("key", ["r.example/team", "r.example.evil", "evil/r.example"])
def test_an_entry_for_something_else_is_not_used(key: str) -> None:
    config = {"auths": {key: {"username": "me", "password": SECRET}}}
    assert not credentials_in(config, "r.example", "", "config.json")


def test_a_helper_of_one_registry_goes_before_the_helper_of_all() -> None:
    config = {"credsStore": "all", "credHelpers": {"docker.io": "own"}}
    assert helper_for(config, "docker.io") == ("own", "docker.io")
    assert helper_for(config, "r.example") == ("all", "r.example")


@pytest.mark.parametrize("entry", [{"auth": "bm9jb2xvbg=="}, {"registrytoken": "a\nb"}])
def test_an_entry_that_no_header_can_hold_is_said_to_be_so(entry: dict[str, str]) -> None:
    with pytest.raises(PermissionDeniedError, match="log in"):
        credentials_in({"auths": {"r.example": entry}}, "r.example", "", "config.json")


@asynccontextmanager
async def over_tls(authority: trustme.CA) -> AsyncIterator[tuple[str, list[str | None]]]:
    """A registry on TLS; its host, and the Authorization headers that it saw."""
    seen: list[str | None] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=MANIFEST.data, content_type=MediaType.OCI_MANIFEST)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


async def test_a_loopback_registry_that_understands_tls_is_spoken_to_in_tls(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    async with over_tls(authority) as (host, seen), Registry() as registry:
        reference = Reference.parse(f"{host}/app:x")
        assert (await registry.open(reference).resolve(reference)).digest == MANIFEST.digest
        assert len(seen) == 1


async def test_a_certificate_that_nobody_trusts_is_refused_and_not_gone_around() -> None:
    async with over_tls(trustme.CA()) as (host, seen), Registry() as registry:
        reference = Reference.parse(f"{host}/app:x")
        with pytest.raises(PermissionDeniedError, match="certificate"):
            await registry.open(reference).resolve(reference)
        assert seen == []


async def test_a_loopback_registry_that_does_not_understand_tls_is_spoken_to_in_the_clear(
    fake: FakeRegistry,
) -> None:
    async with Registry() as registry:
        found = await registry.open(tagged(fake)).resolve(tagged(fake))
    assert found.digest == MANIFEST.digest


def test_importing_the_package_does_not_load_the_http_client() -> None:
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = (
        "import sys, cdimage.registry; sys.exit('aiohttp' in sys.modules or 'yarl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
