"""Workers, shims and daemons that are killed while jobs run, and containers that outlive them."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.daemons import Containerd, Registry
from tests.images import Pusher
from tests.node import Node
from tests.tools import ROOT
from tests.warm_images import busybox, nothing_is_left, open_files, prepared, processes

import cdimage
from cdimage import warm


class Worker:
    """A process that has a container, with a job in it."""

    def __init__(self, node: Node, digest: str, folder: Path, lifetime: float = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm.worker", node.address, node.namespace, digest,
             str(folder), str(lifetime)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.container = self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def new_worker(node: Node, digest: str, folder: Path) -> Iterator[Callable[..., Worker]]:
    with ExitStack() as stack:

        def make(lifetime: float = 0) -> Worker:
            worker = Worker(node, digest, folder, lifetime)
            stack.callback(worker.kill)
            return worker

        yield make


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.05)


async def test_a_container_is_found_again_and_the_jobs_of_the_dead_are_ended(
    client: cdimage.Client, new_worker: Callable[..., Worker]
) -> None:
    worker = new_worker()
    (found,) = await warm.list(client, {"app": "test"})
    assert (found.id, found.is_running, found.is_used) == (worker.container, True, True)
    assert await warm.list(client, {"app": "other"}) == []
    worker.kill()
    (found,) = await warm.list(client)
    assert (found.is_running, found.is_used) == (True, False)
    async with await warm.attach(client, found.id) as box:
        processes = await box.exec(["ps"])
        assert b"sleep" not in processes.stdout
        with nothing_is_left(box):
            pass
    assert await warm.list(client) == []
    with pytest.raises(cdimage.NotFoundError, match="no warm container"):
        await warm.attach(client, found.id)


async def test_jobs_of_two_processes_do_not_disturb_each_other(
    client: cdimage.Client, new_worker: Callable[..., Worker]
) -> None:
    worker = new_worker()
    box = await warm.attach(client, worker.container)
    await asyncio.gather(*(box.exec(["sh", "-c", "sleep 0.1 & echo hi"]) for _ in range(10)))
    assert (await box.exec(["ps"])).stdout.count(b"sleep 1000") == 2
    worker.kill()
    await box.stop()


async def test_the_abandoned_are_reaped_and_those_in_use_are_not(
    client: cdimage.Client, new_worker: Callable[..., Worker], node: Node
) -> None:
    living, dead = new_worker(), new_worker()
    dead.kill()
    assert await warm.reap(client, older_than=1000) == []
    assert await warm.reap(client, older_than=0, labels={"app": "other"}) == []
    assert await warm.reap(client, older_than=0) == [dead.container]
    assert [it.id for it in await warm.list(client)] == [living.container]
    living.kill()
    await warm.reap(client, older_than=0)
    assert node.ctr("containers", "ls", "-q") == ""


async def test_a_container_ends_after_its_lifetime_though_its_worker_died(
    client: cdimage.Client, new_worker: Callable[..., Worker]
) -> None:
    worker = new_worker(2)
    worker.kill()

    async def is_ended() -> bool:
        return not (await warm.list(client))[0].is_running

    await until(is_ended, "it ends")
    with pytest.raises(cdimage.NotFoundError, match="has ended"):
        await warm.attach(client, worker.container)
    assert await warm.reap(client, older_than=0) == [worker.container]


async def test_a_container_that_ended_is_told_from_one_that_does_not_answer(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    async with warm.start(
        client, digest, lifetime=1, folder=folder, snapshotter=node.snapshotter
    ) as box:
        assert (await box.exec(["sleep", "1000"])).exit_code == 137
        assert await box.wait() == 0
        assert not box.is_running
        files = open_files()
        with pytest.raises(cdimage.NotFoundError, match="has ended"):
            await box.put(b"", "/tmp")
        with pytest.raises(cdimage.NotFoundError, match="has ended"):
            await anext(box.get("/tmp"))
        assert open_files() == files
        for _ in range(2):
            with pytest.raises(cdimage.NotFoundError, match="has ended"):
                await box.exec(["true"])


async def test_a_shim_that_is_killed_takes_its_container_and_says_so(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    async with warm.start(client, digest, folder=folder, snapshotter=node.snapshotter) as box:
        job = asyncio.create_task(box.exec(["sleep", "1000"]))
        await asyncio.sleep(0.3)
        (shim,) = [pid for pid in _shims(node) if box.id in _arguments(pid)]
        os.kill(shim, signal.SIGKILL)
        try:
            async with asyncio.timeout(30):
                result = await job
            assert result.exit_code == 137
        except cdimage.NotFoundError as error:
            assert "ended" in str(error)  # noqa: PT017 - either is right
    assert node.ctr("containers", "ls", "-q") == ""


def _shims(node: Node) -> list[int]:
    return [
        int(path.name) for path in Path("/proc").glob("[0-9]*")
        if node.address in _arguments(int(path.name))
        and "shim" in _arguments(int(path.name))[0]
    ]  # fmt: skip


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return [""]


@dataclass(frozen=True)
class Restarted:
    """A daemon of a test's own, and a container in it."""

    daemon: Containerd
    client: cdimage.Client
    box: warm.Box

    async def restart(self) -> None:
        """Kill the daemon, and start it again."""
        self.daemon.kill()
        with pytest.raises(cdimage.UnavailableError):
            await self.client.tasks.list()
        await asyncio.to_thread(self.daemon.start)


@pytest.fixture
async def restarted(
    registry: Registry, new_repository: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Restarted]:
    with Containerd() as daemon:
        node = Node(daemon, f"test-{secrets.token_hex(6)}")
        node.create()
        try:
            async with cdimage.connect(node.address, node.namespace) as client:
                store = cdimage.Store(client)
                digest = await prepared(store, Pusher(registry.host), new_repository(), busybox())
                async with warm.start(client, digest, folder=tmp_path / "w") as box:
                    yield Restarted(daemon, client, box)
                await store.untag_image(digest)
        finally:
            node.clear()


async def test_jobs_outlive_a_daemon_that_is_killed_and_restarted(restarted: Restarted) -> None:
    script = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done; exit 9"
    async with restarted.box.spawn(["sh", "-c", script]) as job:
        assert await job.stdout.read() == b"1\n"
        await asyncio.gather(restarted.restart(), asyncio.sleep(1))
        assert b"".join([chunk async for chunk in job.stdout]) == b"2\n3\n4\n5\n6\n"
        assert (await job.wait()).exit_code == 9
    assert (await restarted.box.exec(["true"])).exit_code == 0


async def test_a_daemon_that_is_away_when_the_input_ends(restarted: Restarted) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"one "
        restarting = asyncio.create_task(restarted.restart())
        yield b"two"
        await asyncio.sleep(0.01)
        waiting.append(restarting)

    waiting: list[asyncio.Task[None]] = []
    result = await restarted.box.exec(["cat"], stdin=source())
    assert (result.exit_code, result.stdout) == (0, b"one two")
    await asyncio.gather(*waiting)


async def test_a_daemon_that_is_killed_while_it_starts_a_job(restarted: Restarted) -> None:
    for milliseconds in (1, 10, 20, 25, 30, 35, 40, 50):
        with nothing_is_left(restarted.box):
            job = asyncio.create_task(
                restarted.box.exec(["sh", "-c", "sleep 0.3; (exit 9)"], timeout=20)
            )
            await asyncio.sleep(milliseconds / 1000)
            await restarted.restart()
            try:
                assert (await job).exit_code == 9
            except cdimage.UnavailableError as error:
                assert "run it again" in str(error)  # noqa: PT017 - either is right
        assert await processes(restarted.box) == ["ps"]


async def test_a_start_that_is_cancelled_or_fails_leaves_nothing(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    for delay in (0, 0.005, 0.02, 0.04):
        starting = asyncio.create_task(
            warm.launch(client, digest, folder=folder, snapshotter=node.snapshotter)
        )
        await asyncio.sleep(delay)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    with pytest.raises(cdimage.InvalidReferenceError, match="no user 'who'"):
        await warm.launch(client, digest, user="who", folder=folder, snapshotter=node.snapshotter)
    with pytest.raises(cdimage.BackendError, match="no such file"):
        await warm.launch(
            client, digest, mounts=[warm.Mount("/x", "/no/such/place")], folder=folder,
            snapshotter=node.snapshotter,
        )  # fmt: skip
    with pytest.raises(cdimage.NotFoundError, match="pull it first"):
        await warm.launch(client, "sha256:" + "0" * 64, folder=folder)
    assert node.ctr("containers", "ls", "-q") == ""
    assert node.ctr("task", "ls", "-q") == ""
