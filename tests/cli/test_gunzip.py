"""What the doctor says of the program that containerd decompresses with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.cli.program import cdimage
from tests.daemons import Containerd
from tests.node import Node

from cdimage.cli.gunzip import GUNZIPS, best_gunzip, find_gunzip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the programs are; first in the PATH of whoever is started now."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for gunzip in GUNZIPS:
        monkeypatch.delenv(gunzip.disabled_by, raising=False)
        program = tmp_path / gunzip.program
        program.write_text("#!/bin/sh\nexec gzip -d -c\n")
        program.chmod(0o755)
    return tmp_path


def test_the_one_that_the_daemon_would_start_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Containerd() as daemon:
        assert find_gunzip(daemon.address, (2, 1)) == folder / "igzip"
        assert find_gunzip(f"unix://{daemon.address}", (1, 7)) == folder / "unpigz"
        (folder / "igzip").chmod(0o644)
        assert find_gunzip(daemon.address, (2, 1)) != folder / "igzip"
    (folder / "igzip").chmod(0o755)
    monkeypatch.setenv("CONTAINERD_DISABLE_IGZIP", "1")
    with Containerd() as daemon:
        assert find_gunzip(daemon.address, (2, 1)) == folder / "unpigz"
        said = cdimage(Node(daemon, "any"), "doctor")
    assert f"ok     gunzip: {folder}/unpigz, which is in containerd's PATH" in said.out


def test_without_one_the_doctor_gives_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    for gunzip in GUNZIPS:
        monkeypatch.setenv(gunzip.disabled_by, "true")
    with Containerd() as daemon:
        assert find_gunzip(daemon.address, (2, 1)) is None
        said = cdimage(Node(daemon, "any"), "doctor")
    assert said.code == 0
    assert "ok     gunzip: containerd's own code, in one thread" in said.out
    assert "and restart containerd" in said.out


@pytest.mark.parametrize("address", ["/nowhere.sock", "tcp://127.0.0.1:1"])
def test_where_nobody_can_tell_nothing_is_said(address: str) -> None:
    with pytest.raises(OSError, match="No such file"):
        find_gunzip(address, (2, 1))


def test_each_version_has_one_that_it_likes_best() -> None:
    versions = [(1, 5), (1, 7), (2, 0), (3, 1)]
    assert [best_gunzip(it).program for it in versions] == ["unpigz", "unpigz", "igzip", "igzip"]
