"""A worker that starts a container and a job, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import cdimage
from cdimage import warm


async def main(address: str, namespace: str, digest: str, folder: str, lifetime: str) -> None:
    async with cdimage.connect(address, namespace) as client:
        seconds = float(lifetime) or None
        box = await warm.launch(
            client, digest, folder=Path(folder), lifetime=seconds, labels={"app": "test"}
        )
        async with box.spawn(["sh", "-c", "sleep 1000 & echo ready; sleep 1000"]) as job:
            await job.stdout.read()
            print(box.id, flush=True)
            await asyncio.sleep(1000)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
