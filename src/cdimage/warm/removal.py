"""Removing containers, and what dead processes left in those that live on."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from cdimage.containerd.client import Client
from cdimage.containerd.containers import ContainerRecord
from cdimage.containerd.errors import FailedPreconditionError, ShimEndedError
from cdimage.containerd.tasks import Status
from cdimage.errors import CdimageError, NotFoundError, UnavailableError
from cdimage.locks import is_at, is_locked, locked, try_lock
from cdimage.warm.cgroup import Cgroup, JobCgroup, remove_groups
from cdimage.warm.owners import owner_path, owners
from cdimage.warm.settings import FOLDER_LABEL

_KILL_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.02
STARTING: Final = "starting"
"""Locked by whoever starts a job in the container."""


async def remove(client: Client, record: ContainerRecord, *, seconds: float) -> None:
    """End a container, and remove its task, snapshot, folder and, last, its record."""
    await _remove_task(client, record.id, seconds)
    await client.snapshots.remove(record.snapshotter, record.snapshot_key)
    remove_groups(str(record.spec.get("linux", {}).get("cgroupsPath", "")))
    if folder := record.labels.get(FOLDER_LABEL):
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        with suppress(OSError):  # of other containers of the namespace
            Path(folder).parent.rmdir()
    await client.containers.delete(record.id)


async def _remove_task(client: Client, container: str, seconds: float) -> None:
    """When the shim ends meanwhile, another removes it, or the daemon will miss it soon."""
    last = time.monotonic() + seconds + 2 * _KILL_SECONDS
    while await client.tasks.get(container) is not None:
        try:
            await _end_task(client, container, seconds)
            await client.tasks.delete(container)
            return
        except ShimEndedError:
            if time.monotonic() > last:
                raise
            await asyncio.sleep(_LOOK_SECONDS)


async def _end_task(client: Client, container: str, seconds: float) -> None:
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, _KILL_SECONDS)):
        with suppress(CdimageError):
            await client.tasks.kill(container, number)
        try:
            async with asyncio.timeout(patience):
                await client.tasks.wait(container)
        except NotFoundError:
            return  # somebody else ended it
        except TimeoutError:
            continue
        return
    raise UnavailableError(
        f"the container {container} does not end, not even when it is killed: see its processes"
    )


async def clean_up_after_the_dead(client: Client, record: ContainerRecord, pid: int) -> None:
    """Remove what is left of the jobs of processes that were killed."""
    folder = Path(record.labels[FOLDER_LABEL])
    dead = [it for it in owners(folder) if not is_locked(owner_path(folder, it))]
    if not dead:
        return
    cgroup = Cgroup.of(pid)
    names = {*_folders(folder), *cgroup.jobs()}
    async with locked(folder / STARTING):
        for name in names:
            if name.partition("-")[0] in dead:
                await _end_job(client, record.id, cgroup.job(name), name)
                shutil.rmtree(folder / name, ignore_errors=True)
    for token in dead:
        owner_path(folder, token).unlink(missing_ok=True)


async def _end_job(client: Client, container: str, cgroup: JobCgroup, name: str) -> None:
    process = await client.tasks.get(container, name)
    if process is not None and process.status is Status.RUNNING:
        await cgroup.adopt(process.pid)  # if that was not done yet
        await client.tasks.kill(container, signal.SIGKILL, name)
    await cgroup.kill()
    if process is not None and process.status is Status.RUNNING:
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_SECONDS):
                await client.tasks.wait(container, name)
    with suppress(FailedPreconditionError):
        await client.tasks.delete_process(container, name)


def _folders(folder: Path) -> list[str]:
    return [it.name for it in folder.iterdir() if it.is_dir()]


def hold(path: Path) -> int:
    """Lock a file that says so; the kernel lets go when the process ends.

    Whoever looks whether it is locked has it for a moment, and removes it if it was not yet.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if try_lock(file) and is_at(file, path):
            return file
        os.close(file)
