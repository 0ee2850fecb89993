"""A worker's process: pulls one image, for one caller or for several at once."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from pathlib import Path

import cdimage
from tests.node import Node
from tests.tools import ROOT


def start_worker(node: Node, reference: str, digest: str, *options: str) -> subprocess.Popen[bytes]:
    """Start one that pulls an image into a node."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.worker", node.address, node.namespace, reference, digest,
         *options],
        cwd=ROOT,
    )  # fmt: skip


async def work(options: argparse.Namespace) -> None:
    """Pull, as often as asked, at the same time."""
    async with cdimage.connect(options.address, options.namespace) as client:
        store = cdimage.Store(client, lease_seconds=options.lease_seconds)
        async with asyncio.TaskGroup() as group:
            for _ in range(options.callers):
                group.create_task(store.pull_image(options.reference, options.digest))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    for name in ("address", "namespace", "reference", "digest"):
        parser.add_argument(name)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--lease-seconds", type=float, default=3600)
    parser.add_argument("--peak", type=Path, help="where to write the peak resident size, in kB")
    options = parser.parse_args()
    asyncio.run(work(options))
    if options.peak:
        lines = Path("/proc/self/status").read_text().splitlines()
        options.peak.write_text(next(it for it in lines if it.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
