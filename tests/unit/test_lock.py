"""Locks on files that others rename and remove."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cdimage import locks
from cdimage.locks import is_locked, locked, open_locked


def at(path: Path) -> os.stat_result:
    return path.stat()


@pytest.mark.parametrize("is_renamed", [True, False])
async def test_who_waited_gets_the_lock_of_the_file_that_is_there_now(
    is_renamed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    first = await open_locked(path)
    waiting = asyncio.create_task(open_locked(path))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    if is_renamed:
        path.rename(tmp_path / "published")
    else:
        path.unlink()
    os.close(first)
    second = await waiting
    assert os.path.samestat(os.fstat(second), at(path))
    assert is_locked(path)
    os.close(second)
    assert not is_locked(path)


async def test_a_file_that_is_renamed_just_before_it_is_locked_is_not_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "file", locks.try_lock

    def try_lock(file: int) -> bool:
        if not (tmp_path / "published").exists():
            path.rename(tmp_path / "published")
        return real(file)

    monkeypatch.setattr(locks, "try_lock", try_lock)
    found = await open_locked(path)
    assert os.path.samestat(os.fstat(found), at(path))
    os.close(found)


async def test_one_at_a_time(tmp_path: Path) -> None:
    inside = 0

    async def enter() -> None:
        nonlocal inside
        async with locked(tmp_path / "lock"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.001)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(enter())


async def test_who_is_cancelled_while_waiting_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    first = await open_locked(path)
    waiting = asyncio.create_task(open_locked(path))
    await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.wait([waiting])
    os.close(first)
    assert not is_locked(path)


def test_what_is_not_there_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "nowhere")
