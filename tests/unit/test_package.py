"""What is shipped."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from tests.tools import ROOT

import cdimage
from cdimage import warm


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


def test_what_the_readme_installs_runs(tmp_path: Path) -> None:
    assert "`pip install .`" in (ROOT / "README.md").read_text()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check",
         "--no-deps", "--no-build-isolation", "--target", tmp_path, "."],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    done = subprocess.run(
        [tmp_path / "bin" / "cdimage", "name", f"sha256:{'0' * 64}"],
        env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{cdimage.prepared_image_name('0' * 64)}\n"


@pytest.mark.parametrize("package", [cdimage, warm], ids=["cdimage", "warm"])
def test_every_public_name_is_there(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nosuch"):
        getattr(package, "nosuch")  # noqa: B009 - not a name that a checker knows
