"""What preparing inside a registry costs, whatever the image's size: ``make bench``.

Images of three sizes, in one run on one registry: ``RegistryStore.pull_image`` as a call, and what
else copies an image between two repositories of a registry, ``skopeo copy``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import time

from tests.daemons import Registry
from tests.holes import hole
from tests.images import Pushed, Pusher, image_of
from tests.tools import tool, tool_env

import cdimage

MB = 1 << 20
SIZES = (2 * MB, 64 * MB, 2048 * MB)


async def prepare(daemon: Registry, image: Pushed, runs: int) -> list[float]:
    """Seconds of preparing an image in the registry that it is in, each time anew."""
    seconds = []
    async with cdimage.Registry() as registry:
        for number in range(runs + 1):
            store = cdimage.RegistryStore(f"{daemon.host}/prepared/{number}", registry)
            start = time.perf_counter()
            await store.pull_image(image.reference, image.digest)
            seconds.append(time.perf_counter() - start)
    return seconds[1:]  # the first opens the connections


def copy(daemon: Registry, image: Pushed, runs: int) -> list[float]:
    """Seconds of copying an image to another repository with skopeo."""
    seconds = []
    options = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    for number in range(runs):
        target = f"docker://{daemon.host}/copied/{number}"
        start = time.perf_counter()
        subprocess.run(
            [tool("skopeo"), *options, f"docker://{image.reference}", target],
            env=tool_env(), check=True, capture_output=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs: int = parser.parse_args().runs
    with Registry() as daemon:
        pusher = Pusher(daemon.host)
        smallest = 0.0
        for size in SIZES:
            repository = f"bench/{size // MB}"
            made = image_of([hole(daemon, repository, size)])
            pusher.push_blob(repository, made.config.data)
            image = pusher.push_manifest(repository, "latest", made.manifest)
            ours = statistics.median(asyncio.run(prepare(daemon, image, runs)))
            theirs = statistics.median(copy(daemon, image, max(3, runs // 4)))
            smallest = smallest or ours
            print(
                f"prepare {size // MB:5} MB in a registry: {ours * 1000:6.1f} ms, "
                f"{ours / smallest:.2f} of the smallest, {ours / theirs:.2f} of skopeo copy",
                flush=True,
            )


if __name__ == "__main__":
    main()
