"""Fixtures over real daemons: one containerd and one registry a session, a namespace a test.

They fail where a daemon cannot be started; no test is skipped.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

import cdimage
from tests.daemons import Containerd, Registry
from tests.images import Pusher
from tests.node import Node


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    with Containerd() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with Registry() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def pusher(registry: Registry) -> Pusher:
    return Pusher(registry.host)


@pytest.fixture
def node(containerd: Containerd) -> Iterator[Node]:
    """A containerd namespace for one test, which must leave it empty or have it emptied."""
    node = Node(containerd, f"test-{secrets.token_hex(6)}")
    yield node
    node.clear()


@pytest.fixture
async def client(node: Node) -> AsyncIterator[cdimage.Client]:
    async with cdimage.connect(node.address, node.namespace) as client:
        yield client


@pytest.fixture
def store(client: cdimage.Client) -> cdimage.Store:
    return cdimage.Store(client)


@pytest.fixture
def new_repository() -> Callable[[], str]:
    """Names of repositories that no other test pushes to."""
    return lambda: f"test/{secrets.token_hex(6)}"
