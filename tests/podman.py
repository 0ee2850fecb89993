"""A podman whose images, containers and settings are in a folder of its own."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.daemons import remove_cgroups
from tests.tools import tool, tool_env


class Podman:
    """Call it with podman's arguments; leaving it removes everything that it made."""

    def __enter__(self) -> Podman:
        self._temporary = tempfile.TemporaryDirectory(prefix="cdi-podm-")  # it takes no long paths
        folder = Path(self._temporary.name)
        self._group = folder.name
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        # podman does not hand its environment on to conmon, which starts podman again.
        libraries = shlex.quote(tool_env().get("LD_LIBRARY_PATH", ""))
        conmon = folder / "conmon"
        conmon.write_text(
            f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {shlex.quote(tool("conmon"))} "$@"\n'
        )
        conmon.chmod(0o755)
        self._command = (
            tool("podman"),
            "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp",
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            "--conmon", str(conmon), "--runtime", tool("runc"),
        )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self("rm", "--all", "--force")
        self("rmi", "--all", "--force")
        remove_cgroups(self._group)
        self._temporary.cleanup()

    def command(self, name: str, *arguments: str) -> tuple[str, ...]:
        """Return a whole command line; containers of `run` have no network."""
        if name in ("pull", "run"):
            arguments = ("--signature-policy", str(self._policy), *arguments)
        if name == "run":
            arguments = (
                "--network", "none", "--ulimit", "nofile=512:512", "--ulimit", "nproc=512:512",
                "--cgroup-parent", f"/{self._group}", *arguments,
            )  # fmt: skip
        return (*self._command, name, *arguments)

    def __call__(self, *arguments: str) -> str:
        """Run podman to its end, and return what it printed."""
        env = {key: value for key, value in tool_env().items() if key != "DOCKER_CONFIG"}
        done = subprocess.run(
            self.command(*arguments), env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
