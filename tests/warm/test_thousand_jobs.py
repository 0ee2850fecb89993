"""A thousand jobs in one container: every result is right, and nothing grows."""

from __future__ import annotations

import asyncio
import gc
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.daemons import Containerd
from tests.node import Node
from tests.warm_images import nothing_is_left, processes

from cdimage import warm

WAVES, SIZE = 5, 200
GROWTH = 4_000_000


@dataclass(frozen=True)
class Usage:
    """What a process has: open files, children, and resident memory in bytes."""

    files: int
    children: int
    memory: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        folder = Path(f"/proc/{pid}")
        pages = int((folder / "statm").read_text().split()[1])
        # Those of processes that ended stay until Go's garbage collector comes.
        files = [it for it in (folder / "fd").iterdir() if "pidfd" not in os.path.realpath(it)]
        children = [it.read_text().split() for it in folder.glob("task/*/children")]
        return cls(
            len(files),
            sum(map(len, children)),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )


def parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


@pytest.mark.timeout(600)
async def test_a_thousand_jobs(box: warm.Box, node: Node, containerd: Containerd) -> None:
    pids = {"client": os.getpid(), "shim": parent(box.pid), "daemon": containerd.pid}
    bundles = containerd.state / "io.containerd.runtime.v2.task" / node.namespace
    await _wave(box, 0)
    before = {name: Usage.of(pid) for name, pid in pids.items()}
    in_bundle = sorted((bundles / box.id).iterdir())
    with nothing_is_left(box):
        for wave in range(1, WAVES + 1):
            await _wave(box, wave)
    gc.collect()
    for name, pid in pids.items():
        after = Usage.of(pid)
        assert after.files <= before[name].files, name
        assert after.children <= before[name].children, name
        assert after.memory < before[name].memory + GROWTH, name
    assert sorted((bundles / box.id).iterdir()) == in_bundle
    assert await processes(box) == ["ps"]


async def _wave(box: warm.Box, wave: int) -> None:
    """Two hundred at once: ten are cancelled, and ten run out of time."""

    async def one(number: int) -> None:
        if number % 20 == 0:
            task = asyncio.create_task(box.exec(["sleep", "1000"]))
            await asyncio.sleep(0.03 * number)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif number % 20 == 1:
            result = await box.exec(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.2)
            assert (result.exit_code, result.timed_out) == (137, True)
        else:
            text = f"{wave}-{number}"
            result = await box.exec(
                ["sh", "-c", f"echo {text}; echo {text} >&2; exit {number % 200}"]
            )
            assert (result.exit_code, result.stdout) == (number % 200, f"{text}\n".encode())
            assert result.stderr == result.stdout

    async with asyncio.TaskGroup() as group:
        for number in range(SIZE):
            group.create_task(one(number))
