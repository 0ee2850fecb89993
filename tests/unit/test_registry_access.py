"""Whose credentials go where: files, callers, token services, mirrors, and places far inside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.documents import make_image
from tests.fake_registry import FakeRegistry

from cdimage.descriptor import Descriptor, MediaType
from cdimage.errors import PermissionDeniedError
from cdimage.reference import Reference
from cdimage.registry import Registry, Repository
from cdimage.registry.credentials import (
    Credentials,
    basic_header,
    credential_files,
    find_credentials,
)
from cdimage.registry.endpoint import Endpoint
from cdimage.registry.hosts import Host
from cdimage.registry.http import Connections, Request
from cdimage.registry.reach import OutOfReachError, Reach, check_literal, limited, reach_of

MANIFEST = make_image()[0]
BLOB = b"layer" * 1000
LAYER = Descriptor.of(MediaType.OCI_LAYER, BLOB)
MINE = Credentials("me", "hunter2")
YOURS = Credentials("you", "letmein")


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    async with registry.serving():
        registry.add_manifest("1.0", MANIFEST.data)
        registry.add_blob(BLOB)
        yield registry


def accepting(fake: FakeRegistry, users: dict[str, str], seen: list[web.Request]) -> None:
    """Give tokens named after users, whom Basic authentication tells apart."""

    async def token(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        user = users.get(request.headers.get("Authorization", ""))
        if user is None:
            return web.Response(status=401)
        return web.json_response({"token": user})

    fake.misbehave["token"] = token
    fake.challenge = f'Bearer realm="http://{fake.host}/token",service="s"'


async def fetch(source: Repository) -> bytes:
    async with source.fetch(LAYER) as chunks:
        return b"".join([chunk async for chunk in chunks])


# Files.


def write(path: Path, key: str, user: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {key: {"username": user, "password": "x"}}}))


async def test_each_place_is_looked_at_and_what_the_environment_names_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, runtime = tmp_path / "home", tmp_path / "run"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    usual = [
        home / ".docker/config.json",
        runtime / "containers/auth.json",
        home / ".config/containers/auth.json",
    ]
    assert list(credential_files()) == usual
    for path in reversed(usual):
        write(path, "registry.example", path.parent.parent.name)
        found = await find_credentials("registry.example")
        assert found.username == path.parent.parent.name
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "podman.json"))
    assert list(credential_files()) == [tmp_path / "podman.json", usual[0]]
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    named = [tmp_path / "docker/config.json", tmp_path / "podman.json"]
    assert list(credential_files()) == named


async def test_a_file_without_an_entry_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    write(tmp_path / "config.json", "other.example", "docker")
    write(tmp_path / "auth.json", "registry.example", "podman")
    assert (await find_credentials("registry.example")).username == "podman"
    assert (await find_credentials("other.example")).username == "docker"


async def test_the_entry_for_the_longest_part_of_the_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    keys = ["r.example", "r.example/team", "r.example/team/app", "r.example/te"]
    auths = {key: {"username": key, "password": "x"} for key in keys}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))

    async def user(repository: str) -> str:
        return (await find_credentials("r.example", repository)).username

    assert await user("team/app") == "r.example/team/app"
    assert await user("team/app/sub") == "r.example/team/app"
    assert await user("team/other") == "r.example/team"
    assert await user("tea") == "r.example"
    assert await user("") == "r.example"


# Callers.


async def test_tokens_of_one_caller_are_not_used_for_another(fake: FakeRegistry) -> None:
    seen: list[web.Request] = []
    accepting(fake, {basic_header(MINE): "mine", basic_header(YOURS): "yours"}, seen)
    reference = Reference.parse(f"{fake.host}/app")
    fake.accepted = "Bearer mine"
    async with Registry() as registry:
        assert await fetch(registry.open(reference, MINE)) == BLOB
        with pytest.raises(PermissionDeniedError):
            await fetch(registry.open(reference, YOURS))
        with pytest.raises(PermissionDeniedError):
            await fetch(registry.open(reference))
        assert await fetch(registry.open(reference, MINE)) == BLOB
    assert len(seen) == 3


async def test_the_callers_credentials_replace_those_of_the_machine(
    fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    write(tmp_path / "config.json", fake.host, "machine")
    fake.accepted, fake.challenge = basic_header(Credentials("machine", "x")), "Basic"
    reference = Reference.parse(f"{fake.host}/app")
    async with Registry() as registry:
        assert await fetch(registry.open(reference)) == BLOB
        with pytest.raises(PermissionDeniedError, match="refuses access"):
            await fetch(registry.open(reference, YOURS))
        with pytest.raises(PermissionDeniedError, match="pass others to the pull"):
            await fetch(registry.open(reference, Credentials()))


async def test_a_registry_token_of_the_callers_is_sent_as_it_is(fake: FakeRegistry) -> None:
    fake.accepted, fake.challenge = "Bearer short-lived", 'Bearer realm="http://unused.example"'
    async with Registry() as registry:
        credentials = Credentials(registry_token="short-lived")
        assert await fetch(registry.open(Reference.parse(f"{fake.host}/app"), credentials)) == BLOB
    assert all("/token" not in request.path for request in fake.seen)


# Token services.


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_service_that_knows_only_the_newer_way_is_asked_so(
    fake: FakeRegistry, status: int
) -> None:
    forms: list[dict[str, object]] = []

    async def token(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response(status=status)
        forms.append(dict(await request.post()))
        return web.json_response({"access_token": "good"})

    fake.misbehave["token"] = token
    fake.accepted = "Bearer good"
    fake.challenge = f'Bearer realm="http://{fake.host}/token",service="s"'
    async with Registry() as registry:
        assert await fetch(registry.open(Reference.parse(f"{fake.host}/app"), MINE)) == BLOB
    assert forms == [
        {
            "grant_type": "password",
            "service": "s",
            "client_id": "cdimage",
            "scope": "repository:app:pull",
            "username": "me",
            "password": "hunter2",
        }
    ]


async def test_a_password_that_is_refused_is_not_sent_in_another_way(fake: FakeRegistry) -> None:
    seen: list[web.Request] = []
    accepting(fake, {}, seen)
    fake.accepted = "Bearer good"
    async with Registry() as registry:
        with pytest.raises(PermissionDeniedError):
            await fetch(registry.open(Reference.parse(f"{fake.host}/app"), MINE))
    assert [request.method for request in seen] == ["GET"]


async def test_one_request_for_a_token_serves_all_that_wait(fake: FakeRegistry) -> None:
    seen: list[web.Request] = []
    accepting(fake, {basic_header(MINE): "mine"}, seen)
    fake.accepted = "Bearer mine"
    async with Registry() as registry:
        reference = Reference.parse(f"{fake.host}/app")
        sources = [registry.open(reference, MINE) for _ in range(8)]
        assert set(await asyncio.gather(*map(fetch, sources))) == {BLOB}
    assert len(seen) == 1


# Places far inside.


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("1.1.1.1", Reach.PUBLIC),
        ("2606:4700::1111", Reach.PUBLIC),
        ("10.1.2.3", Reach.PRIVATE),
        ("192.168.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("2002:a00:1::", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("0.0.0.0", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("169.254.169.254", Reach.LINK_LOCAL),
        ("fe80::1%eth0", Reach.LINK_LOCAL),
    ],
)
def test_addresses_lie_as_far_inside_as_they_do(address: str, reach: Reach) -> None:
    assert Reach.of(address) is reach


async def test_a_name_lies_where_its_innermost_address_does() -> None:
    assert await reach_of("localhost:5000") is Reach.LOOPBACK
    assert await reach_of("[fd00::1]:5000") is Reach.PRIVATE
    assert await reach_of("no-such-host.invalid") is Reach.PUBLIC


@given(st.text())
def test_no_host_raises_anything_else(host: str) -> None:
    try:
        check_literal(host, Reach.PUBLIC)
    except OutOfReachError:
        assert host


async def test_a_name_that_leads_too_far_inside_is_not_resolved() -> None:
    resolver = limited(aiohttp.DefaultResolver(), Reach.PRIVATE)
    with pytest.raises(OutOfReachError):
        await resolver.resolve("localhost", 80)
    assert await limited(aiohttp.DefaultResolver(), Reach.LOOPBACK).resolve("localhost", 80)
    await resolver.close()


@pytest.mark.parametrize("place", ["127.0.0.1", "localhost"])
async def test_a_public_registry_cannot_send_us_to_this_machine(
    fake: FakeRegistry, place: str
) -> None:
    endpoint = Endpoint("1.1.1.1", Host("https://1.1.1.1/v2"))
    port = fake.host.partition(":")[2]
    connections = Connections(5, 5)
    with pytest.raises(PermissionDeniedError, match="further inside the network"):
        await connections.get(Request(f"http://{place}:{port}/x", "app", {}, endpoint))
    await connections.close()
    assert fake.seen == []


async def test_no_registry_sends_us_to_a_metadata_service(fake: FakeRegistry) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "http://169.254.169.254/latest"})

    fake.misbehave["blobs"] = answer
    async with Registry() as registry:
        with pytest.raises(PermissionDeniedError, match=r"leads to 169\.254\.169\.254"):
            await fetch(registry.open(Reference.parse(f"{fake.host}/app")))


async def test_a_token_service_far_inside_is_not_asked(fake: FakeRegistry) -> None:
    fake.accepted = "Bearer good"
    fake.challenge = 'Bearer realm="http://169.254.169.254/token"'
    async with Registry() as registry:
        with pytest.raises(PermissionDeniedError, match="further inside the network"):
            await fetch(registry.open(Reference.parse(f"{fake.host}/app"), MINE))


async def test_a_foreign_layer_far_inside_is_had_from_the_registry(fake: FakeRegistry) -> None:
    foreign = Descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        LAYER.digest,
        LAYER.size,
        urls=("http://169.254.169.254/layer",),
    )
    async with Registry() as registry:
        source = registry.open(Reference.parse(f"{fake.host}/app"))
        async with source.fetch(foreign) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == BLOB


# Warnings.


async def test_a_warning_is_shown_once(
    fake: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=BLOB, headers={"Warning": '299 - "app is \\"old\\", use new"'})

    fake.misbehave["blobs"] = answer
    async with Registry() as registry:
        source = registry.open(Reference.parse(f"{fake.host}/app"))
        await fetch(source)
        await fetch(source)
    shown = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert shown == [f'{fake.host} warns: app is "old", use new']
