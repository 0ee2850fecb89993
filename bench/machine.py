"""What the machine is that measures, and which versions of what it compares."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.tools import ROOT, ToolMissingError, tool, tool_env

_PROGRAMS: Final = (
    "containerd",
    "runc",
    "docker-registry",
    "podman",
    "skopeo",
    "umoci",
    "buildah",
    "dockerd",
)
_BESIDE: Final = ("trixie", "forky", "forky-peers", "bookworm-gunzips")
_VERSION: Final = re.compile(r"\s(\d+\.\d[^\s,]*)")


def describe() -> dict[str, str]:
    """The machine, and the programs that are on it, by what that is."""
    return {
        "processor": _processor(),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(Path(tempfile.gettempdir())),
        "Python": platform.python_version(),
        **{name: version for name in _PROGRAMS if (version := _version(name))},
        **_beside(),
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = model[1] if model else platform.machine()
    where = ", a virtual machine's" if re.search(r"^flags.* hypervisor\b", text, re.M) else ""
    return f"{os.cpu_count()} of {name}{where}"


def _memory() -> str:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{size / 2**30:.1f} GiB"


def _file_system(folder: Path) -> str:
    """The kind and the device of what a folder is on; of mounts over each other, the last."""
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    at = {Path(where): (kind, device) for device, where, kind in mounts}
    kind, device = next(at[path] for path in (folder, *folder.parents) if path in at)
    return f"{kind} on {Path(device).name}"


def _version(name: str) -> str:
    """What a program says it is; "" where it is not fetched."""
    try:
        command = [tool(name), "--version"]
    except ToolMissingError:
        return ""
    done = subprocess.run(command, env=tool_env(), capture_output=True, text=True, check=True)
    found = _VERSION.search(done.stdout)
    return found[1] if found else "unknown"


def _beside() -> dict[str, str]:
    """The packages that are unpacked beside those of this system, with their versions."""
    found: dict[str, str] = {}
    for suite in _BESIDE:
        path = ROOT / ".tools" / suite / "packages.json"
        packages = json.loads(path.read_text()) if path.exists() else {}
        debian = suite.partition("-")[0]
        found |= {f"{name}, of {debian}": version for name, version in packages.items()}
    return found
