"""Private registries, from the command line: with credentials wherever people keep them, on TLS
of a private authority, behind token services and mirrors. And no secret is found afterwards.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from tests.cli.program import Said, cdimage
from tests.daemons import Registry
from tests.images import Image, Pushed, Pusher, image_of, layer_of, tar_of
from tests.node import Node
from tests.token_server import TokenServer

import cdimage as library
from cdimage.registry.credentials import Credentials, basic_header

ALICE = Credentials("alice", "hunter2")
MALLORY = Credentials("mallory", "letmein-please")
# bcrypt of that password, cost 5: there is no bcrypt in the standard library.
HTPASSWD = "alice:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n"
REPOSITORY = "team/private/app"


def new_image() -> Image:
    return image_of([layer_of(tar_of({"data": os.urandom(100_000)}), "none")])


@dataclass(frozen=True)
class Private:
    """A registry that lets in Alice only, in TLS of an authority that nobody knows."""

    daemon: Registry
    authority: Path
    pushed: Pushed

    def hosts_dir(self, folder: Path) -> str:
        """A folder that says whom to trust for it."""
        host = folder / self.daemon.host
        host.mkdir(parents=True)
        (host / "hosts.toml").write_text(f'ca = "{self.authority}"\n')
        return str(folder)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    folder = tmp_path_factory.mktemp("private")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key, users = folder / "cert.pem", folder / "key.pem", folder / "htpasswd"
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    users.write_text(HTPASSWD)
    trust = ssl.create_default_context(cafile=folder / "ca.pem")
    with Registry(htpasswd=users, certificate=(certificate, key)) as daemon:
        pushed = Pusher(daemon.host, basic_header(ALICE), trust).push(new_image(), REPOSITORY)
        yield Private(daemon, folder / "ca.pem", pushed)


def entry(who: Credentials) -> dict[str, str]:
    pair = f"{who.username}:{who.password}".encode()
    return {"auth": base64.b64encode(pair).decode()}


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_helper(folder: Path, name: str, who: Credentials) -> None:
    answer = {"ServerURL": "x", "Username": who.username, "Secret": who.password}
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\nread -r server\necho '{json.dumps(answer)}'\n")
    program.chmod(0o755)


Place = Callable[[Path, str, Credentials], dict[str, str]]
"""Puts somebody's credentials for a host into a folder; the environment that leads to them."""


def in_docker_config(folder: Path, host: str, who: Credentials) -> dict[str, str]:
    write(folder / "config.json", {"auths": {host: entry(who)}})
    return {"DOCKER_CONFIG": str(folder)}


def in_home(folder: Path, host: str, who: Credentials) -> dict[str, str]:
    write(folder / ".docker/config.json", {"auths": {f"https://{host}": entry(who)}})
    return {"HOME": str(folder), "DOCKER_CONFIG": ""}


def in_auth_file(folder: Path, host: str, who: Credentials) -> dict[str, str]:
    wrong = entry(MALLORY)
    auths = {host: wrong, f"{host}/team/private": entry(who), f"{host}/team": wrong}
    write(folder / "auth.json", {"auths": auths})
    return {"REGISTRY_AUTH_FILE": str(folder / "auth.json")}


def in_runtime_dir(folder: Path, host: str, who: Credentials) -> dict[str, str]:
    write(folder / "containers/auth.json", {"auths": {host: entry(who)}})
    return {"XDG_RUNTIME_DIR": str(folder)}


def in_config_home(folder: Path, host: str, who: Credentials) -> dict[str, str]:
    write(folder / "containers/auth.json", {"auths": {host: entry(who)}})
    return {"XDG_CONFIG_HOME": str(folder)}


def in_helper(folder: Path, host: str, who: Credentials) -> dict[str, str]:
    write(folder / "config.json", {"credHelpers": {host: "mine"}})
    write_helper(folder, "mine", who)
    return {"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}


def in_store(folder: Path, host: str, who: Credentials) -> dict[str, str]:
    write(folder / "config.json", {"credsStore": "all"})
    write_helper(folder, "all", who)
    return {"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}


PLACES = (
    in_docker_config, in_home, in_auth_file, in_runtime_dir, in_config_home, in_helper, in_store,
)  # fmt: skip


def check_no_secret(node: Node, said: Said, *secrets: str) -> None:
    """Look for secrets in what was said, and in all that containerd keeps."""
    forms = [form for secret in secrets for form in (secret, _base64(secret))]
    forms += [basic_header(ALICE).partition(" ")[2], basic_header(MALLORY).partition(" ")[2]]
    kept = [node.ctr("content", "ls"), node.ctr("images", "ls"), node.ctr("leases", "ls")]
    for text in (said.out, said.error, *kept):
        assert [form for form in forms if form in text] == []
    for path in (*node.containerd.folder.rglob("*.db"), node.containerd.log):
        data = path.read_bytes()
        assert [form for form in forms if form.encode() in data] == []


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize("place", PLACES, ids=[place.__name__ for place in PLACES])
def test_credentials_are_found_wherever_people_keep_them(
    place: Place, node: Node, private: Private, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, hosts = private.pushed.reference, private.hosts_dir(tmp_path / "hosts")
    for number, who in enumerate((MALLORY, ALICE)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, value in place(folder, private.daemon.host, who).items():
            monkeypatch.setenv(name, value)
        said = cdimage(node, "pull", reference, "--hosts-dir", hosts, "--debug")
        check_no_secret(node, said, ALICE.password, MALLORY.password)
        assert said.code == (0 if who is ALICE else 7), said.error
    assert private.pushed.digest in said.out


def test_without_credentials_or_trust_the_error_says_what_to_do(
    node: Node, private: Private, tmp_path: Path
) -> None:
    said = cdimage(node, "pull", private.pushed.reference)
    assert said.code == 7
    assert "the certificate of" in said.error
    said = cdimage(
        node, "pull", private.pushed.reference, "--hosts-dir", private.hosts_dir(tmp_path)
    )
    assert said.code == 7
    assert "docker login" in said.error


@pytest.fixture(scope="module")
def token_server() -> Iterator[TokenServer]:
    with TokenServer(trustme.CA(), {basic_header(ALICE)}).serving() as server:
        yield server


@pytest.fixture(scope="module")
def with_tokens(
    token_server: TokenServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    bundle = tmp_path_factory.mktemp("tokens") / "ca.pem"
    token_server.authority.cert_pem.write_to_path(bundle)
    with Registry(tokens=(token_server.realm, bundle)) as daemon:
        yield daemon


def push_with_token(daemon: Registry, server: TokenServer) -> Pushed:
    """Push with a token that the service gave for pushing."""
    scope = f"repository:{REPOSITORY}:pull,push"
    request = urllib.request.Request(
        f"{server.realm}?service=test&scope={scope}", headers={"Authorization": basic_header(ALICE)}
    )
    with urllib.request.urlopen(request) as answer:
        token = json.load(answer)["token"]
    return Pusher(daemon.host, f"Bearer {token}").push(new_image(), REPOSITORY)


def test_a_registry_with_a_token_service_lets_in_who_may(
    node: Node,
    with_tokens: Registry,
    token_server: TokenServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pushed = push_with_token(with_tokens, token_server)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for who in (MALLORY, ALICE):
        in_docker_config(tmp_path, with_tokens.host, who)
        said = cdimage(node, "pull", pushed.reference, "--debug")
        check_no_secret(node, said, ALICE.password, MALLORY.password, *token_server.given)
        assert said.code == (0 if who is ALICE else 7), said.error


async def test_a_caller_checks_whether_each_tenant_may_have_an_image(
    client: library.Client, node: Node, with_tokens: Registry, token_server: TokenServer
) -> None:
    pushed = push_with_token(with_tokens, token_server)
    store = library.Store(client)

    async def pull(who: Credentials | None, *, check_access: bool) -> None:
        await store.pull_image(
            pushed.reference, pushed.digest, credentials=who, check_access=check_access
        )

    for who in (MALLORY, Credentials(), None):
        with pytest.raises(library.PermissionDeniedError):
            await pull(who, check_access=True)
    assert node.images() == set()
    await pull(ALICE, check_access=True)
    before = len(with_tokens.requests())
    await pull(ALICE, check_access=True)
    asked = [request for request in with_tokens.requests()[before:] if request.status == 200]
    assert [request.path for request in asked] == [f"/v2/{REPOSITORY}/manifests/{pushed.digest}"]
    for who in (MALLORY, Credentials(), None):
        with pytest.raises(library.PermissionDeniedError) as caught:
            await pull(who, check_access=True)
        assert MALLORY.password not in str(caught.value)
    before = len(with_tokens.requests())
    await pull(MALLORY, check_access=False)
    assert len(with_tokens.requests()) == before


async def test_an_image_that_containerd_holds_is_checked_too(
    client: library.Client, node: Node, with_tokens: Registry, token_server: TokenServer
) -> None:
    pushed = push_with_token(with_tokens, token_server)
    store = library.Store(client)
    await store.pull_image(pushed.reference, pushed.digest, credentials=ALICE)
    node.ctr("images", "tag", library.prepared_image_name(pushed.digest), "kept.example/x:y")
    await store.untag_image(pushed.digest)
    with pytest.raises(library.PermissionDeniedError):
        await store.pull_image(
            pushed.reference, pushed.digest, credentials=MALLORY, check_access=True
        )
    assert await store.get_existing_images() == []


# Mirrors.


def hosts_toml(folder: Path, registry: str, text: str) -> str:
    (folder / registry).mkdir(parents=True)
    (folder / registry / "hosts.toml").write_text(text)
    return str(folder)


def test_an_image_is_had_from_a_mirror(
    node: Node, pusher: Pusher, registry: Registry, tmp_path: Path
) -> None:
    pushed = pusher.push(new_image(), "mirrored/app")
    text = f"""
server = "https://registry.invalid"
[host."http://127.0.0.1:1"]
[host."http://{registry.host}"]
"""
    hosts = hosts_toml(tmp_path, "registry.invalid", text)
    before = len(registry.requests())
    said = cdimage(node, "pull", "registry.invalid/mirrored/app", "--hosts-dir", hosts, "--debug")
    assert said.code == 0, said.error
    assert pushed.digest in said.out
    paths = [request.path for request in registry.requests()[before:]]
    assert all(path.endswith("?ns=registry.invalid") for path in paths)
    assert "127.0.0.1:1 cannot be reached" in said.error


def test_a_mirror_that_may_not_say_what_a_tag_is_gives_bytes_only(
    node: Node, pusher: Pusher, registry: Registry, tmp_path: Path
) -> None:
    pushed = pusher.push(new_image(), "mirrored/app")
    text = f'[host."http://{registry.host}"]\ncapabilities = ["pull"]\n'
    hosts = hosts_toml(tmp_path, "registry.invalid", text)
    said = cdimage(node, "pull", "registry.invalid/mirrored/app", "--hosts-dir", hosts)
    assert said.code == 6
    assert "registry.invalid" in said.error
    named = f"registry.invalid/mirrored/app@{pushed.digest}"
    assert cdimage(node, "pull", named, "--hosts-dir", hosts).code == 0


async def test_a_callers_credentials_are_not_shown_to_a_mirror(
    client: library.Client, node: Node, private: Private, registry: Registry,
    pusher: Pusher, tmp_path: Path,
) -> None:  # fmt: skip
    """The registry itself says that the image may be had; layers may come from the mirror."""
    image = new_image()
    trust = ssl.create_default_context(cafile=private.authority)
    pushed = Pusher(private.daemon.host, basic_header(ALICE), trust).push(image, "both/app")
    pusher.push(image, "both/app")
    text = f"""
server = "https://{private.daemon.host}"
ca = "{private.authority}"
[host."http://{registry.host}"]
"""
    hosts_toml(tmp_path, private.daemon.host, text)
    before = len(registry.requests())
    async with library.Registry(hosts_folders=[tmp_path]) as source:
        store = library.Store(client, open_source=source.open)
        with pytest.raises(library.PermissionDeniedError):
            await store.pull_image(pushed.reference, pushed.digest, credentials=MALLORY)
        assert len(registry.requests()) == before
        await store.pull_image(pushed.reference, pushed.digest, credentials=ALICE)
    from_mirror = [request.path for request in registry.requests()[before:]]
    assert from_mirror
    assert all("/blobs/" in path for path in from_mirror)


def test_a_hosts_toml_that_cannot_be_understood_is_told(node: Node, tmp_path: Path) -> None:
    hosts = hosts_toml(tmp_path, "registry.invalid", "server = 3\n")
    said = cdimage(node, "pull", "registry.invalid/app", "--hosts-dir", hosts)
    assert said.code == 2
    assert "hosts.toml" in said.error
    assert "Traceback" not in said.error
