"""What a job in a warm container costs, against what else starts one."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.daemons import Containerd, Registry
from tests.images import Pushed, Pusher, busybox_tar, image_of, layer_of
from tests.node import Node
from tests.podman import Podman
from tests.tools import tool

import cdimage
from bench.programs import run
from bench.rows import Row, Target, in_turn, milliseconds
from cdimage import warm

_REST: Final = 0.2  # what a program leaves to do behind it is not the next one's time
_HOW: Final = "busybox, prepared and unpacked; containerd 1.6; the job is `true`"
_CALLERS: Final = (1, 4, 16, 64)
_JOBS: Final = 64
_COMMANDS: Final = {
    "runc exec": "runc exec CONTAINER true",
    "ctr task exec": "ctr task exec --exec-id ID CONTAINER true",
    "ctr run": "ctr run --rm IMAGE ID true",
    "podman run": "podman run --rm IMAGE true",
}


def measure(runs: int) -> Iterator[Row]:
    """One container, and others beside it."""
    with ExitStack() as stack:
        node = Node(stack.enter_context(Containerd()), f"bench-{secrets.token_hex(4)}")
        host = stack.enter_context(Registry()).host
        podman = stack.enter_context(Podman())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cdi-bench-")))
        node.create()
        stack.callback(node.clear)
        image = Pusher(host).push(image_of([layer_of(busybox_tar())]), "bench/warm")
        node.ctr("images", "pull", "--plain-http", image.reference)
        podman("pull", "--tls-verify=false", image.reference)
        runner = stack.enter_context(asyncio.Runner())
        bench = runner.run(_Bench.open(node, image, folder))
        stack.callback(lambda: runner.run(bench.close()))
        yield bench.row_of_jobs(podman, runs, runner)
        yield bench.row_of_callers(max(3, runs // 3), runner)
        yield bench.row_of_starts(runs, runner)


class _Bench:
    def __init__(self, node: Node, image: Pushed, folder: Path, stack: AsyncExitStack) -> None:
        self._node = node
        self._image = image
        self._folder = folder
        self._stack = stack

    @classmethod
    async def open(cls, node: Node, image: Pushed, folder: Path) -> _Bench:
        """Connect, prepare the image and start a container."""
        bench = cls(node, image, folder, AsyncExitStack())
        enter = bench._stack.enter_async_context
        bench.client = await enter(cdimage.connect(node.address, node.namespace))
        bench.store = cdimage.Store(bench.client)
        await bench.store.pull_image(image.reference, image.digest)
        bench.box = await enter(warm.start(bench.client, image.digest, folder=folder))
        bench.pool = await enter(warm.WarmPool(bench.store, size=2, folder=folder))
        return bench

    client: cdimage.Client
    store: cdimage.Store
    box: warm.Box
    pool: warm.WarmPool

    async def close(self) -> None:
        """Stop everything."""
        await self._stack.aclose()

    def row_of_jobs(self, podman: Podman, runs: int, runner: asyncio.Runner) -> Row:
        """One job, by each in turn."""
        node, image = self._node, self._image.reference
        ctr = (tool("ctr"), "--address", node.address, "--namespace", node.namespace)
        runc = (tool("runc"), "--root", f"/run/containerd/runc/{node.namespace}")

        def job_of_ctr() -> float:
            job = ("task", "exec", "--exec-id", secrets.token_hex(4), self.box.id, "true")
            return _rested(lambda: run([*ctr, *job]).seconds)

        def container_of_ctr() -> float:
            words = ("run", "--rm", image, secrets.token_hex(4), "true")
            return _rested(lambda: run([*ctr, *words]).seconds)

        ways: dict[str, Callable[[], float]] = {
            "Box.exec": lambda: _rested(lambda: runner.run(_seconds(self._job))),
            "runc exec": lambda: _rested(lambda: run([*runc, "exec", self.box.id, "true"]).seconds),
            "ctr task exec": job_of_ctr,
            "ctr run": container_of_ctr,
            "podman run": lambda: _rested(
                lambda: run(podman.command("run", "--rm", image, "true")).seconds
            ),
        }
        in_turn(1, ways)
        return Row(
            "job",
            "A job",
            f"{_HOW}; the first three in a container that runs, the others in one of its own",
            "ms",
            milliseconds(in_turn(2 * runs, ways)),
            _COMMANDS,
            [Target("Box.exec", "runc exec", 1.2), Target("Box.exec", "ctr task exec", 1)],
        )

    def row_of_callers(self, runs: int, runner: asyncio.Runner) -> Row:
        """Jobs of many callers of one container."""

        async def one(slots: asyncio.Semaphore) -> None:
            async with slots:
                await self._job()

        async def all_of(callers: int) -> float:
            slots = asyncio.Semaphore(callers)
            start = time.perf_counter()
            await asyncio.gather(*(one(slots) for _ in range(_JOBS)))
            return (time.perf_counter() - start) / _JOBS

        def way(callers: int) -> Callable[[], float]:
            return lambda: runner.run(all_of(callers))

        ways = {f"at most {callers} at once": way(callers) for callers in _CALLERS}
        return Row(
            "job-callers",
            f"{_JOBS} jobs at the same time, the time of each",
            f"{_HOW}, in one container",
            "ms",
            milliseconds(in_turn(runs, ways)),
            targets=[Target("at most 64 at once", "at most 1 at once", 1)],
        )

    def row_of_starts(self, runs: int, runner: asyncio.Runner) -> Row:
        """Containers, started and taken from a pool."""

        async def start() -> None:
            async with warm.start(self.client, self._image.digest, folder=self._folder):
                pass

        async def take() -> float:
            await self.pool.keep(self._image.digest)
            begin = time.perf_counter()
            async with self.pool.take(self._image.digest):
                return time.perf_counter() - begin

        ways: dict[str, Callable[[], float]] = {
            "start and stop": lambda: _rested(lambda: runner.run(_seconds(start))),
            "from a pool": lambda: _rested(lambda: runner.run(take())),
        }
        in_turn(1, ways)
        values = milliseconds(in_turn(runs, ways))
        return Row("container", "A container", _HOW, "ms", values)

    async def _job(self) -> None:
        await self.box.exec(["true"])


def _rested(work: Callable[[], float]) -> float:
    time.sleep(_REST)
    return work()


async def _seconds(work: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start
