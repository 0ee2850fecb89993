"""Daemons that die, disks that are full, and other programs that pull the same."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import pytest
from tests.daemons import Containerd, Registry
from tests.images import Pushed, Pusher, busybox_tar, image_of, layer_of, tar_of
from tests.node import Node, check_complete_if_named
from tests.tools import tool, tool_env
from tests.worker import start_worker

import cdimage
from cdimage.store import State

LAYER_SIZE = 60_000_000
WASTE = 1.2
"""How many times the bytes of an image a killed pull and the next one may fetch together."""
SOCKETS = 100_000_000
"""What three connections over the loopback may hold, sent by the registry and read by nobody: more
than the rest where the image is not so large.
"""


def new_image(size: int = LAYER_SIZE, count: int = 4) -> tuple[bytes, ...]:
    return tuple(tar_of({f"data-{n}": os.urandom(size)}) for n in range(count))


def push(pusher: Pusher, repository: str, tars: tuple[bytes, ...]) -> Pushed:
    layers = [layer_of(busybox_tar()), *(layer_of(tar, "none") for tar in tars)]
    return pusher.push(image_of(layers), repository)


@pytest.fixture(scope="module")
def large(pusher: Pusher, pytestconfig: pytest.Config) -> Pushed:
    size = 100_000_000 if pytestconfig.getoption("--soak") else LAYER_SIZE
    return push(pusher, "test/large-to-kill", new_image(size))


def size_of(registry: Registry, image: Pushed) -> int:
    return sum(registry.blob_path(digest).stat().st_size for digest in set(image.layers))


def layer_bytes(registry: Registry, image: Pushed, since: int = 0) -> int:
    """The bytes of an image's layers that the registry has sent, by its own log."""
    return sum(
        request.size
        for request in registry.requests()[since:]
        if request.method == "GET" and request.path.rpartition("/")[2] in image.layers
    )


def drop_leases(node: Node) -> None:
    """What the time does in a day."""
    for lease in node.leases():
        node.ctr("leases", "rm", "--sync", lease)


async def test_a_killed_pull_is_continued_by_the_next_one(
    store: cdimage.Store,
    node: Node,
    large: Pushed,
    registry: Registry,
    pytestconfig: pytest.Config,
) -> None:
    rounds = 100 if pytestconfig.getoption("--soak") else 10
    start = time.monotonic()
    assert start_worker(node, large.reference, large.digest).wait() == 0
    duration = time.monotonic() - start
    await store.untag_image(large.digest)
    moments, unfinished = random.Random(5), 0
    for _ in range(rounds):
        before = len(registry.requests())
        worker = start_worker(node, large.reference, large.digest)
        try:
            worker.wait(duration * moments.uniform(0.1, 0.9))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        unfinished += not await check_complete_if_named(store, node, large)
        await store.pull_image(large.reference, large.digest)
        assert await check_complete_if_named(store, node, large)
        assert layer_bytes(registry, large, before) <= WASTE * size_of(registry, large)
        await store.untag_image(large.digest)
        drop_leases(node)
        assert node.is_empty()
    assert unfinished >= rounds // 4


@pytest.fixture
def own_node(pytestconfig: pytest.Config) -> Iterator[Node]:
    """A node with a daemon that may be killed."""
    with Containerd() as daemon:
        node = Node(daemon, "mortal", pytestconfig.getoption("--snapshotter"))
        node.create()
        yield node


@pytest.fixture
async def own_store(own_node: Node) -> AsyncIterator[cdimage.Store]:
    async with cdimage.connect(own_node.address, own_node.namespace) as client:
        yield cdimage.Store(client)


async def wait_until_it_answers(store: cdimage.Store) -> None:
    """The connection is made again within a second."""
    async with asyncio.timeout(20):
        while True:
            with suppress(cdimage.UnavailableError):
                await store.list_images()
                return
            await asyncio.sleep(0.05)


async def test_a_daemon_that_is_killed_loses_no_record_and_the_next_pull_goes_on(
    own_store: cdimage.Store,
    own_node: Node,
    large: Pushed,
    registry: Registry,
    pusher: Pusher,
    new_repository: Callable[[], str],
    pytestconfig: pytest.Config,
) -> None:
    rounds = 20 if pytestconfig.getoption("--soak") else 4
    store, node = own_store, own_node
    kept = push(pusher, new_repository(), new_image(1000, 1))
    await store.pull_image(kept.reference, kept.digest)
    node.ctr("images", "tag", cdimage.prepared_image_name(kept.digest), "theirs.example/x:1")
    moments, broken = random.Random(6), 0
    for _ in range(rounds):
        before = len(registry.requests())
        wanted = moments.uniform(0, 1) * size_of(registry, large)
        arrived = asyncio.Event()
        seen: dict[str, int] = {}

        def note(event: cdimage.Progress) -> None:
            seen[str(event.descriptor.digest)] = event.offset  # noqa: B023
            if sum(seen.values()) >= wanted:  # noqa: B023
                arrived.set()  # noqa: B023

        pull = asyncio.create_task(store.pull_image(large.reference, large.digest, progress=note))
        await arrived.wait()
        await asyncio.to_thread(node.containerd.kill)
        (error,) = await asyncio.gather(pull, return_exceptions=True)
        assert error is None or isinstance(error, cdimage.UnavailableError)
        broken += error is not None
        await asyncio.to_thread(node.containerd.start)
        await wait_until_it_answers(store)
        assert {cdimage.prepared_image_name(kept.digest), "theirs.example/x:1"} <= node.images()
        await check_complete_if_named(store, node, large)
        await store.pull_image(large.reference, large.digest)
        assert await check_complete_if_named(store, node, large)
        assert await check_complete_if_named(store, node, kept)
        assert layer_bytes(registry, large, before) <= size_of(registry, large) + SOCKETS
        await store.untag_image(large.digest)
        drop_leases(node)
        assert set(large.layers) & node.blobs() <= set(kept.layers)
    assert broken >= rounds // 2
    node.ctr("images", "rm", "theirs.example/x:1")
    await store.untag_image(kept.digest)
    drop_leases(node)
    assert node.is_empty()


async def test_a_full_disk_is_told_and_the_next_pull_goes_on(
    registry: Registry, pusher: Pusher, new_repository: Callable[[], str],
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    image = push(pusher, new_repository(), new_image(8_000_000, 12))
    before = len(registry.requests())
    with Containerd(disk_size=1_600_000_000) as daemon:
        node = Node(daemon, "full", pytestconfig.getoption("--snapshotter"))
        node.create()
        filler = daemon.root / "filler"
        free = os.statvfs(daemon.root).f_bavail * os.statvfs(daemon.root).f_frsize
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - 60_000_000)
        async with cdimage.connect(daemon.address, node.namespace) as client:
            store = cdimage.Store(client, concurrency=1)
            with pytest.raises(cdimage.UnavailableError, match="its disk is full; free some"):
                await store.pull_image(image.reference, image.digest)
            assert node.images() == set()
            filler.unlink()
            await store.pull_image(image.reference, image.digest)
            assert await check_complete_if_named(store, node, image)
            assert layer_bytes(registry, image, before) <= WASTE * size_of(registry, image)
            await store.untag_image(image.digest)
            drop_leases(node)
            assert node.is_empty()


# Others who want the same.


def wait_for_ingest(node: Node, worker: subprocess.Popen[bytes]) -> None:
    while not node.ingests() and worker.poll() is None:
        pass


async def test_a_waiter_takes_over_from_a_leader_that_dies(
    store: cdimage.Store, node: Node, large: Pushed, registry: Registry
) -> None:
    before = len(registry.requests())
    leader = start_worker(node, large.reference, large.digest)
    await asyncio.to_thread(wait_for_ingest, node, leader)
    waiting = asyncio.create_task(store.pull_image(large.reference, large.digest))
    await asyncio.sleep(0.3)  # what it waits for gives no sign
    leader.kill()
    leader.wait()
    await waiting
    assert await check_complete_if_named(store, node, large)
    assert layer_bytes(registry, large, before) <= size_of(registry, large) + SOCKETS


def run(command: list[str]) -> None:
    done = subprocess.run(command, env=tool_env(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_beside_containerds_own_client_each_layer_is_fetched_once(
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    registry: Registry,
    new_repository: Callable[[], str],
) -> None:
    image = push(pusher, new_repository(), new_image(20_000_000))
    before = len(registry.requests())
    # containerd 2.1 itself unpacks into its default snapshotter only (containerd/containerd#11606).
    local = ["--local"] if "--local" in node.ctr("image", "pull", "--help") else []
    command = [
        tool("ctr"), "--address", node.address, "--namespace", node.namespace, "image", "pull",
        *local, "--plain-http", "--snapshotter", node.snapshotter, image.reference,
    ]  # fmt: skip
    pull = asyncio.create_task(asyncio.to_thread(run, command))
    await store.pull_image(image.reference, image.digest)
    await pull
    assert layer_bytes(registry, image, before) == size_of(registry, image)
    assert node.images() == {image.reference, cdimage.prepared_image_name(image.digest)}
    await store.untag_image(image.digest)
    assert node.images() == {image.reference}
    assert set(image.layers) <= node.blobs()


async def test_sixty_four_callers_in_eight_processes_fetch_each_blob_once(
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    registry: Registry,
    new_repository: Callable[[], str],
) -> None:
    image = push(pusher, new_repository(), new_image(8_000_000, 4))
    before = len(registry.requests())
    workers = [
        start_worker(node, image.reference, image.digest, "--callers", "8") for _ in range(8)
    ]
    assert [await asyncio.to_thread(worker.wait) for worker in workers] == [0] * 8
    assert layer_bytes(registry, image, before) == size_of(registry, image)
    assert node.leases() == set()
    await store.untag_image(image.digest)
    assert node.is_empty()


# Progress.


def wait_for_log(registry: Registry, image: Pushed, lines: int) -> None:
    """The registry logs a request when it has ended for the registry, too."""
    deadline = time.monotonic() + 20
    while layer_requests(registry, image) < lines and time.monotonic() < deadline:
        pass


def layer_requests(registry: Registry, image: Pushed) -> int:
    asked = (request for request in registry.requests() if request.method == "GET")
    return sum(request.path.rpartition("/")[2] in image.layers for request in asked)


async def test_events_add_up(
    store: cdimage.Store, node: Node, large: Pushed, registry: Registry
) -> None:
    requests = layer_requests(registry, large)
    first: list[cdimage.Progress] = []
    enough = asyncio.Event()

    def note(event: cdimage.Progress) -> None:
        first.append(event)
        if event.offset > LAYER_SIZE // 3:
            enough.set()

    pull = asyncio.create_task(store.pull_image(large.reference, large.digest, progress=note))
    await enough.wait()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    asked = {event.descriptor.digest for event in first if event.state is State.FETCHING}
    await asyncio.to_thread(wait_for_log, registry, large, requests + len(asked))
    before, second = len(registry.requests()), list[cdimage.Progress]()
    await store.pull_image(large.reference, large.digest, progress=second.append)
    last = {event.descriptor.digest: event for event in second}
    of_base = [last[digest] for digest in last if str(digest) in large.layers]
    assert all(event.is_last and event.offset == event.total for event in last.values())
    assert sum(event.offset for event in of_base) == size_of(registry, large)
    fetched = sum(event.offset - event.resumed_at for event in of_base)
    assert fetched == layer_bytes(registry, large, before)
    assert any(0 < event.resumed_at < event.total for event in of_base)
    for digest in last:
        events = [event for event in second if event.descriptor.digest == digest]
        assert [event.offset for event in events] == sorted(event.offset for event in events)
        order = list(State)
        states = [order.index(event.state) for event in events]
        assert states == sorted(states)
