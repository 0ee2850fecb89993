"""Run the tests that need a containerd on each version of it, with each snapshotter.

    python -m scripts.test_matrix [pytest's arguments]

What has nothing to do with the daemon is left out. Then the golden vectors are compared under newer
Pythons. Fails when any of the runs does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.tools import CONTAINERD_SUITE, ROOT, SUITE, tool, tool_env

from scripts.fetch_tools import NEWER_PYTHONS, NEWER_SUITES

SNAPSHOTTERS = ("overlayfs", "native")
TESTS = ("tests/conformance", "tests/integration", "tests/warm", "tests/cli")
LEFT_OUT = (
    "tests/integration/test_layout_crowds.py",
    "tests/integration/test_pause_on_windows.py",
    "tests/integration/test_registry_real.py",
    "tests/warm/test_thousand_jobs.py",
)


def main() -> int:
    """Run them one after another, and print a table; the exit status."""
    rows = []
    for suite in (SUITE, *NEWER_SUITES):
        for snapshotter in SNAPSHOTTERS:
            version = _version(suite)
            print(f"\n== containerd {version} ({suite}), {snapshotter}", flush=True)
            start = time.monotonic()
            code = subprocess.run(
                [
                    sys.executable, "-m", "pytest", "-q", *TESTS,
                    *(f"--ignore={path}" for path in LEFT_OUT),
                    f"--containerd={suite}", f"--snapshotter={snapshotter}", *sys.argv[1:],
                ],
                cwd=ROOT, check=False,
            ).returncode  # fmt: skip
            result = "passed" if code == 0 else f"failed ({code})"
            rows.append((version, snapshotter, result, f"{time.monotonic() - start:.0f} s"))
    rows += [_golden(command) for command in _pythons()]
    print()
    for row in rows:
        print("  ".join(cell.ljust(12) for cell in row).rstrip())
    return 0 if all(row[2] == "passed" for row in rows) else 1


def _pythons() -> list[list[str]]:
    """The system's Python, and those of newer suites, which bring a libc of their own."""
    found = [["python3"]]
    for suite, version in NEWER_PYTHONS.items():
        root = ROOT / ".tools" / f"{suite}-python" / "usr"
        (libraries,) = root.glob("lib/*-linux-gnu")
        loader = next(libraries.glob("ld-linux-*.so.*"))
        path = f"{libraries}:/usr/lib/{libraries.name}:/lib/{libraries.name}"
        program = str(root / "bin" / f"python{version}")
        found.append([str(loader), "--library-path", path, program])
    return found


def _golden(command: list[str]) -> tuple[str, str, str, str]:
    """Whether a Python makes the same prepared images: a row of the table."""
    start = time.monotonic()
    home = {"PYTHONHOME": str(Path(command[-1]).parents[1])} if len(command) > 1 else {}
    done = subprocess.run(
        [*command, "-m", "tests.golden", "--check"],
        env={**os.environ, **home, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr, flush=True)
    name = done.stdout.strip() or command[-1]
    result = "passed" if done.returncode == 0 else f"failed ({done.returncode})"
    return (name, "golden", result, f"{time.monotonic() - start:.0f} s")


def _version(suite: str) -> str:
    os.environ[CONTAINERD_SUITE] = suite
    done = subprocess.run(
        [tool("containerd"), "--version"],
        env=tool_env(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[2]


if __name__ == "__main__":
    sys.exit(main())
