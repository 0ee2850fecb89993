"""Processes that make it hard to say whose they are."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdimage.locks import is_locked
from cdimage.warm.cgroup import Cgroup, _ancestry
from cdimage.warm.process import Process
from cdimage.warm.removal import hold
from cdimage.warm.rooted import open_root


@contextmanager
def running(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program, once it has printed a line."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_a_name_that_is_no_text_hides_no_parent() -> None:
    program = """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"\\xff) R 1", 0, 0, 0)
print(flush=True); time.sleep(1000)
"""
    with running(program) as process:
        assert list(_ancestry(process.pid))[:2] == [process.pid, os.getpid()]


WITHOUT_FIRST_THREAD = """
import ctypes, platform, threading, time
def work():
    time.sleep(0.2)
    print(flush=True)
    time.sleep(1000)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of the second version, with no process in it."""
    (root,) = [
        Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[2] == "cgroup2"
    ]  # fmt: skip
    path = root / f"test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    path.rmdir()


async def test_a_process_without_its_first_thread_is_followed_and_ended(group: Path) -> None:
    with running("import time; print(flush=True); time.sleep(1000)") as first:
        container = Cgroup(group, None, True, first.pid)
        with running(WITHOUT_FIRST_THREAD) as process:
            for each in (first, process):
                (group / "cgroup.procs").write_text(str(each.pid))
            job = container.job("job")
            await job.adopt(process.pid)
            assert (job.path / "cgroup.threads").read_text() != ""
            await job.kill()
            assert process.wait(10) == -9
            assert not job.path.exists()
        assert first.poll() is None


LEASE = """
import fcntl, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], "r+")
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(flush=True); time.sleep(1000)
"""


def test_a_file_that_somebody_has_a_lease_on_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("text")
    program = LEASE.replace("sys.argv[1]", repr(str(path)))
    with open_root(Process(os.getpid())) as root:
        assert root.read_text(str(path)) == "text"
        with running(program):
            assert root.read_text(str(path)) == ""


def test_who_uses_a_container_is_seen_though_others_look(tmp_path: Path) -> None:
    path, stop = tmp_path / "owner", threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_locked(path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(300):
            file = hold(path)
            path.unlink()
            again = hold(path)
            os.close(file)
            assert is_locked(path)
            os.close(again)
    finally:
        stop.set()
        looking.join()
