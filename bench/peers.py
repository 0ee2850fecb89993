"""What else changes images, each with its images and settings in a folder of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.daemons import Containerd, Daemon
from tests.tools import tool, tool_env

_POLICY = '{"default":[{"type":"insecureAcceptAnything"}]}'


class Buildah:
    """Call it with buildah's arguments; leaving it removes everything that it made."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="cdi-buil-"))
        self.policy = self._folder / "policy.json"
        self.policy.write_text(_POLICY)
        folder = self._folder
        self.words = (
            tool("buildah"), "--root", f"{folder}/root", "--runroot", f"{folder}/run",
            "--storage-driver", "overlay",
        )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self("rm", "--all")
        self("rmi", "--all", "--force")
        subprocess.run(["umount", f"{self._folder}/root/overlay"], check=False, capture_output=True)
        shutil.rmtree(self._folder)

    def __call__(self, *arguments: str) -> str:
        """Run buildah to its end, and return what it printed."""
        done = subprocess.run(
            [*self.words, *arguments], env=tool_env(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"buildah {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.strip()


class Docker(Daemon):
    """A private dockerd, without a network, on a containerd of ours."""

    def __init__(self, containerd: Containerd) -> None:
        super().__init__("docker")
        self._containerd = containerd
        self.address = f"unix://{self.folder}/docker.sock"
        self.words = (tool("docker"), "--host", self.address)

    def __enter__(self) -> Self:
        folder = self.folder
        self._start(
            [
                tool("dockerd"), "--host", self.address, "--containerd", self._containerd.address,
                "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec",
                "--pidfile", f"{folder}/pid", "--bridge", "none", "--iptables=false",
                "--ip6tables=false", "--storage-driver", "overlay2",
            ],
            self._answers,
        )  # fmt: skip
        return self

    def stop(self) -> None:
        """End it, and remove what it mounted and its folder."""
        self._end(signal.SIGTERM)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted(
            (it for it in mounts if it.startswith(f"{self.folder}/")), reverse=True
        ):
            subprocess.run(["umount", "-l", mount], check=True)
        shutil.rmtree(self.folder)

    def __call__(self, *arguments: str) -> str:
        """Run docker to its end, and return what it printed."""
        done = subprocess.run(
            [*self.words, *arguments], env=tool_env(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"docker {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _answers(self) -> bool:
        asked = subprocess.run(
            [*self.words, "version"], env=tool_env(), capture_output=True, check=False
        )
        return asked.returncode == 0
