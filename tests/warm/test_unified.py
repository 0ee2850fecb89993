"""Control groups of the second version, where the node has only the first for its limits.

A mount namespace in which /sys/fs/cgroup is the unified hierarchy is what runc and cdimage see of
such a node; there are no controllers in it, and so no limits. What follows jobs needs none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.program import environment
from tests.daemons import Containerd, Registry
from tests.images import Pusher
from tests.node import Node
from tests.tools import ROOT, tool, tool_env
from tests.warm_images import busybox

PROGRAM = """
import asyncio, json, sys
import cdimage
from cdimage import warm

async def main(address, namespace, digest, folder):
    async with cdimage.connect(address, namespace) as client:
        async with warm.start(client, digest, limits=warm.Limits(pids=None), folder=folder) as box:
            daemon = await box.exec(["sh", "-c", "setsid sleep 1000 & echo hi"], timeout=20)
            late = await box.exec(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.5)
            ps = await box.exec(["ps"])
            left = list(box._place.cgroup.path.glob("job-*"))
        print(json.dumps({
            "unified": box._place.cgroup.is_unified,
            "daemon": daemon.stdout.decode(), "late": late.timed_out,
            "processes": ps.stdout.decode().count("sleep"), "left": len(left),
        }))

from pathlib import Path
asyncio.run(main(*sys.argv[1:4], Path(sys.argv[4])))
"""


SCRIPT = 'umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
UNIFIED = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]


def test_jobs_are_followed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = tmp_path / "containerd"
    words = " ".join(f"'{word}'" for word in [*UNIFIED, tool("containerd")])
    wrapper.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(
        "tests.daemons.tool", lambda name: str(wrapper) if name == "containerd" else tool(name)
    )
    with Containerd() as daemon:
        node = Node(daemon, "test-unified")
        node.create()
        image = Pusher(registry.host).push(busybox(), "test/unified")
        try:
            command = [sys.executable, "-m", "cdimage", "pull", "--plain-http"]
            subprocess.run(
                [*command, image.reference, "--digest", image.digest],
                env=environment(node), check=True, capture_output=True, cwd=ROOT,
            )  # fmt: skip
            inside = [
                "nsenter",
                f"--mount=/proc/{daemon.pid}/ns/mnt",
                sys.executable,
                "-c",
                PROGRAM,
            ]
            done = subprocess.run(
                [*inside, node.address, node.namespace, image.digest, str(tmp_path / "warm")],
                env={**tool_env(), "PYTHONPATH": str(ROOT / "src")},
                capture_output=True, text=True, cwd=ROOT, timeout=100, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == {
                "unified": True, "daemon": "hi\n", "late": True, "processes": 0, "left": 0,
            }  # fmt: skip
        finally:
            node.clear()
