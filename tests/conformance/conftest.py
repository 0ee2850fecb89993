"""Each test of this folder runs over every store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.conformance.backends import (
    Backend,
    ContainerdBackend,
    LayoutBackend,
    MemoryBackend,
    RegistryBackend,
)
from tests.daemons import Registry

from cdimage.prepared_store import PreparedStore


@pytest.fixture(params=["containerd", "layout", "registry", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    makers: dict[str, Callable[[], Backend]] = {
        "containerd": lambda: ContainerdBackend(request.getfixturevalue("node")),
        "layout": lambda: LayoutBackend(tmp_path / "layout"),
        "registry": lambda: RegistryBackend(_registry(request)),
        "memory": MemoryBackend,
    }
    return makers[request.param]()


def _registry(request: pytest.FixtureRequest) -> Registry:
    daemon = request.getfixturevalue("registry")
    assert isinstance(daemon, Registry)
    return daemon


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[PreparedStore]:
    async with backend.open() as store:
        yield store
