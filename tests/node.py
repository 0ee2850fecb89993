"""A namespace of the private containerd, as a worker sees it: through ctr and through its files."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import cdimage
from tests.daemons import Containerd, DaemonError, remove_cgroups
from tests.images import Pushed
from tests.tools import tool, tool_env

_DEADLINE = 20.0
_SNAPSHOTTERS = ("overlayfs", "native")


@dataclass(frozen=True)
class Node:
    """A containerd, a namespace in it, and the snapshotter that is this namespace's default."""

    containerd: Containerd
    namespace: str
    snapshotter: str = "overlayfs"

    @property
    def other_snapshotter(self) -> str:
        """One that is not the default."""
        return next(name for name in _SNAPSHOTTERS if name != self.snapshotter)

    def create(self) -> None:
        """Make the namespace."""
        label = f"containerd.io/defaults/snapshotter={self.snapshotter}"
        self.containerd.ctr("namespaces", "create", self.namespace, label)

    @property
    def address(self) -> str:
        """The daemon's socket."""
        return self.containerd.address

    def ctr(self, *arguments: str, check: bool = True) -> str:
        """Run the real ctr in the namespace."""
        return self.containerd.ctr(*arguments, namespace=self.namespace, check=check)

    def blobs(self) -> set[str]:
        """Digests of the content that the namespace holds."""
        return set(self.ctr("content", "ls", "-q").split())

    def ingests(self) -> set[str]:
        """References of unfinished blobs."""
        lines = self.ctr("content", "active").splitlines()[1:]
        return {line.split()[0] for line in lines if line.strip()}

    def snapshots(self, snapshotter: str | None = None) -> set[str]:
        """Names and keys of snapshots."""
        name = snapshotter or self.snapshotter
        lines = self.ctr("snapshots", "--snapshotter", name, "ls").splitlines()[1:]
        return {line.split()[0] for line in lines if line.strip()}

    def images(self) -> set[str]:
        """Names of image records."""
        return set(self.ctr("images", "ls", "-q").split())

    def leases(self) -> set[str]:
        """Ids of leases."""
        return set(self.ctr("leases", "ls", "-q").split())

    def is_empty(self) -> bool:
        """Whether nothing at all is left in the namespace."""
        held = self.blobs() | self.ingests() | self.images() | self.leases()
        return not held.union(*(self.snapshots(name) for name in _SNAPSHOTTERS))

    def files(self) -> dict[str, int]:
        """Sizes of all files of content and snapshots, of every namespace, by path."""
        root = self.containerd.root
        folders = [
            root / "io.containerd.content.v1.content",
            *(
                root / f"io.containerd.snapshotter.v1.{name}" / "snapshots"
                for name in _SNAPSHOTTERS
            ),
        ]
        return {
            str(path.relative_to(root)): path.lstat().st_size
            for folder in folders
            for path in folder.rglob("*")
            if not path.is_dir()
        }

    def run(self, user_digest: str, *, snapshotter: str | None = None) -> Container:
        """Start a container from a prepared image."""
        name = cdimage.prepared_image_name(user_digest)
        container = Container(self, f"box-{name[-12:]}")
        self.ctr("run", "--detach", "--snapshotter", snapshotter or self.snapshotter, name,
                 container.id)  # fmt: skip
        return container

    def ingest(self, ref: str, data: bytes) -> None:
        """Write a blob, as another program would."""
        subprocess.run(
            [tool("ctr"), "--address", self.address, "--namespace", self.namespace, "content",
             "ingest", ref],
            input=data, env=tool_env(), check=True, timeout=60,
        )  # fmt: skip

    def collect(self) -> None:
        """Have the garbage collector run, and wait for it."""
        name = next(iter(self.images()))
        self.ctr("images", "tag", name, "collected.example/x:y")
        self.ctr("images", "rm", "--sync", "collected.example/x:y")

    def clear(self) -> None:
        """Remove everything; what a failed test left, too."""
        for line in self.ctr("containers", "ls", "-q").split():
            self.ctr("task", "kill", "--signal", "KILL", line, check=False)
            self.ctr("task", "rm", "--force", line, check=False)
            self.ctr("containers", "rm", line)
        for lease in self.leases():
            self.ctr("leases", "rm", lease)
        for name in self.images():
            self.ctr("images", "rm", "--sync", name)
        for ref in self.ingests():
            self.ctr("content", "abort", ref, check=False)
        for digest in self.blobs():
            self.ctr("content", "rm", digest)
        for snapshotter in _SNAPSHOTTERS:
            self._clear_snapshots(snapshotter)
        remove_cgroups(self.namespace)

    def _clear_snapshots(self, snapshotter: str) -> None:
        while left := self.snapshots(snapshotter):
            removed = [self._remove_snapshot(snapshotter, name) for name in left]
            if not any(removed):
                raise DaemonError(f"these snapshots cannot be removed: {left}")

    def _remove_snapshot(self, snapshotter: str, name: str) -> bool:
        try:
            self.ctr("snapshots", "--snapshotter", snapshotter, "rm", name)
        except DaemonError:
            return False
        return True


async def check_complete_if_named(store: cdimage.Store, node: Node, image: Pushed) -> bool:
    """See that a name, where there is one, has everything behind it; whether there is one."""
    if cdimage.prepared_image_name(image.digest) not in node.images():
        return False
    found = await store.get_image(image.digest)
    assert set(image.layers) <= node.blobs()
    assert str(found.target.digest) in node.blobs()
    assert found.snapshots[node.snapshotter] in node.snapshots()
    return True


@dataclass(frozen=True)
class Container:
    """A container that runs."""

    node: Node
    id: str

    @property
    def pid(self) -> int:
        """Its first process, as the host counts."""
        for line in self.node.ctr("task", "ls").splitlines()[1:]:
            name, pid, _ = line.split()
            if name == self.id:
                return int(pid)
        raise DaemonError(f"{self.id} does not run")

    def info(self) -> dict[str, object]:
        """What containerd knows of it."""
        value: dict[str, object] = json.loads(self.node.ctr("containers", "info", self.id))
        return value

    def first_process(self) -> tuple[int, bytes]:
        """The PID that PID 1 has in its namespace, and what it executes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        inner = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        return int(inner.split()[-1]), Path(f"/proc/{self.pid}/cmdline").read_bytes()

    def exec(self, *command: str) -> str:
        """Run a job in it; what it prints."""
        job = f"job-{time.monotonic_ns()}"
        return self.node.ctr("task", "exec", "--exec-id", job, self.id, *command)

    def terminate(self) -> float:
        """SIGTERM to PID 1; how many seconds it lived on."""
        process = os.pidfd_open(self.pid)
        try:
            start = time.monotonic()
            signal.pidfd_send_signal(process, signal.SIGTERM)
            ended, _, _ = select.select([process], [], [], _DEADLINE)
            if not ended:
                raise DaemonError(f"{self.id} ignored SIGTERM")
            return time.monotonic() - start
        finally:
            os.close(process)

    def remove(self) -> None:
        """Remove it and its snapshot."""
        self.node.ctr("task", "rm", "--force", self.id)
        self.node.ctr("containers", "rm", self.id)
