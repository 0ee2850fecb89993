"""What is shipped, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.tools import ROOT

import cdimage


def test_the_wheel_holds_the_pause_programs_and_says_that_it_is_typed(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "cdimage/py.typed",
        "cdimage/pause/bin/linux_amd64",
        "cdimage/pause/bin/linux_arm64",
        "cdimage/pause/bin/windows_amd64.exe",
    } <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "scripts"))]


def test_importing_it_loads_no_grpc_no_http_and_no_command_line() -> None:
    script = "import cdimage, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"grpc", "google", "aiohttp", "click", "rich"}


def test_every_public_name_is_there() -> None:
    for name in cdimage.__all__:
        assert getattr(cdimage, name) is not None
    with pytest.raises(AttributeError, match="nosuch"):
        getattr(cdimage, "nosuch")  # noqa: B009 - not a name that a checker knows
