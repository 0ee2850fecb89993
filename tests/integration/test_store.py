"""The store's promises, beyond that prepared images work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.daemons import Containerd, Registry
from tests.images import (
    OCI_INDEX,
    Blob,
    Image,
    Pushed,
    Pusher,
    busybox_tar,
    image_of,
    index_of,
    layer_of,
    tar_of,
)
from tests.node import Node

import cdimage
from cdimage.pause import PauseBinaries


def busybox(**execution: object) -> Image:
    return image_of([layer_of(busybox_tar())], execution)


@pytest.fixture
def image(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(busybox(Cmd=["sh"]), new_repository())


def other_pause(tmp_path: Path) -> PauseBinaries:
    """Another build of the pause program: trailing bytes are not looked at by the kernel."""
    bundled = PauseBinaries.bundled()
    assert bundled.linux_amd64 is not None
    changed = tmp_path / "pause"
    changed.write_bytes(Path(bundled.linux_amd64).read_bytes() + b"another build")
    return PauseBinaries(linux_amd64=changed)


async def test_what_is_prepared_is_not_asked_for_again(
    store: cdimage.Store, registry: Registry, image: Pushed
) -> None:
    await store.pull_image(image.reference, image.digest)
    before = len(registry.requests())
    await store.pull_image(image.reference, image.digest)
    await store.pull_image(
        image.reference, image.digest, platform=cdimage.Platform.parse("linux/amd64")
    )
    assert registry.requests()[before:] == []


async def test_a_new_pause_program_is_put_in_without_a_network(
    store: cdimage.Store, client: cdimage.Client, node: Node, registry: Registry, image: Pushed,
    tmp_path: Path,
) -> None:  # fmt: skip
    await store.pull_image(image.reference, image.digest)
    old = await store.get_image(image.digest)
    node.collect()
    before = len(registry.requests())
    newer = cdimage.Store(client, pause=other_pause(tmp_path))
    await newer.pull_image(image.reference, image.digest)
    new = await newer.get_image(image.digest)
    assert registry.requests()[before:] == []
    assert new.target.digest != old.target.digest
    assert new.snapshots != old.snapshots
    container = node.run(image.digest)
    assert container.terminate() < 0.1
    container.remove()
    await newer.untag_image(image.digest)
    assert node.is_empty()


async def test_of_all_platforms_the_daemons_own_is_unpacked_and_started(
    store: cdimage.Store, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    layers = [layer_of(tar_of({name: b"arm"})) for name in "ab"]
    arm = image_of(layers, platform="linux/arm64")
    images = {"linux/arm64": arm, "linux/amd64": busybox(Entrypoint=["/bin/false"])}
    pushed = pusher.push_index(index_of(images), [*images.values()], new_repository())
    await store.pull_image(pushed.reference, pushed.digest, platform="all")
    found = await store.get_image(pushed.digest)
    assert [str(it) for it in found.platforms] == ["linux/arm64", "linux/amd64"]
    assert set(found.snapshots.values()) <= node.snapshots()
    assert len(node.snapshots()) == 2  # busybox and the pause layer, and nothing for arm64
    container = node.run(pushed.digest)
    assert container.exec("/bin/echo", "here") == "here\n"
    container.terminate()
    container.remove()
    await store.untag_image(pushed.digest)
    assert node.is_empty()


async def test_a_snapshot_that_somebody_removed_is_made_again(
    store: cdimage.Store, node: Node, image: Pushed
) -> None:
    await store.pull_image(image.reference, image.digest)
    (top,) = (await store.get_image(image.digest)).snapshots.values()
    node.ctr("snapshots", "--snapshotter", node.snapshotter, "rm", top)
    await store.pull_image(image.reference, image.digest)
    assert top in node.snapshots()


async def test_the_users_own_image_is_used_and_left_alone(
    store: cdimage.Store, node: Node, registry: Registry, image: Pushed
) -> None:
    node.ctr("images", "pull", "--plain-http", image.reference)
    mine = (node.images(), node.blobs(), node.snapshots())
    record = node.ctr("images", "ls")
    before = len(registry.requests())
    await store.pull_image(image.reference, image.digest)
    assert registry.requests()[before:] == []
    assert image.reference in node.images()
    await store.untag_image(image.digest)
    assert (node.images(), node.blobs(), node.snapshots()) == mine
    assert node.ctr("images", "ls") == record


async def test_a_base_that_the_user_removes_meanwhile_stays_behind_the_prepared_image(
    store: cdimage.Store, node: Node, image: Pushed
) -> None:
    node.ctr("images", "pull", "--plain-http", image.reference)
    await store.pull_image(image.reference, image.digest)
    node.ctr("images", "rm", "--sync", image.reference)
    container = node.run(image.digest)
    assert container.exec("/bin/echo", "here") == "here\n"
    container.terminate()
    container.remove()
    assert set(image.layers) <= node.blobs()
    await store.untag_image(image.digest)
    assert node.is_empty()


async def test_blobs_that_were_there_without_labels_are_held_all_the_same(
    store: cdimage.Store, node: Node, image: Pushed
) -> None:
    # What an interrupted program may leave: the prepared manifest and config, held by nothing.
    await store.pull_image(image.reference, image.digest)
    found = await store.get_image(image.digest)
    manifest = node.ctr("content", "get", str(found.target.digest))
    config_digest = json.loads(manifest)["config"]["digest"]
    config = node.ctr("content", "get", config_digest)
    await store.untag_image(image.digest)
    for number, data in enumerate((manifest, config)):
        node.ingest(f"left-{number}", data.encode())
    await store.pull_image(image.reference, image.digest)
    node.collect()
    assert set(image.layers) <= node.blobs()
    labels = node.ctr("content", "ls")
    assert "containerd.io/gc.ref.content.config" in labels
    assert f"containerd.io/gc.ref.snapshot.{node.snapshotter}" in labels


async def test_an_image_that_is_prepared_already_is_not_prepared_twice(
    store: cdimage.Store, node: Node, pusher: Pusher, image: Pushed,
    new_repository: Callable[[], str], tmp_path: Path,
) -> None:  # fmt: skip
    await store.pull_image(image.reference, image.digest)
    found = await store.get_image(image.digest)
    repository = new_repository()
    manifest = _content(node, str(found.target.digest))
    value = json.loads(manifest)
    for entry in (value["config"], *value["layers"]):
        pusher.push_blob(repository, _content(node, entry["digest"]))
    pushed = pusher.push_manifest(repository, "latest", Blob(found.target.media_type, manifest))
    await store.untag_image(image.digest)

    await store.pull_image(pushed.reference, pushed.digest)
    assert (await store.get_image(pushed.digest)).target.digest == found.target.digest
    container = node.run(pushed.digest)
    assert container.terminate() < 0.1
    container.remove()
    await store.untag_image(pushed.digest)
    assert node.is_empty()


def _content(node: Node, digest: str) -> bytes:
    algorithm, _, value = digest.partition(":")
    blobs = node.containerd.root / "io.containerd.content.v1.content" / "blobs"
    return (blobs / algorithm / value).read_bytes()


async def test_a_tag_of_an_index_may_be_asked_for_by_the_digest_of_its_manifest(
    store: cdimage.Store, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    images = {"linux/amd64": busybox(), "linux/arm64": image_of([], platform="linux/arm64")}
    pushed = pusher.push_index(index_of(images), list(images.values()), new_repository())
    digest = images["linux/amd64"].digest
    await store.pull_image(pushed.reference, digest)
    assert await store.get_existing_images() == [digest]


async def test_indexes_may_be_nested_and_leave_the_platform_to_the_config(
    store: cdimage.Store, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    repository = new_repository()
    arm, amd = image_of([], platform="linux/arm64"), busybox()
    for image in (arm, amd):
        pusher.push(image, repository, image.digest[7:20])
    value = {"schemaVersion": 2, "manifests": [i.manifest.descriptor for i in (arm, amd)]}
    inner = Blob(OCI_INDEX, json.dumps({**value, "mediaType": OCI_INDEX}).encode())
    pusher.push_manifest(repository, "inner", inner)
    outer = Blob(
        OCI_INDEX,
        json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.descriptor]}
        ).encode(),
    )
    pushed = pusher.push_manifest(repository, "outer", outer)
    await store.pull_image(pushed.reference, pushed.digest)
    assert str((await store.get_image(pushed.digest)).platform) == "linux/amd64"


async def test_an_index_without_the_platform_says_what_it_has(
    store: cdimage.Store, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    images = {"linux/arm64": image_of([], platform="linux/arm64")}
    pushed = pusher.push_index(index_of(images), list(images.values()), new_repository())
    with pytest.raises(cdimage.UnsupportedPlatformError, match=r"linux/amd64.*linux/arm64"):
        await store.pull_image(pushed.reference, pushed.digest)
    assert node.is_empty()


async def test_another_platform_replaces_the_one_that_was_prepared(
    store: cdimage.Store, pusher: Pusher, node: Node, new_repository: Callable[[], str]
) -> None:
    arm = image_of([layer_of(tar_of({"a": b"x"}))], platform="linux/arm64")
    images = {"linux/amd64": busybox(), "linux/arm64": arm}
    pushed = pusher.push_index(index_of(images), list(images.values()), new_repository())
    for text in ("linux/amd64", "linux/arm64", "linux/amd64"):
        await store.pull_image(
            pushed.reference, pushed.digest, platform=cdimage.Platform.parse(text)
        )
        assert str((await store.get_image(pushed.digest)).platform) == text
    await store.untag_image(pushed.digest)
    assert node.is_empty()


async def test_records_of_other_programs_that_follow_the_convention_are_listed(
    store: cdimage.Store, node: Node, image: Pushed
) -> None:
    node.ctr("images", "pull", "--plain-http", image.reference)
    name = cdimage.prepared_image_name(image.digest)
    node.ctr("images", "tag", image.reference, name)
    assert await store.get_existing_images() == []
    node.ctr("images", "label", name, f"hpcc.dev/user-digest={image.digest}")
    node.ctr("images", "label", image.reference, f"hpcc.dev/user-digest={image.digest}")
    assert await store.get_existing_images() == [image.digest]
    await store.pull_image(image.reference, image.digest)
    container = node.run(image.digest)
    assert container.first_process()[0] == 1
    container.terminate()
    container.remove()


async def test_untagging_twice_is_success(store: cdimage.Store, image: Pushed) -> None:
    await store.pull_image(image.reference, image.digest)
    await store.untag_image(image.digest)
    await store.untag_image(image.digest)
    await store.untag_image(image.digest.removeprefix("sha256:"))
    assert await store.get_existing_images() == []


async def test_images_that_share_layers_are_untagged_one_by_one(
    store: cdimage.Store, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    one = pusher.push(busybox(Cmd=["one"]), new_repository())
    two = pusher.push(busybox(Cmd=["two"]), new_repository())
    for image in (one, two):
        await store.pull_image(image.reference, image.digest)
    assert await store.get_existing_images() == sorted([one.digest, two.digest])
    await store.untag_image(one.digest)
    container = node.run(two.digest)
    assert container.exec("/bin/echo", "still here") == "still here\n"
    container.terminate()
    container.remove()
    await store.untag_image(two.digest)
    assert node.is_empty()


async def test_a_daemon_that_dies_is_unavailable_and_one_that_is_back_goes_on(
    pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    image = pusher.push(busybox(), new_repository())
    with Containerd() as daemon:
        async with cdimage.connect(daemon.address) as client:
            store = cdimage.Store(client)

            def crash(event: cdimage.Progress) -> None:
                if event.state is cdimage.State.FETCHING:
                    daemon.kill()

            with pytest.raises(cdimage.UnavailableError):
                await store.pull_image(image.reference, image.digest, progress=_once(crash))
            with pytest.raises(cdimage.UnavailableError, match="no containerd answers"):
                await store.get_existing_images()
            daemon.start()
            await _until_answered(store)
            assert await store.get_existing_images() == []
            await store.pull_image(image.reference, image.digest)
            assert await store.get_existing_images() == [image.digest]


def _once(callback: cdimage.ProgressCallback) -> cdimage.ProgressCallback:
    told: set[cdimage.State] = set()

    def tell(event: cdimage.Progress) -> None:
        if event.state not in told:
            told.add(event.state)
            callback(event)

    return tell


async def _until_answered(store: cdimage.Store) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.get_existing_images()
            except cdimage.UnavailableError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_progress_tells_each_layers_story_in_order(
    store: cdimage.Store, image: Pushed
) -> None:
    events: list[cdimage.Progress] = []
    await store.pull_image(image.reference, image.digest, progress=events.append)
    base = [event for event in events if str(event.descriptor.digest) == image.layers[0]]
    states = list(dict.fromkeys(event.state for event in base))
    assert states == ["waiting", "fetching", "fetched", "unpacking", "done"]
    offsets = [event.offset for event in base]
    assert offsets == sorted(offsets)
    assert {event.total for event in base} == {offsets[-1]}
