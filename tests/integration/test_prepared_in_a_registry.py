"""Preparing inside a registry, and pulling what was prepared there."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from tests.daemons import Registry
from tests.holes import hole
from tests.image_kinds import KINDS
from tests.images import Image, Pushed, Pusher, image_of, layer_of, tar_of
from tests.layouts import layout_files, write_layout
from tests.limited_registry import LimitedRegistry
from tests.node import Node
from tests.stores import check_verified
from tests.token_server import TokenServer

import cdimage
from cdimage.registry.credentials import Credentials, basic_header

MB = 1 << 20
ALICE = Credentials("alice", "hunter2")


def unique(size: int = 200_000) -> Image:
    layers = [layer_of(tar_of({"f": os.urandom(size)}), "none") for _ in range(2)]
    return image_of(layers, {"Entrypoint": ["/x"]})


@pytest.fixture
def image(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(unique(), new_repository())


@pytest.fixture
def prefix(registry: Registry) -> str:
    return f"{registry.host}/prepared/{secrets.token_hex(6)}"


@pytest.fixture
async def client_of_registries() -> AsyncIterator[cdimage.Registry]:
    async with cdimage.Registry() as registry:
        yield registry


async def test_of_an_image_of_2_gb_less_than_a_megabyte_moves(
    registry: Registry, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    repository = new_repository()
    image = image_of([hole(registry, repository, 2048 * MB)])
    pusher.push_blob(repository, image.config.data)
    pushed = pusher.push_manifest(repository, "latest", image.manifest)
    before = len(registry.requests())
    limited = LimitedRegistry(registry.host)
    async with limited.serving(), cdimage.Registry() as client:
        store = cdimage.RegistryStore(f"{limited.host}/prepared/{repository}", client)
        reference = pushed.reference.replace(registry.host, limited.host)
        await store.pull_image(reference, pushed.digest)
        await store.untag_image(pushed.digest)
    asked = registry.requests()[before:]
    assert [it for it in asked if it.status == 201 and "mount=" in it.path]
    assert sum(it.size for it in asked if it.method != "HEAD") < MB
    assert (limited.sent < MB, limited.received < MB) == (True, True)


async def test_workers_pull_what_was_prepared_as_any_image(
    node: Node, client_of_registries: cdimage.Registry, prefix: str, image: Pushed
) -> None:
    store = cdimage.RegistryStore(prefix, client_of_registries)
    await store.pull_image(image.reference, image.digest)
    name = (await store.get_image(image.digest)).name
    assert name == f"{prefix}:{image.digest[7:]}"
    node.ctr("images", "pull", "--plain-http", name)
    assert name in node.images()


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_a_worker_that_is_told_where_to_look_pulls_from_there(
    client: cdimage.Client, client_of_registries: cdimage.Registry, registry: Registry,
    prefix: str, image: Pushed, is_prepared: bool,
) -> None:  # fmt: skip
    if is_prepared:
        await cdimage.RegistryStore(prefix, client_of_registries).pull_image(
            image.reference, image.digest
        )
    before = len(registry.requests())
    store = cdimage.Store(client, prepared_registry=prefix)
    await store.pull_image(image.reference, image.digest)
    await check_verified(store, image.digest)
    repository = image.reference.partition("/")[2].rpartition(":")[0]
    asked = [it for it in registry.requests()[before:] if f"/v2/{repository}/" in it.path]
    assert bool(asked) is not is_prepared


async def test_what_is_prepared_there_is_believed_only_if_it_is_the_users_image(
    client: cdimage.Client, client_of_registries: cdimage.Registry, registry: Registry,
    pusher: Pusher, prefix: str, image: Pushed, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    await cdimage.RegistryStore(prefix, client_of_registries).pull_image(
        image.reference, image.digest
    )
    repository = prefix.partition("/")[2]
    pusher.push(unique(), repository, image.digest[7:])  # somebody else's, under its tag
    caplog.set_level("INFO", "cdimage")
    store = cdimage.Store(client, prepared_registry=prefix)
    await store.pull_image(image.reference, image.digest)
    await check_verified(store, image.digest)
    (said,) = [it.getMessage() for it in caplog.records if "prepared here" in it.getMessage()]
    assert f"and not {(await store.get_image(image.digest)).target.digest}" in said


async def test_a_registry_that_cannot_be_reached_is_done_without(
    client: cdimage.Client, image: Pushed
) -> None:
    store = cdimage.Store(
        client, prepared_registry="127.0.0.1:1/x", retry=cdimage.Retry(attempts=1)
    )
    await store.pull_image(image.reference, image.digest)
    await check_verified(store, image.digest)


@pytest.mark.parametrize("cannot", ["mount", "list", "delete tags"])
async def test_a_registry_that_cannot_do_everything_will_do(
    cannot: str, registry: Registry, image: Pushed
) -> None:
    limited = LimitedRegistry(registry.host, frozenset({cannot}))
    async with limited.serving(), cdimage.Registry() as client:
        reference = image.reference.replace(registry.host, limited.host)
        store = cdimage.RegistryStore(f"{limited.host}/prepared/{secrets.token_hex(6)}", client)
        await store.pull_image(reference, image.digest)
        await check_verified(store, image.digest)
        if cannot == "list":
            with pytest.raises(cdimage.BackendError, match="the registry does not list"):
                await store.get_existing_images()
        await store.untag_image(image.digest)
        with pytest.raises(cdimage.NotFoundError):
            await store.get_image(image.digest)


async def test_a_registry_that_does_not_delete_says_so_and_loses_nothing(
    registry: Registry, image: Pushed
) -> None:
    limited = LimitedRegistry(registry.host, frozenset({"delete"}))
    async with limited.serving(), cdimage.Registry() as client:
        reference = image.reference.replace(registry.host, limited.host)
        store = cdimage.RegistryStore(f"{limited.host}/prepared/{secrets.token_hex(6)}", client)
        await store.pull_image(reference, image.digest)
        with pytest.raises(cdimage.BackendError, match="does not delete; nothing was changed"):
            await store.untag_image(image.digest)
        await check_verified(store, image.digest)


SOON = cdimage.Retry(first_seconds=0.01)


@pytest.mark.parametrize("what", ["HEAD /", "POST /", "PUT /v2/prepared/x/manifests", "DELETE /"])
@pytest.mark.parametrize("status", [503, 429])
async def test_a_registry_that_is_busy_is_asked_again(
    what: str, status: int, registry: Registry, image: Pushed
) -> None:
    limited = LimitedRegistry(registry.host, failing={what: [status] * 3})
    async with limited.serving(), cdimage.Registry() as client:
        store = cdimage.RegistryStore(f"{limited.host}/prepared/x", client, retry=SOON)
        await store.pull_image(image.reference, image.digest)
        await check_verified(store, image.digest)
        await store.untag_image(image.digest)
        assert limited.failing == {what: []}


@pytest.mark.parametrize(
    ("what", "status", "error"),
    [
        ("POST /", 503, cdimage.UnavailableError),
        ("PATCH /", 500, cdimage.UnavailableError),
        ("PUT /v2/prepared/y/blobs", 502, cdimage.UnavailableError),
        ("PUT /v2/prepared/y/blobs", 400, cdimage.DigestMismatchError),
        ("PUT /v2/prepared/y/manifests", 413, cdimage.BackendError),
        ("POST /", 403, cdimage.PermissionDeniedError),
        ("HEAD /", 418, cdimage.BackendError),
    ],
)
async def test_a_registry_that_fails_leaves_no_name_and_the_next_pull_succeeds(
    what: str, status: int, error: type[cdimage.CdimageError], registry: Registry, pusher: Pusher,
    new_repository: Callable[[], str],
) -> None:  # fmt: skip
    large = image_of([layer_of(tar_of({"f": os.urandom(17 * MB)}), "none")])
    image = pusher.push(large, new_repository())
    limited = LimitedRegistry(registry.host, failing={what: [status] * 50})
    async with limited.serving(), cdimage.Registry() as client:
        store = cdimage.RegistryStore(
            f"{limited.host}/prepared/y", client, retry=cdimage.Retry(2, 0.01)
        )
        with pytest.raises(error) as caught:
            await store.pull_image(image.reference, image.digest)
        assert "cannot be read" not in str(caught.value)
        limited.failing.clear()
        assert await store.get_existing_images() == []
        await store.pull_image(image.reference, image.digest)
        await check_verified(store, image.digest)
        await store.untag_image(image.digest)


async def test_an_image_of_another_registry_is_copied(image: Pushed, prefix: str) -> None:
    with Registry() as other:
        async with cdimage.Registry() as client:
            store = cdimage.RegistryStore(f"{other.host}/prepared", client)
            await store.pull_image(image.reference, image.digest)
            await check_verified(store, image.digest)
            assert all(other.blob_path(layer).is_file() for layer in image.layers)


async def test_what_is_no_image_under_a_tag_does_not_stand_in_the_way(
    client_of_registries: cdimage.Registry, pusher: Pusher, prefix: str, image: Pushed
) -> None:
    artifact = next(kind for kind in KINDS if kind.name.startswith("artifact")).make()
    repository = prefix.partition("/")[2]
    for blob in artifact.blobs:
        pusher.push_blob(repository, blob.data)
    for tag in ("f" * 64, image.digest[7:], "latest"):
        pusher.push_manifest(repository, tag, artifact.root)
    store = cdimage.RegistryStore(prefix, client_of_registries)
    await store.pull_image(image.reference, image.digest)
    await check_verified(store, image.digest)
    for digest in (image.digest, "sha256:" + "f" * 64):
        await store.untag_image(digest)
    assert await store.get_existing_images() == []


async def test_a_foreign_layer_stays_where_it_is(
    registry: Registry, client_of_registries: cdimage.Registry, prefix: str, tmp_path: Path
) -> None:
    (kind,) = (kind for kind in KINDS if kind.name == "foreign layer")
    made = kind.make()
    (layer,) = json.loads(made.root.data)["layers"]
    held = [blob for blob in made.blobs if blob.digest != layer["digest"]]
    source = write_layout(tmp_path, layout_files(made.root, held))
    store = cdimage.RegistryStore(prefix, client_of_registries)
    await store.pull_image(f"oci:{source}", made.root.digest)
    await check_verified(store, made.root.digest)
    assert not registry.blob_path(layer["digest"]).exists()
    await store.untag_image(made.root.digest)
    limited = LimitedRegistry(registry.host, failing={"PUT /v2/x/manifests": [500] * 9})
    async with limited.serving():
        refusing = cdimage.RegistryStore(f"{limited.host}/x", client_of_registries, retry=SOON)
        with pytest.raises(cdimage.UnavailableError, match=r"see validation\.manifests\.urls"):
            await refusing.pull_image(f"oci:{source}", made.root.digest)


async def test_a_list_of_many_pages_is_read_to_its_end(
    registry: Registry, pusher: Pusher, client_of_registries: cdimage.Registry, prefix: str
) -> None:
    repository = prefix.partition("/")[2]
    image = image_of([])
    pusher.push(image, repository, "0" * 64)
    tags = registry.storage / "docker/registry/v2/repositories" / repository / "_manifests/tags"
    wanted = [f"{number:064x}" for number in range(2500)]
    for tag in wanted[1:]:
        (tags / tag).symlink_to(tags / wanted[0], target_is_directory=True)
    store = cdimage.RegistryStore(prefix, client_of_registries)
    assert await store.get_existing_images() == [f"sha256:{tag}" for tag in wanted]


@pytest.fixture(scope="module")
def token_server() -> Iterator[TokenServer]:
    with TokenServer(trustme.CA(), {basic_header(ALICE)}).serving() as server:
        yield server


async def test_pushing_shows_the_credentials_that_it_is_given(
    token_server: TokenServer, image: Pushed, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    token_server.authority.cert_pem.write_to_path(bundle)
    with Registry(tokens=(token_server.realm, bundle)) as daemon:
        async with cdimage.Registry() as client:
            nobody = cdimage.RegistryStore(f"{daemon.host}/prepared", client)
            with pytest.raises(cdimage.PermissionDeniedError):
                await nobody.pull_image(image.reference, image.digest)
            store = cdimage.RegistryStore(f"{daemon.host}/prepared", client, credentials=ALICE)
            await store.pull_image(image.reference, image.digest)
            await check_verified(store, image.digest)
            assert await store.get_existing_images() == [image.digest]
            await store.untag_image(image.digest)
            assert await store.get_existing_images() == []
        scopes = [json.loads(_claims(token))["access"] for token in token_server.given]
        assert any("push" in access["actions"] for given in scopes for access in given)


async def test_credentials_stay_with_the_registry_though_it_sends_uploads_elsewhere(
    token_server: TokenServer, image: Pushed, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    token_server.authority.cert_pem.write_to_path(bundle)
    with Registry(tokens=(token_server.realm, bundle)) as daemon:
        other = LimitedRegistry(daemon.host)
        async with other.serving(), cdimage.Registry() as client:
            near = LimitedRegistry(daemon.host, elsewhere=other.host)
            async with near.serving():
                store = cdimage.RegistryStore(
                    f"{near.host}/prepared", client, credentials=ALICE, retry=SOON
                )
                with pytest.raises(cdimage.PermissionDeniedError):
                    await store.pull_image(image.reference, image.digest)
            assert near.authorizations
            assert other.asked
            assert other.authorizations == []


def _claims(token: str) -> bytes:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
