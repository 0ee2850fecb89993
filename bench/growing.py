"""How cost grows: with layers, with images that are prepared already, with callers."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from tests.daemons import Containerd, Registry
from tests.images import Pushed, Pusher, busybox_tar, image_of, layer_of, tar_of
from tests.node import Node

import cdimage
from bench.rows import Row, Target, in_turn, milliseconds
from cdimage.notes import USER_DIGEST

_HOW: Final = "library calls; the base is unpacked in containerd 1.6"
_LAYERS: Final = (1, 32, 125)
_IMAGES: Final = (1, 100, 1000, 2000)
_CALLERS: Final = (1, 16, 64)

_Way = Callable[[], float]


def measure(runs: int) -> Iterator[Row]:
    """One daemon for all; a namespace for each number of images."""
    with ExitStack() as stack:
        containerd = stack.enter_context(Containerd())
        pusher = Pusher(stack.enter_context(Registry()).host)
        runner = stack.enter_context(asyncio.Runner())

        def new_place() -> _Place:
            node = Node(containerd, f"bench-{secrets.token_hex(4)}")
            node.create()
            place = runner.run(_Place.open(node))
            stack.callback(lambda: runner.run(place.client.__aexit__(None, None, None)))
            return place

        yield _layers(new_place(), pusher, runs, runner)
        yield from _images(new_place, pusher, runs, runner)
        yield _callers(new_place(), pusher, max(3, runs // 3), runner)


class _Place:
    """A namespace, and a store in it."""

    def __init__(self, node: Node, client: cdimage.Client) -> None:
        self._node = node
        self.client = client
        self.store = cdimage.Store(client)

    @classmethod
    async def open(cls, node: Node) -> _Place:
        """Connect."""
        return cls(node, await cdimage.connect(node.address, node.namespace).__aenter__())

    def add(self, image: Pushed) -> Pushed:
        """Have an image there, unpacked."""
        self._node.ctr("images", "pull", "--plain-http", image.reference)
        return image

    async def prepare(self, image: Pushed) -> float:
        """Seconds of preparing an image anew."""
        await self.store.untag_image(image.digest)
        return await _seconds(self.store.pull_image(image.reference, image.digest))

    async def fill(self, image: Pushed, count: int) -> None:
        """Register that many prepared images, all of them names of one."""
        await self.store.pull_image(image.reference, image.digest)
        name = cdimage.prepared_image_name(image.digest)
        record = await self.client.images.get(name)
        assert record is not None
        for number in range(count - 1):
            digest = f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"
            labels = {**record.labels, USER_DIGEST: digest}
            name = cdimage.prepared_image_name(digest)
            await self.client.images.put(replace(record, name=name, labels=labels))
        assert len(await self.store.list_images()) == count


def _layers(place: _Place, pusher: Pusher, runs: int, runner: asyncio.Runner) -> Row:
    ways: dict[str, _Way] = {}
    for count in _LAYERS:
        layers = [
            layer_of(tar_of({secrets.token_hex(4): random.randbytes(1000)})) for _ in range(count)
        ]
        image = place.add(pusher.push(image_of(layers), f"bench/layers-{count}"))
        ways[_plural(count, "layer")] = _call(runner, place.prepare, image)
    in_turn(1, ways)
    return Row(
        "layers",
        "Preparing, by the number of the base's layers",
        _HOW,
        "ms",
        milliseconds(in_turn(2 * runs, ways)),
        targets=[Target("125 layers", "1 layer", 2)],
    )


def _images(
    new_place: Callable[[], _Place], pusher: Pusher, runs: int, runner: asyncio.Runner
) -> Iterator[Row]:
    held = pusher.push(image_of([layer_of(busybox_tar())]), "bench/held")
    other = pusher.push(image_of([layer_of(busybox_tar(other=b"x"))]), "bench/other")
    preparing: dict[str, _Way] = {}
    again: dict[str, _Way] = {}
    listing: dict[str, _Way] = {}
    for count in _IMAGES:
        place, way = new_place(), f"{_plural(count, 'image')}"
        place.add(other)
        runner.run(place.fill(held, count))
        preparing[way] = _call(runner, place.prepare, other)
        again[way] = _call(runner, _ask_again, place, held)
        listing[way] = _call(runner, _list, place)
    most, least = f"{_IMAGES[-1]:,} images", "1 image"
    for key, title, ways, target in (
        ("held-preparing", "Preparing", preparing, Target(most, least, 1.3)),
        ("held-again", "Asking again", again, Target(most, least, 1.3)),
        ("held-listing", "Listing", listing, Target(most, "", 100)),
    ):
        in_turn(1, ways)
        yield Row(
            key,
            f"{title}, by the number of prepared images in the store",
            _HOW,
            "ms",
            milliseconds(in_turn(runs, ways)),
            targets=[target],
        )


def _callers(place: _Place, pusher: Pusher, runs: int, runner: asyncio.Runner) -> Row:
    base = layer_of(busybox_tar())
    images = [
        place.add(
            pusher.push(image_of([base], {"Env": [f"NUMBER={number}"]}), f"bench/caller-{number}")
        )
        for number in range(max(_CALLERS))
    ]

    async def prepare(callers: int) -> float:
        for image in images:
            await place.store.untag_image(image.digest)
        slots = asyncio.Semaphore(callers)

        async def one(image: Pushed) -> None:
            async with slots:
                await place.store.pull_image(image.reference, image.digest)

        return await _seconds(_all([one(image) for image in images])) / len(images)

    ways = {_plural(callers, "caller"): _call(runner, prepare, callers) for callers in _CALLERS}
    return Row(
        "callers",
        f"{len(images)} images prepared, by the number of callers: the time of each",
        _HOW,
        "ms",
        milliseconds(in_turn(runs, ways)),
        targets=[Target("64 callers", "1 caller", 1.3)],
    )


async def _ask_again(place: _Place, image: Pushed) -> float:
    async def many() -> None:
        for _ in range(20):
            await place.store.pull_image(image.reference, image.digest)

    return await _seconds(many()) / 20


async def _list(place: _Place) -> float:
    return await _seconds(place.store.list_images())


async def _all(calls: Sequence[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*calls)


async def _seconds(call: Coroutine[Any, Any, object]) -> float:
    start = time.perf_counter()
    await call
    return time.perf_counter() - start


def _call(
    runner: asyncio.Runner, work: Callable[..., Coroutine[Any, Any, float]], *arguments: object
) -> _Way:
    return lambda: runner.run(work(*arguments))


def _plural(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"
