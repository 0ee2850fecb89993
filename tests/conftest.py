"""Fixtures over real daemons: one containerd and one registry a session, a namespace a test.

They fail where a daemon cannot be started; no test is skipped.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import cdimage
from tests.daemons import Containerd, Registry
from tests.images import Pusher
from tests.node import Node
from tests.stores import check_verified
from tests.tools import CONTAINERD_SUITE, SUITE

# The same examples in every run, at their own pace; `make fuzz` looks for new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("fuzz", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--containerd", default=SUITE, help="the Debian suite that it comes from")
    parser.addoption("--soak", action="store_true", help="many rounds, and large images")
    parser.addoption("--snapshotter", default="overlayfs", help="what images are unpacked into")


def pytest_configure(config: pytest.Config) -> None:
    os.environ[CONTAINERD_SUITE] = config.getoption("--containerd")
    # Run in the background by a shell, we ignore these, and so would all programs that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def nobodys_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have credentials and proxies; no test uses them."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


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
def node(containerd: Containerd, pytestconfig: pytest.Config) -> Iterator[Node]:
    """A containerd namespace for one test, which must leave it empty or have it emptied."""
    snapshotter = pytestconfig.getoption("--snapshotter")
    node = Node(containerd, f"test-{secrets.token_hex(6)}", snapshotter)
    node.create()
    yield node
    try:
        asyncio.run(check_all_verified(node))
    finally:
        node.clear()


async def check_all_verified(node: Node) -> None:
    """Whatever a test has done, what is prepared at its end is right to the byte."""
    async with cdimage.connect(node.address, node.namespace) as client:
        store = cdimage.Store(client)
        for digest in await store.get_existing_images():
            await check_verified(store, digest)


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
