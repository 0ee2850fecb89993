"""The stores that the one suite runs over, and what a test must know of each."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.daemons import Registry as RegistryDaemon
from tests.node import Node

import cdimage
from cdimage.memory import MemoryStore
from cdimage.prepared_store import PreparedStore


class Backend(ABC):
    """A place of a test's own for prepared images."""

    takes_partial_indexes = True
    """Whether an index may be stored without all that it lists."""

    @abstractmethod
    def open(self, **options: Any) -> AbstractAsyncContextManager[PreparedStore]:
        """The store, as another process would open it."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether nothing is left that the store made, as far as the place can tell."""


class ContainerdBackend(Backend):
    """A namespace of the private containerd."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[PreparedStore]:
        async with cdimage.connect(self._node.address, self._node.namespace) as client:
            yield cdimage.Store(client, **options)

    def is_empty(self) -> bool:
        return self._node.is_empty()


class LayoutBackend(Backend):
    """A directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[PreparedStore]:
        yield cdimage.LayoutStore(self.folder, **options)

    def is_empty(self) -> bool:
        left = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        parts = {"blobs", "blobs/sha256", "blobs/sha512", "ingest", "ingest/lock"}
        return left <= parts | {"oci-layout", "index.json"}


class RegistryBackend(Backend):
    """A repository of the private registry."""

    takes_partial_indexes = False

    def __init__(self, daemon: RegistryDaemon) -> None:
        self._daemon = daemon
        self.repository = f"{daemon.host}/prepared/{secrets.token_hex(6)}"

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[PreparedStore]:
        async with cdimage.Registry() as registry:
            yield cdimage.RegistryStore(self.repository, registry, **options)

    def is_empty(self) -> bool:
        name = self.repository.partition("/")[2]
        kept = self._daemon.storage / "docker/registry/v2/repositories" / name / "_manifests"
        return not [*kept.glob("tags/*"), *kept.glob("revisions/*/*/link")]


class MemoryBackend(Backend):
    """Memory, kept from one opening to the next."""

    def __init__(self) -> None:
        self._kept: MemoryStore | None = None

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[PreparedStore]:
        store = MemoryStore(**options)
        if self._kept is not None:
            store._content, store._images = self._kept._content, self._kept._images
        self._kept = store
        yield store

    def is_empty(self) -> bool:
        return self._kept is None or not (self._kept._content.blobs or self._kept._images)
