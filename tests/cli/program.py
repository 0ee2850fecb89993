"""Runs the program as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tests.node import Node
from tests.tools import ROOT


@dataclass(frozen=True)
class Said:
    """What the program answered."""

    code: int
    out: str
    error: str


def environment(node: Node | None) -> dict[str, str]:
    """The variables that point at a node."""
    if node is None:
        return dict(os.environ)
    where = {"CONTAINERD_ADDRESS": node.address, "CONTAINERD_NAMESPACE": node.namespace}
    return {**os.environ, **where}


def cdimage(node: Node | None, *arguments: str, before: Sequence[str] = ()) -> Said:
    """Run the program against a node, behind another command where one is given."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "cdimage", *arguments],
        env=environment(node), capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)
