"""An image layout that many processes work on, and that are killed."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conformance.backends import LayoutBackend
from tests.images import image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_layout
from tests.stores import check_verified
from tests.tools import ROOT

import cdimage

PROCESSES = 8


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Images that share layers."""
    layers = [layer_of(tar_of({"f": os.urandom(400_000)}), "none") for _ in range(5)]
    for number in range(5):
        image = image_of([layers[number], layers[(number + 1) % 5]], {"Cmd": [str(number)]})
        files = layout_files(image.manifest, blobs_of(image)[1:])
        write_layout(tmp_path / "sources" / image.digest.replace(":", "-"), files)
    return tmp_path / "sources"


def start(layout: Path, sources: Path, seconds: float, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.layout_worker", str(layout), str(sources), str(seconds),
         str(seed)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


async def check_nothing_is_left(layout: Path) -> None:
    """Untag all; leases of those who were killed are over at once."""
    store = cdimage.LayoutStore(layout, lease_seconds=0)
    for digest in await store.get_existing_images():
        await check_verified(store, digest)
        await store.untag_image(digest)
    await store.untag_image("sha256:" + "0" * 64)
    assert LayoutBackend(layout).is_empty()


async def test_many_processes_never_see_a_broken_layout_and_leave_nothing(
    sources: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seconds = 60 if pytestconfig.getoption("--soak") else 6
    layout = tmp_path / "layout"
    processes = [start(layout, sources, seconds, seed) for seed in range(PROCESSES)]
    said = [process.communicate(timeout=seconds + 60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, said
    assert all(int(words) > 10 for words in said), said
    await check_nothing_is_left(layout)


async def test_killed_at_random_processes_leave_a_layout_that_is_whole(
    sources: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    rounds = 50 if pytestconfig.getoption("--soak") else 12
    layout = tmp_path / "layout"
    steady = start(layout, sources, 600, 1000)
    try:
        for number in range(rounds):
            process = start(layout, sources, 60, number)
            await asyncio.sleep(0.3 + random.random() * 0.5)
            process.kill()
            said, _ = process.communicate()
            assert said == ""
            store = cdimage.LayoutStore(layout)
            for digest in await store.get_existing_images():
                # The steady one may untag it, or prepare it again.
                with suppress(cdimage.NotFoundError, cdimage.UnavailableError):
                    await check_verified(store, digest)
        assert steady.poll() is None, steady.communicate()[0]
    finally:
        steady.kill()
        steady.communicate()
    await check_nothing_is_left(layout)
