"""What a job in a warm container costs, against what else starts one: ``make bench``.

One container of busybox, and the job ``true``, in one run: `Box.exec` as a call; ``runc exec`` and
``ctr task exec`` into the same container; ``ctr run`` and ``podman run`` of the same image, cold.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.daemons import Containerd, Registry
from tests.images import Pusher, busybox_tar, image_of, layer_of
from tests.node import Node
from tests.podman import Podman
from tests.tools import tool, tool_env

import cdimage
from cdimage import warm

_REST = 0.2  # what a program leaves to do behind it is not the next one's time

Measured = Callable[[], Awaitable[object]]


async def paired(runs: int, what: dict[str, Measured]) -> dict[str, float]:
    """Medians, in seconds, of things that are done in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for number in range(runs + 1):
        for name, work in what.items():
            await asyncio.sleep(_REST)
            start = time.perf_counter()
            await work()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def program(*command: str) -> Measured:
    """Run a program to its end."""

    async def work() -> None:
        process = await asyncio.create_subprocess_exec(
            *command, env=tool_env(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if await process.wait():
            raise RuntimeError(f"{' '.join(command)} failed")

    return work


async def measure(node: Node, podman: Podman, host: str, folder: Path, runs: int) -> None:
    """Measure and print."""
    image = Pusher(host).push(image_of([layer_of(busybox_tar())]), "bench/warm")
    async with cdimage.connect(node.address, node.namespace) as client:
        store = cdimage.Store(client)
        await store.pull_image(image.reference, image.digest)
        name = cdimage.prepared_image_name(image.digest)
        node.ctr("images", "pull", "--plain-http", image.reference)
        podman("pull", "--tls-verify=false", image.reference)
        async with warm.start(client, image.digest, folder=folder) as box:
            await _jobs(node, podman, box, image.reference, runs)
            await _throughput(box, runs)
        await _starts(client, store, image.digest, folder, runs)
        node.ctr("images", "rm", "--sync", image.reference, name)


async def _jobs(node: Node, podman: Podman, box: warm.Box, image: str, runs: int) -> None:
    ctr = (tool("ctr"), "--address", node.address, "--namespace", node.namespace)
    state = f"/run/containerd/runc/{node.namespace}"

    async def ours() -> None:
        await box.exec(["true"])

    async def task_exec() -> None:
        await program(*ctr, "task", "exec", "--exec-id", secrets.token_hex(4), box.id, "true")()

    async def run() -> None:
        await program(*ctr, "run", "--rm", image, secrets.token_hex(4), "true")()

    medians = await paired(
        runs,
        {
            "Box.exec": ours,
            "runc exec": program(tool("runc"), "--root", state, "exec", box.id, "true"),
            "ctr task exec": task_exec,
            "ctr run": run,
            "podman run": program(*podman.command("run", "--rm", image, "true")),
        },
    )
    for name, seconds in medians.items():
        ratio = medians["Box.exec"] / seconds
        print(
            f"a job: {name:14} {seconds * 1000:7.1f} ms, Box.exec is {ratio:.2f} of it", flush=True
        )


async def _throughput(box: warm.Box, runs: int) -> None:
    for callers in (1, 2, 4, 8, 16, 32, 64):
        count = max(runs, callers)
        slots = asyncio.Semaphore(callers)

        async def one(slots: asyncio.Semaphore = slots) -> None:
            async with slots:
                await box.exec(["true"])

        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(count)))
        rate = count / (time.perf_counter() - start)
        print(f"jobs: {callers:2} callers, {rate:5.1f} a second", flush=True)


async def _starts(
    client: cdimage.Client, store: cdimage.Store, digest: str, folder: Path, runs: int
) -> None:
    async def start() -> None:
        async with warm.start(client, digest, folder=folder):
            pass

    medians = await paired(runs, {"start and stop": start})
    print(f"a container: start and stop {medians['start and stop'] * 1000:.1f} ms")
    seconds = []
    async with warm.WarmPool(store, size=2, folder=folder) as pool:
        for _ in range(runs):
            await pool.keep(digest)
            begin = time.perf_counter()
            async with pool.take(digest):
                seconds.append(time.perf_counter() - begin)
    print(f"a container from the pool: {statistics.median(seconds) * 1000:.3f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    runs: int = parser.parse_args().runs
    with (
        Containerd() as containerd,
        Registry() as registry,
        Podman() as podman,
        tempfile.TemporaryDirectory(prefix="cdi-bench-") as folder,
    ):
        node = Node(containerd, f"bench-{secrets.token_hex(4)}")
        node.create()
        try:
            asyncio.run(measure(node, podman, registry.host, Path(folder), runs))
        finally:
            node.clear()


if __name__ == "__main__":
    main()
