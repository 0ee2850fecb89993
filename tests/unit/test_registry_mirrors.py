"""Mirrors, certificates and proxies, over real connections."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from tests.certs_d import write
from tests.documents import make_image
from tests.fake_registry import FakeRegistry

from cdimage.descriptor import Descriptor, MediaType
from cdimage.errors import (
    BackendError,
    CdimageError,
    InvalidConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cdimage.reference import Reference
from cdimage.registry import Registry
from cdimage.registry.credentials import Credentials

MANIFEST = make_image()[0]
BLOB = b"layer" * 1000
LAYER = Descriptor.of(MediaType.OCI_LAYER, BLOB)
APP = Reference.parse("registry.invalid/app:1.0")


def filled() -> FakeRegistry:
    registry = FakeRegistry()
    registry.add_manifest("1.0", MANIFEST.data)
    registry.add_blob(BLOB)
    return registry


@pytest.fixture
async def mirror() -> AsyncIterator[FakeRegistry]:
    async with filled().serving() as registry:
        yield registry


@pytest.fixture
async def second() -> AsyncIterator[FakeRegistry]:
    async with filled().serving() as registry:
        yield registry


async def read_all(folder: Path, credentials: Credentials | None = None) -> bytes:
    """Resolve the tag and read the layer."""
    async with Registry(hosts_folders=[folder]) as registry:
        source = registry.open(APP, credentials)
        found = await source.resolve(APP)
        assert found.digest == MANIFEST.descriptor.digest
        async with source.fetch(LAYER) as chunks:
            return b"".join([chunk async for chunk in chunks])


# Order and fall-through.


async def test_the_first_that_has_it_is_asked_and_no_other(
    tmp_path: Path, mirror: FakeRegistry, second: FakeRegistry
) -> None:
    text = f'[host."http://{mirror.host}"]\n[host."http://{second.host}"]\n'
    write(tmp_path, text, APP.registry)
    assert await read_all(tmp_path) == BLOB
    assert second.seen == []
    assert all(request.query["ns"] == APP.registry for request in mirror.seen)


async def failing(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def lying(request: web.Request) -> web.StreamResponse:
    headers = {"Docker-Content-Digest": str(MANIFEST.descriptor.digest)}
    return web.Response(body=b"{}", content_type=MediaType.OCI_MANIFEST, headers=headers)


async def private(request: web.Request) -> web.StreamResponse:
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})


@pytest.mark.parametrize("answer", [failing, lying, private])
async def test_what_fails_at_one_is_asked_of_the_next(
    tmp_path: Path, mirror: FakeRegistry, second: FakeRegistry, answer: object
) -> None:
    mirror.misbehave = {"manifests": answer, "blobs": failing}  # type: ignore[dict-item]
    text = f'[host."http://{mirror.host}"]\n[host."http://{second.host}"]\n'
    write(tmp_path, text, APP.registry)
    assert await read_all(tmp_path) == BLOB
    assert {request.path.split("/")[3] for request in mirror.seen} == {"manifests", "blobs"}


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFoundError), (503, UnavailableError), (418, BackendError)]
)
async def test_when_all_fail_the_registry_itself_has_the_last_word(
    tmp_path: Path, mirror: FakeRegistry, second: FakeRegistry, status: int,
    error: type[CdimageError],
) -> None:  # fmt: skip
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    mirror.misbehave["manifests"], second.misbehave["manifests"] = failing, answer
    write(tmp_path, f'server = "http://{second.host}"\n[host."http://{mirror.host}"]', APP.registry)
    with pytest.raises(error, match=r"before that, from a mirror: .*status 500"):
        await read_all(tmp_path)


async def test_a_path_of_its_own_is_kept(tmp_path: Path, mirror: FakeRegistry) -> None:
    text = f'[host."http://{mirror.host}/v2/cache/dir"]\noverride_path = true\n'
    write(tmp_path, text, APP.registry)
    async with Registry(hosts_folders=[tmp_path]) as registry:
        with pytest.raises(CdimageError):
            await registry.open(APP).resolve(APP)
    assert mirror.seen[0].path == "/v2/cache/dir/app/manifests/1.0"


async def test_headers_go_to_their_host_and_not_where_it_redirects_to(
    tmp_path: Path, mirror: FakeRegistry, second: FakeRegistry
) -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        location = f"http://{second.host}{request.path}"
        return web.Response(status=307, headers={"Location": location})

    mirror.misbehave["blobs"] = redirect
    text = (
        f'[host."http://{mirror.host}"]\n[host."http://{mirror.host}".header]\nx-key = "secret"\n'
    )
    write(tmp_path, text, APP.registry)
    assert await read_all(tmp_path) == BLOB
    assert {request.headers.get("X-Key") for request in mirror.seen} == {"secret"}
    assert {request.headers.get("X-Key") for request in second.seen} == {None}


async def test_only_the_registry_itself_is_believed_what_a_caller_may_see(
    tmp_path: Path, mirror: FakeRegistry
) -> None:
    write(tmp_path, f'[host."http://{mirror.host}"]\n', APP.registry)
    with pytest.raises(NotFoundError, match=r"no host registry\.invalid"):
        await read_all(tmp_path, Credentials("me", "hunter2"))
    assert mirror.seen == []


async def test_where_nobody_may_be_asked_the_error_names_the_file(
    tmp_path: Path, mirror: FakeRegistry
) -> None:
    text = f'server = "http://{mirror.host}"\ncapabilities = ["pull"]\n'
    write(tmp_path, text, APP.registry)
    with pytest.raises(PermissionDeniedError, match=r"hosts\.toml"):
        await read_all(tmp_path)


# Certificates.


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("worker@node.example")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.cert")
    return authority


def server_context(authority: trustme.CA, *, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    ("settings", "mutual", "works"),
    [
        ("", False, False),
        ('ca = "../ca.pem"', False, True),
        ("skip_verify = true", False, True),
        ('ca = "../ca.pem"', True, False),
        ('ca = "../ca.pem"\nclient = [["../client.cert", "../client.key"]]', True, True),
        ('ca = "../client.key"', False, False),
    ],
)
async def test_certificates_are_those_of_the_file(
    tmp_path: Path, authority: trustme.CA, settings: str, mutual: bool, works: bool
) -> None:
    async with filled().serving(tls=server_context(authority, mutual=mutual)) as mirror:
        write(tmp_path, f'[host."https://{mirror.host}"]\n{settings}\n', APP.registry)
        if works:
            assert await read_all(tmp_path) == BLOB
        else:
            with pytest.raises((CdimageError, InvalidConfigurationError)) as caught:
                await read_all(tmp_path)
            assert "\n" not in str(caught.value)


async def test_the_older_folders_of_certificates_serve_too(
    tmp_path: Path, authority: trustme.CA
) -> None:
    async with filled().serving(tls=server_context(authority, mutual=True)) as registry:
        folder = tmp_path / registry.host
        folder.mkdir()
        (tmp_path / "ca.pem").rename(folder / "ca.crt")
        for name in ("client.cert", "client.key"):
            (tmp_path / name).rename(folder / name)
        reference = Reference.parse(f"{registry.host}/app:1.0")
        async with Registry(hosts_folders=[tmp_path]) as ours:
            found = await ours.open(reference).resolve(reference)
    assert found.digest == MANIFEST.descriptor.digest


async def test_our_certificate_is_not_shown_where_a_redirect_leads(
    tmp_path: Path, authority: trustme.CA
) -> None:
    peers: list[object] = []

    async def note(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peercert"))
        return web.Response(body=BLOB)

    elsewhere, mirror = filled(), filled()
    optional = server_context(authority)
    optional.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(optional)
    async with (
        elsewhere.serving(tls=optional),
        mirror.serving(tls=server_context(authority, mutual=True)),
    ):
        elsewhere.misbehave["blobs"] = note

        async def redirect(request: web.Request) -> web.StreamResponse:
            location = f"https://{elsewhere.host}{request.path}"
            return web.Response(status=307, headers={"Location": location})

        mirror.misbehave["blobs"] = redirect
        text = (
            f'[host."https://{mirror.host}"]\nca = "../ca.pem"\n'
            'client = [["../client.cert", "../client.key"]]\n'
        )
        write(tmp_path, text, APP.registry)
        assert await read_all(tmp_path) == BLOB
    assert [bool(peer) for peer in peers] == [False]


# Proxies.


async def test_a_proxy_of_the_environment_is_asked(
    mirror: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@{mirror.host}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with Registry(insecure=True) as registry:
        found = await registry.open(APP).resolve(APP)
    assert found.digest == MANIFEST.descriptor.digest
    (asked,) = mirror.seen
    assert asked.host == APP.registry
    assert asked.headers["Proxy-Authorization"].startswith("Basic ")


async def test_what_no_proxy_names_is_asked_directly(
    mirror: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{mirror.host}")
    monkeypatch.setenv("NO_PROXY", "registry.invalid")
    async with Registry(insecure=True) as registry:
        with pytest.raises(NotFoundError, match="no host"):
            await registry.open(APP).resolve(APP)
    assert mirror.seen == []
