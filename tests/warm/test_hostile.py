"""What a job may try against the worker and the other jobs of its container."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.node import Node
from tests.warm_images import nothing_is_left, processes

import cdimage
from cdimage import warm
from cdimage.locks import locked


@pytest.mark.parametrize("trick", ["mkfifo /etc/passwd", "ln -s /dev/pts/0 /etc/passwd"])
async def test_what_is_no_file_is_not_opened(box: warm.Box, trick: str) -> None:
    script = f"busybox rm /etc/passwd; busybox {trick}"
    async with box.spawn(["sleep", "1000"], terminal=True):
        assert (await box.exec(["sh", "-c", script])).exit_code == 0
        with pytest.raises(cdimage.InvalidReferenceError, match=r"/etc/passwd .* no regular file"):
            await box.exec(["true"])
        with pytest.raises(cdimage.InvalidReferenceError, match="no regular file"):
            await box.read_file("/etc/passwd")


async def test_a_link_does_not_lead_to_what_the_kernel_tells_root(box: warm.Box) -> None:
    script = "cd /tmp; busybox ln -s /proc/kallsyms file; busybox ln -s /proc folder"
    await box.exec(["sh", "-c", script])
    for path in ("/tmp/file", "/proc/version"):
        with pytest.raises(cdimage.InvalidReferenceError, match="the kernel's"):
            await box.read_file(path)
    with pytest.raises(cdimage.InvalidReferenceError, match="the kernel's"):
        await anext(box.get("/tmp/folder/kallsyms"))


async def test_nobody_traces_the_first_process(box: warm.Box) -> None:
    assert (await box.exec(["ls", "/proc/self/fd"], user="65534")).exit_code == 0
    assert b"denied" in (await box.exec(["ls", "/proc/1/fd"], user="65534")).stderr


async def test_output_that_another_job_holds_open_is_not_waited_for(box: warm.Box) -> None:
    waits = "echo hi; echo $$ >/tmp/pid; until [ -e /tmp/held ]; do sleep 0.05; done"
    holds = (
        "until [ -s /tmp/pid ]; do sleep 0.05; done; "
        "exec 3>/proc/$(cat /tmp/pid)/fd/1; touch /tmp/held; sleep 1000"
    )
    async with box.spawn(["sh", "-c", holds]):
        result = await box.exec(["sh", "-c", waits], timeout=20)
    assert (result.exit_code, result.stdout, result.truncated) == (0, b"hi\n", True)
    with nothing_is_left(box):
        pass


async def test_who_waits_for_a_turn_can_be_cancelled(box: warm.Box) -> None:
    folder = Path(box.record.labels["hpcc.dev/warm.folder"])
    with nothing_is_left(box):
        async with locked(folder / "starting"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await box.exec(["touch", "/tmp/made"])
    assert (await box.exec(["ls", "/tmp/made"])).exit_code != 0


async def test_many_transfers_at_once(box: warm.Box, tree: bytes) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(box.put(io.BytesIO(tree), f"/to/{n}") for n in range(20)))
    assert len((await box.exec(["ls", "/to"])).stdout.split()) == 20


@pytest.fixture
async def tree(box: warm.Box) -> bytes:
    await box.write_file("/from/file", os.urandom(300_000))
    return b"".join([chunk async for chunk in box.get("/from")])


async def _late() -> AsyncIterator[bytes]:
    yield b"x"
    raise TimeoutError("what it reads took too long")


async def test_a_source_that_takes_too_long_is_not_the_jobs_time_out(box: warm.Box) -> None:
    with nothing_is_left(box), pytest.raises(TimeoutError, match="what it reads"):
        await box.exec(["cat"], stdin=_late(), timeout=60)


async def test_who_writes_to_a_job_that_ended_is_told(box: warm.Box) -> None:
    with nothing_is_left(box):
        async with box.spawn(["true"], stdin=True) as job:
            assert job.stdin is not None
            with pytest.raises(BrokenPipeError):
                await job.stdin.write(bytes(1 << 20))
            assert (await job.wait()).exit_code == 0
    assert await processes(box) == ["ps"]


async def test_several_may_stop_a_container(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    async def stop_after(seconds: float, box: warm.Box) -> None:
        await asyncio.sleep(seconds)
        await warm.stop(client, box.id)

    for _ in range(5):
        box = await warm.launch(client, digest, folder=folder, snapshotter=node.snapshotter)
        others = (stop_after(number * 0.004, box) for number in range(16))
        await asyncio.gather(box.stop(), *others)
        assert node.ctr("containers", "ls", "-q") == ""


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with another file system below it."""
    below = tmp_path / "shared" / "below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    yield below.parent
    subprocess.run(["umount", below], check=True)


async def test_what_is_mounted_below_a_mount_may_only_be_read_as_well(
    client: cdimage.Client, digest: str, node: Node, folder: Path, nested: Path
) -> None:
    mounts = [warm.Mount("/srv", str(nested), read_only=True)]
    async with warm.start(
        client, digest, mounts=mounts, folder=folder, snapshotter=node.snapshotter
    ) as box:
        for path in ("/srv/x", "/srv/below/x"):
            assert b"Read-only" in (await box.exec(["touch", path])).stderr
