"""Derive the seccomp profile of warm containers from what containerd itself applies.

    python -m scripts.derive_seccomp

``ctr run --seccomp`` writes containerd's default profile, for the capabilities that are given, into
the container's spec. This asks the newest containerd of the test matrix, capability by capability,
and writes down which system calls are allowed. Needs `scripts/fetch_tools.py --for matrix`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.daemons import Containerd
from tests.images import image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_layout
from tests.tools import CONTAINERD_SUITE, ROOT

from scripts.fetch_tools import NEWER_SUITES

TARGET = ROOT / "src" / "cdimage" / "warm" / "seccomp.json"
CAPABILITIES = (
    "CAP_BPF",
    "CAP_DAC_READ_SEARCH",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
)


def main() -> int:
    """Ask, and write the file."""
    os.environ[CONTAINERD_SUITE] = NEWER_SUITES[-1]
    with Containerd() as daemon, tempfile.TemporaryDirectory() as scratch:
        image = _import_an_image(daemon, Path(scratch))
        profile = _profile(daemon, image, "")
        always = _allowed(profile)
        value = {
            "always": sorted(always),
            "with_arguments": [
                rule for rule in profile["syscalls"] if rule.get("args") or "errnoRet" in rule
            ],
            "by_capability": {
                name: sorted(_allowed(_profile(daemon, image, name)) - always)
                for name in CAPABILITIES
            },
        }
    TARGET.write_text(json.dumps(value, indent=1) + "\n")
    return 0


def _import_an_image(daemon: Containerd, folder: Path) -> str:
    image = image_of([layer_of(tar_of({"app": b"x"}))])
    files = layout_files([("seccomp.example/x:y", image.manifest)], blobs_of(image)[1:])
    layout, archive = write_layout(folder / "layout", files), folder / "image.tar"
    subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
    daemon.ctr("images", "import", str(archive))
    return daemon.ctr("images", "ls", "-q").split()[0]


def _profile(daemon: Containerd, image: str, capability: str) -> dict[str, Any]:
    added = ["--cap-add", capability] if capability else []
    daemon.ctr("containers", "create", "--seccomp", *added, image, "box", "/app")
    spec = json.loads(daemon.ctr("containers", "info", "box"))["Spec"]
    daemon.ctr("containers", "rm", "box")
    profile: dict[str, Any] = spec["linux"]["seccomp"]
    return profile


def _allowed(profile: dict[str, Any]) -> set[str]:
    """What may be called with any arguments."""
    return {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
        for name in rule["names"]
    }


if __name__ == "__main__":
    sys.exit(main())
