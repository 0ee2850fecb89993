"""Programs, run to their end, and what they took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tests.tools import tool_env

CDIMAGE: Final = (sys.executable, "-m", "cdimage")


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
    start = time.perf_counter()
    with subprocess.Popen(
        words, env=whole, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}: {said.strip()}")
    return Used(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)
