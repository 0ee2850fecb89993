"""A containerd and a registry of our own: real programs on private sockets, ports and folders.

Used by the tests, the demonstration and the benchmarks; the standard library is enough.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.tools import tool, tool_env

_RUNC_ROOT = "/run/containerd/runc"
START_SECONDS = 30.0
STOP_SECONDS = 20.0

_CONTAINERD_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
]

[grpc]
  address = "{address}"
  tcp_address = "{tcp_address}"

[plugins."io.containerd.runtime.v2.task"]
  platforms = ["linux/amd64"]
"""

_REGISTRY_CONFIG = """\
version: 0.1
log: {{accesslog: {{disabled: false}}, level: warn}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
validation: {{manifests: {{urls: {{allow: ["https://"]}}}}}}
http: {{addr: "{host}"{tls}}}
{auth}
"""

_ACCESS = re.compile(
    r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d+) (?P<size>\d+)'
)


class DaemonError(Exception):
    """A daemon did not start, or a program that asks one failed; the message is its last words."""


class Daemon:
    """A process with a folder of its own, that is removed with it."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"cdi-{name[:4]}-"))
        self.folder.chmod(0o711)  # the root of a user namespace passes through
        self.log = self.folder / f"{name}.log"
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's."""
        if self._process is None:
            raise DaemonError(f"{self._name} does not run")
        return self._process.pid

    def _start(self, command: Sequence[str], is_ready: Callable[[], bool]) -> None:
        # docker-registry takes settings from the environment, REGISTRY_AUTH_FILE among them.
        env = {key: value for key, value in tool_env().items() if not key.startswith("REGISTRY_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self.log.read_text(errors="replace").strip().splitlines()[-5:]
                self._end(signal.SIGKILL)
                raise DaemonError(f"{self._name} did not start: " + "\n".join(words))
            time.sleep(0.02)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it and remove its folder."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self.folder)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class Containerd(Daemon):
    """A private containerd, without the CRI plugin.

    Args:
        disk_size: Of a file system of its own for all that it keeps, in bytes; None for none.
    """

    def __init__(self, *, disk_size: int | None = None) -> None:
        super().__init__("containerd")
        self._disk_size = disk_size
        self.tcp_address = f"127.0.0.1:{_free_port()}"
        self.root = self.folder / "root"
        self.state = self.folder / "state"
        self.address = str(self.folder / "c.sock")

    def __enter__(self) -> Self:
        if self._disk_size is not None:
            self._mount_disk(self._disk_size)
        self.start()
        return self

    def _mount_disk(self, size: int) -> None:
        image = self.folder / "disk"
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
        self.root.mkdir()
        subprocess.run(["mount", "-o", "loop", image, self.root], check=True)

    def start(self) -> None:
        """Start it, and return when it answers."""
        config = self.folder / "config.toml"
        config.write_text(
            _CONTAINERD_CONFIG.format(
                root=self.root,
                state=self.state,
                address=self.address,
                tcp_address=self.tcp_address,
            )
        )
        Path(self.address).unlink(missing_ok=True)
        self._start([tool("containerd"), "--config", str(config)], self._answers)

    def stop(self) -> None:
        """End it, the shims that it left, its mounts, and its folder."""
        self._end(signal.SIGTERM)
        self._end_shims()
        self._unmount()
        shutil.rmtree(self.folder)

    def ctr(
        self, *arguments: str, namespace: str = "default", seconds: float = 120, check: bool = True
    ) -> str:
        """Run the real ctr against it; what it prints."""
        done = subprocess.run(
            [tool("ctr"), "--address", self.address, "--namespace", namespace, *arguments],
            env=tool_env(), capture_output=True, text=True, timeout=seconds, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode:
            raise DaemonError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(self.address) != 0:
                return False
        try:
            self.ctr("version", seconds=START_SECONDS)
        except DaemonError:
            return False
        return True

    def _end_shims(self) -> None:
        """Shims and containers outlive their daemon; ours are those that were given our socket."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if self.address not in arguments or "shim" not in arguments[0]:
                continue
            os.kill(int(entry.name), signal.SIGKILL)
            namespace = arguments[arguments.index("-namespace") + 1]
            container = arguments[arguments.index("-id") + 1]
            subprocess.run(
                [tool("runc"), "--root", f"{_RUNC_ROOT}/{namespace}", "delete", "-f", container],
                env=tool_env(), capture_output=True, check=True,
            )  # fmt: skip

    def _unmount(self) -> None:
        prefix = f"{self.folder}/"
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((path for path in mounts if path.startswith(prefix)), reverse=True):
            subprocess.run(["umount", "-l", mount], check=True)


@dataclass(frozen=True)
class Request:
    """A line of the registry's access log."""

    method: str
    path: str
    status: int
    size: int


def remove_cgroups(name: str) -> None:
    """Remove the control groups of a containerd namespace, as soon as they are empty."""
    root = Path("/sys/fs/cgroup")
    deadline = time.monotonic() + STOP_SECONDS
    while left := [*root.glob(name), *root.glob(f"*/{name}")]:
        for group in left:
            for inner in (*sorted(group.rglob("*/"), reverse=True), group):
                with suppress(OSError):
                    inner.rmdir()
        if time.monotonic() > deadline:
            raise DaemonError(f"these control groups cannot be removed: {left}")
        time.sleep(0.02)


class Registry(Daemon):
    """A private docker-registry on a loopback port; HTTP unless it is given a certificate.

    Args:
        htpasswd: A file of users; None lets everybody in.
        tokens: The address of a token service, and who signs its tokens.
        certificate: Paths of a certificate and its key.
    """

    def __init__(
        self,
        *,
        htpasswd: Path | None = None,
        tokens: tuple[str, Path] | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__("registry")
        self.storage = self.folder / "storage"
        self.host = f"127.0.0.1:{_free_port()}"
        self._htpasswd = htpasswd
        self._tokens = tokens
        self._certificate = certificate

    def __enter__(self) -> Self:
        auth = ""
        if self._htpasswd:
            auth = f"auth: {{htpasswd: {{realm: test, path: {self._htpasswd}}}}}"
        if self._tokens:
            realm, bundle = self._tokens
            auth = (
                f"auth: {{token: {{realm: {realm}, service: test, issuer: test, "
                f"rootcertbundle: {bundle}}}}}"
            )
        tls = ""
        if self._certificate:
            cert, key = self._certificate
            tls = f", tls: {{certificate: {cert}, key: {key}}}"
        config = self.folder / "config.yml"
        config.write_text(
            _REGISTRY_CONFIG.format(storage=self.storage, host=self.host, auth=auth, tls=tls)
        )
        self._start([tool("docker-registry"), "serve", str(config)], self._answers)
        return self

    def requests(self) -> list[Request]:
        """What was asked of it so far, in order."""
        return [
            Request(found["method"], found["path"], int(found["status"]), int(found["size"]))
            for found in _ACCESS.finditer(self.log.read_text())
        ]

    def blob_path(self, digest: str) -> Path:
        """The file that holds a blob."""
        algorithm, _, value = digest.partition(":")
        blobs = self.storage / "docker/registry/v2/blobs"
        return blobs / algorithm / value[:2] / value / "data"

    def _answers(self) -> bool:
        host, _, port = self.host.partition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
