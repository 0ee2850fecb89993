"""What preparing costs, on a containerd and a registry of its own: ``make bench``.

Two measurements, in one run on one daemon:

* the time that preparing adds to a base that is unpacked already, as a library call;
* pull and prepare against ``ctr image pull`` of the same image, in turns: as a call in a worker
  that runs, which is what cdimage is for, and as a process, which pays for the start of Python too.
  Each run has a containerd of its own, just started, and nothing is deleted until all are done:
  ext4 is slow for seconds after many files were deleted, and would charge it to whoever comes next.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tests.daemons import Containerd, Registry
from tests.images import Pushed, Pusher, busybox_tar, debian_layer, image_of, layer_of, tar_of
from tests.tools import ROOT, tool, tool_env

import cdimage

NAMESPACE = "bench"


async def added_time(containerd: Containerd, image: Pushed, runs: int) -> list[float]:
    """Seconds of `pull_image` where ``ctr image pull`` has unpacked the base before."""
    containerd.ctr("images", "pull", "--plain-http", image.reference, namespace=NAMESPACE)
    seconds = []
    async with cdimage.connect(containerd.address, NAMESPACE) as client:
        store = cdimage.Store(client)
        for _ in range(runs + 1):
            start = time.perf_counter()
            await store.pull_image(image.reference, image.digest)
            seconds.append(time.perf_counter() - start)
            await store.untag_image(image.digest)
    containerd.ctr("images", "rm", "--sync", image.reference, namespace=NAMESPACE)
    return seconds[1:]  # the first opens the connections


def timed(command: Sequence[str]) -> float:
    """Seconds that a process takes, once the disk has settled from the one before."""
    os.sync()
    start = time.perf_counter()
    subprocess.run(command, env=tool_env(), cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def pull_with_library(containerd: Containerd, image: Pushed) -> float:
    """Seconds of a call that pulls and prepares, connections included."""

    async def pull() -> float:
        async with cdimage.connect(containerd.address, NAMESPACE) as client:
            store = cdimage.Store(client)
            os.sync()
            start = time.perf_counter()
            await store.pull_image(image.reference, image.digest)
            return time.perf_counter() - start

    return asyncio.run(pull())


def pull_with_process(containerd: Containerd, image: Pushed) -> float:
    """Seconds of a process that pulls and prepares."""
    where = ["--address", containerd.address, "--namespace", NAMESPACE]
    program = [sys.executable, "-m", "cdimage"]
    return timed([*program, "pull", image.reference, "--digest", image.digest, "-q", *where])


def pull_with_ctr(containerd: Containerd, image: Pushed) -> float:
    """Seconds of ``ctr image pull``."""
    program = [tool("ctr"), "--address", containerd.address, "--namespace", NAMESPACE]
    return timed([*program, "images", "pull", "--plain-http", image.reference])


def report(name: str, seconds: Sequence[float]) -> None:
    """One line: median and range, in milliseconds."""
    low, middle, high = (1000 * f(seconds) for f in (min, statistics.median, max))
    print(
        f"{name:44} {middle:9.1f} ms   ({low:.1f} to {high:.1f}, {len(seconds)} runs)", flush=True
    )


def compare(name: str, image: Pushed, runs: int) -> None:
    """Pull and prepare against ctr, in turns, the order drawn by lot."""
    ways = {
        "call of cdimage": pull_with_library,
        "cdimage pull": pull_with_process,
        "ctr image pull": pull_with_ctr,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with ExitStack() as stack:
        for _ in range(runs):
            for way in random.sample(list(ways), len(ways)):
                containerd = stack.enter_context(Containerd())
                seconds[way].append(ways[way](containerd, image))
    for way, measured in seconds.items():
        report(f"{name}: {way}", measured)
    *ours, theirs = seconds.values()
    for way, mine in zip(ways, ours, strict=False):
        ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
        print(f"{f'{name}: {way} / ctr image pull':44} {ratio:9.2f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs: int = parser.parse_args().runs
    with Containerd() as containerd, Registry() as registry:
        pusher = Pusher(registry.host)
        small = pusher.push(image_of([layer_of(busybox_tar())]), "bench/busybox")
        debian = pusher.push(image_of([debian_layer()]), "bench/debian")
        extra = [layer_of(tar_of({f"f{n}": random.randbytes(1_000_000)})) for n in range(40)]
        many = pusher.push(image_of([layer_of(busybox_tar()), *extra]), "bench/many")
        version = containerd.ctr("version").partition("Server:")[2].split()[1]
        print(f"containerd {version}, Python {sys.version.split()[0]}")
        for name, image in (("busybox", small), ("debian", debian), ("41 layers", many)):
            seconds = asyncio.run(added_time(containerd, image, runs))
            report(f"{name}: preparing an unpacked base", seconds)
        for name, image in (("debian", debian), ("41 layers", many)):
            compare(name, image, max(3, runs // 3))


if __name__ == "__main__":
    main()
