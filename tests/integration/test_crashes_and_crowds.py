"""What killed processes leave behind, and what many callers cost."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Callable

import pytest
from tests.daemons import Registry
from tests.images import Image, Pushed, Pusher, busybox_tar, image_of, layer_of, tar_of
from tests.node import Node, check_complete_if_named
from tests.worker import start_worker

import cdimage

KILLS = 20
LEASE_SECONDS = 4.0


def large_image() -> Image:
    noise = random.Random(1)
    extra = [tar_of({f"data-{n}": noise.randbytes(12_000_000)}) for n in range(4)]
    return image_of([layer_of(busybox_tar()), *(layer_of(tar, "none") for tar in extra)])


@pytest.fixture(scope="module")
def large(pusher: Pusher) -> Pushed:
    return pusher.push(large_image(), "test/large")


async def test_killed_at_any_point_a_pull_leaves_nothing_but_what_a_lease_holds(
    store: cdimage.Store, node: Node, large: Pushed
) -> None:
    start = time.monotonic()
    assert start_worker(node, large.reference, large.digest).wait() == 0
    duration = time.monotonic() - start
    await store.untag_image(large.digest)
    assert node.is_empty()

    unfinished = 0
    for number in range(KILLS):
        worker = start_worker(
            node, large.reference, large.digest, "--lease-seconds", str(LEASE_SECONDS)
        )
        try:
            worker.wait(duration * (number + 0.5) / KILLS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        if not await check_complete_if_named(store, node, large):
            unfinished += 1
        await store.pull_image(large.reference, large.digest)
        assert await check_complete_if_named(store, node, large)
        await store.untag_image(large.digest)
    assert unfinished >= KILLS // 4

    await asyncio.sleep(LEASE_SECONDS + 1)  # leases end by the clock, and nothing announces it
    await store.pull_image(large.reference, large.digest)
    container = node.run(large.digest)
    assert container.terminate() < 0.1
    container.remove()
    await store.untag_image(large.digest)
    assert node.is_empty()


async def test_what_arrived_before_a_kill_is_not_fetched_again(
    store: cdimage.Store, node: Node, large: Pushed, registry: Registry
) -> None:
    worker = start_worker(node, large.reference, large.digest)
    while len(node.blobs() & set(large.layers)) < 2 and worker.poll() is None:
        pass
    worker.kill()
    worker.wait()
    here = node.blobs() & set(large.layers)
    assert here
    before = len(registry.requests())
    await store.pull_image(large.reference, large.digest)
    asked = {request.path.rpartition("/")[2] for request in registry.requests()[before:]}
    assert not here & asked


@pytest.mark.parametrize("processes", [1, 4])
async def test_many_callers_of_one_digest_fetch_each_layer_once(
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    registry: Registry,
    new_repository: Callable[[], str],
    processes: int,
) -> None:
    pushed = pusher.push(large_image(), new_repository())
    before = len(registry.requests())
    callers = str(16 // processes)
    workers = [
        start_worker(node, pushed.reference, pushed.digest, "--callers", callers)
        for _ in range(processes)
    ]
    codes = [await asyncio.to_thread(worker.wait) for worker in workers]
    assert codes == [0] * processes
    fetched = [
        request.path.rpartition("/")[2]
        for request in registry.requests()[before:]
        if request.method == "GET" and "/blobs/" in request.path
    ]
    assert sorted(set(fetched) & set(pushed.layers)) == sorted(pushed.layers)
    assert [digest for digest in pushed.layers if fetched.count(digest) != 1] == []
    resolved = [r for r in registry.requests()[before:] if "/manifests/" in r.path]
    assert len(resolved) <= processes
    assert node.leases() == set()
    await store.untag_image(pushed.digest)
    assert node.is_empty()


async def test_cancelled_a_pull_leaves_no_name_and_the_next_one_succeeds(
    store: cdimage.Store, node: Node, large: Pushed
) -> None:
    arrived = asyncio.Event()
    task = asyncio.create_task(
        store.pull_image(large.reference, large.digest, progress=lambda event: arrived.set())
    )
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert node.images() == set()
    await store.pull_image(large.reference, large.digest)
    assert await store.get_existing_images() == [large.digest]


async def test_a_caller_that_waits_takes_over_from_one_that_is_cancelled(
    store: cdimage.Store, large: Pushed
) -> None:
    arrived = asyncio.Event()
    first = asyncio.create_task(
        store.pull_image(large.reference, large.digest, progress=lambda event: arrived.set())
    )
    await arrived.wait()
    second = asyncio.create_task(store.pull_image(large.reference, large.digest))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert await store.get_existing_images() == [large.digest]
