"""What each operation asks of others, counted: no machine is slow enough to change that.

A number that falls is an improvement, and is noted here; one that rises is to be explained.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.daemons import Registry
from tests.images import Layer, Pushed, Pusher, image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_layout
from tests.node import Node

import cdimage

# What preparing asks of containerd, wherever the base is …
ALWAYS = {
    "Images/Get": 1,
    "Leases/Create": 1,
    "Content/Write": 3,  # config, pause layer, manifest
    "Snapshots/Prepare": 1,
    "Diff/Apply": 1,
    "Snapshots/Commit": 1,
    "Images/Create": 1,
    "Leases/Delete": 1,
}
# … when it is there, unpacked …
UNPACKED = {
    "Content/Read": 2,  # the user's manifest and config
    "Content/List": 2,  # whether all is there, and once more when it is held
}
# … when it is not …
COLD = {
    "Content/Read": 1,  # there is no manifest
    "Content/List": 1,
    "Content/Write": 2,  # the user's manifest and config
    "Snapshots/Prepare": 1,  # whether the base is unpacked
}
# … and for each of them.
LAYER = {
    "Content/Write": 1,
    "Snapshots/Prepare": 1,
    "Diff/Apply": 1,
    "Snapshots/Commit": 1,
    "Content/Update": 1,  # the label that says what it unpacks to
}


class CountingChannel:
    """A channel that counts the calls that are made on it."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.calls: Counter[str] = Counter()

    async def close(self) -> None:
        await self._channel.close()

    def __getattr__(self, kind: str) -> Any:
        real = getattr(self._channel, kind)

        def make(method: str, *arguments: Any, **more: Any) -> Any:
            callable_ = real(method, *arguments, **more)
            name = method.rpartition(".")[2]

            def call(*arguments: Any, **more: Any) -> Any:
                self.calls[name] += 1
                return callable_(*arguments, **more)

            return call

        return make


@pytest.fixture
async def channel(
    client: cdimage.Client, store: cdimage.Store, pusher: Pusher, new_repository: Callable[[], str]
) -> CountingChannel:
    """That of the client, when it knows its daemon, and nothing is prepared."""
    counting = CountingChannel(client._session.channel)
    client._session = replace(client._session, channel=counting)  # type: ignore[arg-type]
    first = push(pusher, new_repository())
    await store.pull_image(first.reference, first.digest)
    await store.untag_image(first.digest)
    counting.calls.clear()
    return counting


def own_layer(size: int = 1000) -> Layer:
    return layer_of(tar_of({secrets.token_hex(4): secrets.token_bytes(size)}))


def push(pusher: Pusher, repository: str, layers: int = 1) -> Pushed:
    return pusher.push(image_of([own_layer() for _ in range(layers)]), repository)


def total(*parts: tuple[int, dict[str, int]]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for times, part in parts:
        counted.update({name: times * count for name, count in part.items()})
    return dict(counted)


async def test_preparing_on_an_unpacked_base(
    channel: CountingChannel,
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    new_repository: Callable[[], str],
) -> None:
    image = push(pusher, new_repository(), 3)
    local = ["--local"] if "--local" in node.ctr("image", "pull", "--help") else []
    where = [*local, "--snapshotter", node.snapshotter]
    node.ctr("image", "pull", "--plain-http", *where, image.reference)
    await store.pull_image(image.reference, image.digest)
    assert channel.calls == total((1, ALWAYS), (1, UNPACKED))


@pytest.mark.parametrize("layers", [1, 5])
async def test_preparing_what_is_not_there(
    channel: CountingChannel,
    store: cdimage.Store,
    pusher: Pusher,
    new_repository: Callable[[], str],
    layers: int,
) -> None:
    image = push(pusher, new_repository(), layers)
    await store.pull_image(image.reference, image.digest)
    assert channel.calls == total((1, ALWAYS), (1, COLD), (layers, LAYER))


async def test_asking_again_listing_and_untagging(
    channel: CountingChannel,
    store: cdimage.Store,
    pusher: Pusher,
    new_repository: Callable[[], str],
) -> None:
    image = push(pusher, new_repository())
    await store.pull_image(image.reference, image.digest)
    channel.calls.clear()
    await store.pull_image(image.reference, image.digest)
    assert channel.calls == {"Images/Get": 1, "Snapshots/Stat": 1}
    channel.calls.clear()
    assert len(await store.list_images()) == 1
    assert channel.calls == {"Images/List": 1}
    channel.calls.clear()
    await store.untag_image(image.digest)
    assert channel.calls == {"Images/Delete": 1}


async def test_a_base_that_many_share_is_fetched_and_unpacked_once(
    channel: CountingChannel,
    store: cdimage.Store,
    registry: Registry,
    pusher: Pusher,
    new_repository: Callable[[], str],
) -> None:
    base = own_layer(2_000_000)
    images = [pusher.push(image_of([base, own_layer()]), new_repository()) for _ in range(6)]
    before = len(registry.requests())
    await asyncio.gather(*(store.pull_image(it.reference, it.digest) for it in images))
    own_layers, pause_layers = len(images), len(images)
    assert channel.calls["Diff/Apply"] == 1 + own_layers + pause_layers
    asked = [it for it in registry.requests()[before:] if base.blob.digest in it.path]
    assert [it.method for it in asked] == ["GET"]


async def test_a_pull_asks_the_registry_once_for_each_thing(
    store: cdimage.Store,
    registry: Registry,
    pusher: Pusher,
    new_repository: Callable[[], str],
) -> None:
    image = image_of([own_layer(300_000) for _ in range(4)])
    pushed = pusher.push(image, new_repository())
    before = len(registry.requests())
    await store.pull_image(pushed.reference, pushed.digest)
    asked = [it for it in registry.requests()[before:] if it.status != 401 and it.path != "/v2/"]
    assert Counter(it.method for it in asked) == {"GET": 1 + 1 + 4}
    sent = sum(it.size for it in asked)
    blobs = [image.manifest, image.config, *(layer.blob for layer in image.layers)]
    assert sent == sum(len(blob.data) for blob in blobs)


async def test_preparing_in_a_registry_moves_no_layer(
    registry: Registry, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    layers, users = [own_layer(300_000) for _ in range(2)], new_repository()
    first, second = [
        pusher.push(image_of(layers, {"Labels": {"tag": tag}}), users, tag) for tag in ("a", "b")
    ]
    target, asked = f"{registry.host}/{new_repository()}", []
    async with cdimage.Registry() as client:
        await client.endpoints(registry.host)
        store = cdimage.RegistryStore(target, client)
        for pushed in (first, second):
            before = len(registry.requests())
            await store.pull_image(pushed.reference, pushed.digest)
            asked.append(registry.requests()[before:])
    assert Counter(it.method for it in asked[0]) == {
        "GET": 4,  # is it prepared, and from what; the user's manifest and config
        "HEAD": 2 + 2,  # an empty document, the pause layer; each layer
        "POST": 4 + 1 + 2,  # begun: those two, the user's manifest, a config; mounted: the others
        "PUT": 4 + 2,  # those four; what was prepared from what, and the tag
    }
    # What all images share is there.
    assert Counter(it.method for it in asked[1]) == {"GET": 4, "HEAD": 2 + 2, "POST": 3, "PUT": 4}
    assert sum(it.size for it in asked[0] if it.method == "GET") < 10_000


COUNT_OPENED = """
import asyncio, json, sys
import cdimage
async def main():
    opened = []
    folder, digest = sys.argv[1:]
    store = cdimage.LayoutStore(folder)
    def hook(event, arguments):
        if event == "open" and str(arguments[0]).startswith(folder):
            opened.append(str(arguments[0]).removeprefix(folder))
    sys.addaudithook(hook)
    await store.pull_image(f"oci:{folder}", digest)
    print(json.dumps(opened))
asyncio.run(main())
"""


def test_preparing_in_a_layout_opens_no_layer_of_the_base(tmp_path: Path) -> None:
    image = image_of([own_layer(), own_layer(), own_layer()])
    layout = write_layout(tmp_path / "layout", layout_files(image.manifest, blobs_of(image)))
    done = subprocess.run(
        [sys.executable, "-c", COUNT_OPENED, str(layout), image.digest],
        capture_output=True,
        text=True,
        check=True,
    )
    opened = json.loads(done.stdout)
    for layer in image.layers:
        assert not [path for path in opened if layer.blob.digest.removeprefix("sha256:") in path]
    assert len(opened) == 15
