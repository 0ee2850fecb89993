"""One busybox that is prepared, and a container of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.images import Pusher
from tests.node import Node
from tests.warm_images import busybox, prepared

import cdimage
from cdimage import warm


@pytest.fixture
async def digest(store: cdimage.Store, pusher: Pusher, new_repository: Callable[[], str]) -> str:
    return await prepared(store, pusher, new_repository(), busybox())


@pytest.fixture
def folder(tmp_path: Path, node: Node) -> Iterator[Path]:
    """Where FIFOs are made; empty again when everything is stopped."""
    folder = tmp_path / "warm"
    yield folder
    home = folder / node.namespace
    assert not home.exists() or list(home.iterdir()) == []


@pytest.fixture
async def box(
    client: cdimage.Client, node: Node, digest: str, folder: Path
) -> AsyncIterator[warm.Box]:
    limits = warm.Limits(memory=128 * warm.MiB, pids=64)
    async with warm.start(
        client, digest, limits=limits, folder=folder, snapshotter=node.snapshotter
    ) as box:
        yield box
