"""Programs, run to their end, and what they took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple
from unittest.mock import patch

from tests.tools import ROOT, SUITE, tool_env

CDIMAGE: Final = (sys.executable, "-m", "cdimage")

# A program begins with the peak size of who starts it: so somebody small does.
_STARTER: Final = """
import json, os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(child, 0)
took = time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6
print(json.dumps(took))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Used(NamedTuple):
    """What a program took.

    Attributes:
        seconds: From its start to its end.
        processor: Seconds of a processor, in the kernel too.
        peak: Its largest resident size, in MB.
    """

    seconds: float
    processor: float
    peak: float


def run(words: Sequence[str], env: Mapping[str, str] | None = None) -> Used:
    """Run a program.

    Raises:
        RuntimeError: It failed; what it said is in the message.
    """
    whole = {**os.environ, **tool_env(), **(env or {})}
    # As an installed program, which is not compiled anew each time.
    whole.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-S", "-c", _STARTER, *words],
        env=whole, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return Used(*json.loads(done.stdout))


def gunzips_in_path() -> AbstractContextManager[object]:
    """Whatever starts meanwhile finds the programs that containerd decompresses with."""
    root = ROOT / ".tools" / f"{SUITE}-gunzips" / "usr"
    libraries = [str(folder) for folder in root.glob("lib/*-linux-gnu")]
    return patch.dict(
        os.environ,
        PATH=f"{root}/bin:{os.environ['PATH']}",
        LD_LIBRARY_PATH=":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
    )
