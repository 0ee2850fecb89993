"""The Linux pause programs, run: as PID 1 of a PID namespace, and as an ordinary process.

What was verified, for amd64 by the kernel and for arm64 under qemu: SIGTERM, SIGINT and SIGQUIT
end it at once with 0, sent by its node or by a job; nothing else ends or stops it; orphans are
reaped, 10,000 of them by a user who may have only 200 processes. On amd64 only: where it is not
PID 1 it takes its descendants' orphans; it needs nothing but itself, and no particular user. On
arm64 only: where it is PID 1 it does not ask for that.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.tools import tool

from cdimage.descriptor import Platform
from cdimage.pause import PauseBinaries

DEADLINE = 60.0
RT_SIGTIMEDWAIT = "128"  # on amd64, which is what qemu runs on, too
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
UNSTOPPABLE = {signal.SIGKILL, signal.SIGSTOP}

# Each of 100 parents leaves 100 children behind that have ended, or soon will.
ORPHANS = """
import os, resource, time
deadline = time.monotonic() + 60
resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))
os.setuid((1 << 20) + int.from_bytes(os.urandom(3), "big"))  # the limit is the user's
def fork():
    while time.monotonic() < deadline:
        try:
            return os.fork()
        except BlockingIOError:
            time.sleep(0.001)
    os._exit(1)
for _ in range(100):
    parent = fork()
    if not parent:
        for _ in range(100):
            if not fork():
                os._exit(0)
        os._exit(0)
    if os.waitpid(parent, 0)[1]:
        os._exit(1)
print("done")
"""


def until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again: for what the kernel shows in /proc, and sends no event for."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.001)


def children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def status(pid: int, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{key}:")).split(maxsplit=1)[1]


def kill(pidfd: int) -> None:
    """End a process, if it still is there."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


@dataclass(frozen=True)
class Pause:
    """A pause program that runs; ``starter`` is its parent, or itself."""

    pid: int
    pidfd: int
    starter: subprocess.Popen[str]

    def is_waiting(self) -> bool:
        return Path(f"/proc/{self.pid}/syscall").read_text().split()[0] == RT_SIGTIMEDWAIT

    def has_taken_all(self) -> bool:
        pending = int(status(self.pid, "SigPnd"), 16) | int(status(self.pid, "ShdPnd"), 16)
        return not pending and self.is_waiting()

    def send(self, number: int) -> None:
        signal.pidfd_send_signal(self.pidfd, number)

    def ended(self, seconds: float) -> bool:
        return bool(select.select([self.pidfd], [], [], seconds)[0])

    def job(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run something in its PID namespace, that it is no parent of; as containerd does."""
        nsenter = [tool("nsenter"), "--target", str(self.pid), "--pid", "--"]
        return subprocess.run(
            [*nsenter, *command], check=False, capture_output=True, text=True, timeout=2 * DEADLINE
        )


@dataclass(frozen=True)
class Runner:
    """Starts a pause program, and ends whatever was started."""

    command: list[str]
    started: ExitStack

    def alone(self) -> Pause:
        """As an ordinary process."""
        return self._start(self.command, lambda starter: [starter.pid])

    def first(self, *options: str, command: list[str] | None = None) -> Pause:
        """As PID 1 of a new PID namespace."""
        unshare = [tool("unshare"), "--pid", "--fork", "--kill-child", *options]
        return self._start(
            [*unshare, *(command or self.command)], lambda starter: children(starter.pid)
        )

    def _start(
        self, command: list[str], pids: Callable[[subprocess.Popen[str]], list[int]]
    ) -> Pause:
        starter = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True)
        self.started.callback(starter.wait)
        self.started.callback(starter.kill)
        until(lambda: pids(starter) != [], "it is started")
        (pid,) = pids(starter)
        pidfd = os.pidfd_open(pid)
        self.started.callback(os.close, pidfd)
        pause = Pause(pid, pidfd, starter)
        until(pause.is_waiting, "it waits for signals")
        return pause


@pytest.fixture(params=["amd64", "arm64"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    program = tmp_path / "program"
    program.write_bytes(PauseBinaries.bundled().read(Platform("linux", request.param)).data)
    program.chmod(0o755)
    command = [str(program)]
    if request.param == "arm64":
        command.insert(0, tool("qemu-aarch64-static"))
    with ExitStack() as started:
        yield Runner(command, started)


amd64 = pytest.mark.parametrize("runner", ["amd64"], indirect=True)


def test_it_prints_its_version(runner: Runner) -> None:
    command = [*runner.command, "-v"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"cdimage-pause 2\n", b"")


@pytest.mark.parametrize("number", sorted(ENDING))
@pytest.mark.parametrize("first", [True, False])
def test_it_ends_at_once_with_0_when_it_is_asked_to(
    runner: Runner, number: int, first: bool
) -> None:
    pause = runner.first() if first else runner.alone()
    pause.send(number)
    assert pause.ended(0.1)
    assert pause.starter.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", sorted(ENDING))
def test_a_job_can_end_it_too(runner: Runner, number: int) -> None:
    pause = runner.first()
    pause.job("sh", "-c", f"kill -{number} 1")
    assert pause.starter.wait(DEADLINE) == 0


@pytest.mark.parametrize("first", [True, False])
def test_no_other_signal_ends_or_stops_it(runner: Runner, first: bool) -> None:
    pause = runner.first() if first else runner.alone()
    for number in signal.valid_signals() - ENDING - UNSTOPPABLE:
        pause.send(number)
        until(pause.has_taken_all, f"signal {number} is taken")
    assert status(pause.pid, "State").startswith("S")
    pause.send(signal.SIGTERM)
    assert pause.starter.wait(DEADLINE) == 0


def test_it_reaps_more_orphans_than_there_may_be_processes(runner: Runner) -> None:
    pause = runner.first()
    job = pause.job(sys.executable, "-I", "-S", "-c", ORPHANS)
    assert (job.stdout, job.stderr) == ("done\n", "")
    until(lambda: children(pause.pid) == [], "the last orphan is reaped")
    until(pause.is_waiting, "it waits again")


@amd64
def test_where_it_is_not_pid_1_it_takes_the_orphans_of_its_descendants(runner: Runner) -> None:
    # The shell that becomes the program leaves it a child, which has a child.
    script = 'sh -c "sleep 1000 & wait" & exec "$0" "$@"'
    command = [tool("sh"), "-c", script, *runner.command]
    pause = Runner(command, runner.started).alone()
    until(lambda: [len(children(n)) for n in children(pause.pid)] == [1], "the sleeper is started")
    (parent,) = children(pause.pid)
    (sleeper,) = children(parent)
    sleeping = os.pidfd_open(sleeper)
    runner.started.callback(os.close, sleeping)
    runner.started.callback(kill, sleeping)

    os.kill(parent, signal.SIGKILL)
    until(lambda: status(sleeper, "PPid") != str(parent), "it is an orphan")
    assert status(sleeper, "PPid") == str(pause.pid)

    kill(sleeping)
    until(lambda: children(pause.pid) == [], "both are reaped")


# Qemu 7.2 refuses to make anything a subreaper, but it can write down that it was asked to.
@pytest.mark.parametrize("runner", ["arm64"], indirect=True)
@pytest.mark.parametrize("first", [True, False])
def test_it_asks_to_be_a_subreaper_only_where_it_is_not_pid_1(
    runner: Runner, first: bool, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    qemu, program = runner.command
    traced = Runner([qemu, "-strace", "-D", str(trace), program], runner.started)
    pause = traced.first() if first else traced.alone()
    pause.send(signal.SIGTERM)
    pause.starter.wait(DEADLINE)
    pr_set_child_subreaper = "prctl(36,1,"
    assert (pr_set_child_subreaper in trace.read_text()) is not first


@amd64
@pytest.mark.parametrize("user", [0, 1, 65534, 4294967294])
def test_it_needs_no_other_file_no_proc_and_no_particular_user(
    runner: Runner, user: int, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Path(runner.command[0]).rename(root / "program")
    root.chmod(0o555)
    unshare = [f"--root={root}", f"--setgid={user}", f"--setuid={user}"]
    pause = runner.first(*unshare, command=["/program"])
    assert status(pause.pid, "Uid").split() == [str(user)] * 4
    pause.send(signal.SIGTERM)
    assert pause.starter.wait(DEADLINE) == 0


@amd64
def test_it_is_named_pause_and_no_memory_of_it_is_writable_and_executable(runner: Runner) -> None:
    pause = runner.first()
    assert status(pause.pid, "Name") == "pause"
    maps = Path(f"/proc/{pause.pid}/maps").read_text().splitlines()
    permissions = {line.split()[1] for line in maps}
    assert "r-xp" in permissions
    assert not {p for p in permissions if "w" in p and "x" in p}
