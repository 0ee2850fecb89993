"""Images of every kind, on real daemons: prepared, started, exec'd into, stopped, untagged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.images import (
    Image,
    Pushed,
    Pusher,
    busybox_tar,
    debian_layer,
    image_of,
    index_of,
    layer_of,
    tar_of,
)
from tests.node import Node
from tests.tools import tool

import cdimage

PAUSE = "/.hpcc/pause"


def static_tar() -> bytes:
    return tar_of({"tool": Path(tool("busybox")).read_bytes()})


KINDS: dict[str, Callable[[], Image]] = {
    "debian": lambda: image_of([debian_layer()], {"Cmd": ["bash"]}),
    "busybox": lambda: image_of([layer_of(busybox_tar())], {"Cmd": ["sh"]}),
    "scratch": lambda: image_of([layer_of(static_tar())], {"Entrypoint": ["/tool", "true"]}),
    "exits": lambda: image_of([layer_of(busybox_tar())], {"Entrypoint": ["/bin/false"]}),
    "user": lambda: image_of([layer_of(busybox_tar())], {"User": "worker", "Cmd": ["sh"]}),
    "uid": lambda: image_of([layer_of(static_tar())], {"User": "4321:4321"}),
    "volumes": lambda: image_of([layer_of(busybox_tar())], {"Volumes": {"/data": {}}}),
    "stop signal": lambda: image_of([layer_of(busybox_tar())], {"StopSignal": "SIGWINCH"}),
    "docker": lambda: image_of(
        [layer_of(busybox_tar(), docker=True)], {"Cmd": ["sh"]}, docker=True
    ),
    "zstd": lambda: image_of([layer_of(busybox_tar(), "zstd")]),
    "docker zstd": lambda: image_of([layer_of(busybox_tar(), "zstd", docker=True)], docker=True),
    "uncompressed": lambda: image_of([layer_of(busybox_tar(), "none")]),
    "no layers": lambda: image_of([]),
    "many layers": lambda: image_of(
        [layer_of(busybox_tar()), *(layer_of(tar_of({f"f{n}": b"x"})) for n in range(40))]
    ),
    "same layer twice": lambda: image_of([layer_of(static_tar()), layer_of(static_tar())]),
}


async def check_life(store: cdimage.Store, node: Node, image: Pushed) -> None:
    """The whole life of a prepared image, seen through ctr, runc and the disk."""
    before = node.files()
    await store.pull_image(image.reference, image.digest)

    assert await store.get_existing_images() == [image.digest]
    assert node.images() == {cdimage.prepared_image_name(image.digest)}
    assert node.leases() == set()
    container = node.run(image.digest)
    assert container.first_process() == (1, f"{PAUSE}\0".encode())
    assert container.exec(PAUSE, "-v") == "cdimage-pause 2\n"
    assert container.terminate() < 0.1
    container.remove()

    await store.untag_image(image.digest)
    assert node.is_empty()
    assert node.files() == before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_prepared_image_of_any_kind_does_its_job_and_leaves_nothing(
    kind: str,
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    new_repository: Callable[[], str],
) -> None:
    await check_life(store, node, pusher.push(KINDS[kind](), new_repository()))


async def test_a_multi_platform_index_is_prepared_under_its_own_digest(
    store: cdimage.Store, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    images = {
        "linux/arm64": image_of([layer_of(tar_of({"a": b"arm"}))], platform="linux/arm64"),
        "linux/amd64": image_of([layer_of(busybox_tar())]),
    }
    pushed = pusher.push_index(index_of(images), list(images.values()), new_repository())
    await check_life(store, node, pushed)


async def test_the_job_runs_as_the_images_user_in_its_file_system(
    store: cdimage.Store, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    pushed = pusher.push(KINDS["user"](), new_repository())
    await store.pull_image(pushed.reference, pushed.digest)
    container = node.run(pushed.digest)
    assert container.exec("/bin/id", "-u") == "1234\n"
    assert "busybox" in container.exec("/bin/ls", "/bin")


async def test_orphans_of_jobs_are_reaped(
    store: cdimage.Store, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    pushed = pusher.push(KINDS["busybox"](), new_repository())
    await store.pull_image(pushed.reference, pushed.digest)
    container = node.run(pushed.digest)
    container.exec("/bin/sh", "-c", "for i in 1 2 3 4 5; do (true & true &) & done; wait")
    # ps is a job itself; everything else that is left would be an orphan or a zombie.
    processes = container.exec("/bin/sh", "-c", "exec ps -o stat,args").splitlines()[1:]
    assert [line for line in processes if PAUSE not in line and "ps -o" not in line] == []


async def test_an_image_for_another_processor_is_prepared_and_unpacked(
    client: cdimage.Client, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    image = image_of([layer_of(tar_of({"a": b"arm"}))], platform="linux/arm64")
    pushed = pusher.push(image, new_repository())
    store = cdimage.Store(client)
    await store.pull_image(pushed.reference, pushed.digest)
    found = await store.get_image(pushed.digest)
    assert str(found.platform) == "linux/arm64"
    assert set(found.snapshots.values()) <= node.snapshots()


async def test_an_image_for_another_system_is_prepared_without_unpacking(
    store: cdimage.Store, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    image = image_of([layer_of(tar_of({"Files/": b"", "Files/a": b"x"}))], platform="windows/amd64")
    pushed = pusher.push(image, new_repository())
    await store.pull_image(pushed.reference, pushed.digest)
    found = await store.get_image(pushed.digest)
    assert (str(found.platform), found.snapshots) == ("windows/amd64", {})
    assert node.snapshots() == set()
    assert set(pushed.layers) <= node.blobs()
    await store.pull_image(pushed.reference, pushed.digest)
    await store.untag_image(pushed.digest)
    assert node.is_empty()


async def test_another_snapshotter_serves_as_well(
    client: cdimage.Client, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    pushed = pusher.push(KINDS["busybox"](), new_repository())
    store = cdimage.Store(client, snapshotter=node.other_snapshotter)
    await store.pull_image(pushed.reference, pushed.digest)
    assert node.snapshots() == set()
    container = node.run(pushed.digest, snapshotter=node.other_snapshotter)
    assert container.first_process()[0] == 1
    assert container.terminate() < 0.1
    container.remove()
    await store.untag_image(pushed.digest)
    assert node.is_empty()


async def test_one_image_can_be_unpacked_into_two_snapshotters(
    client: cdimage.Client, node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    pushed = pusher.push(KINDS["busybox"](), new_repository())
    await cdimage.Store(client).pull_image(pushed.reference, pushed.digest)
    other = cdimage.Store(client, snapshotter=node.other_snapshotter)
    await other.pull_image(pushed.reference, pushed.digest)
    found = await other.get_image(pushed.digest)
    assert set(found.snapshots) == {"overlayfs", "native"}
    assert node.snapshots("native")
    assert node.snapshots("overlayfs")
    await other.untag_image(pushed.digest)
    assert node.is_empty()
