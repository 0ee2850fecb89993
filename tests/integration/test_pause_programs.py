"""The pause programs, run for real.

linux/amd64 runs as PID 1 of a PID namespace, and as an ordinary process; linux/arm64 under
Debian's qemu-user; windows/amd64 under Debian's wine64, where its version is read and a Ctrl-C
ends it, and its imports are read from its own headers. None was run on arm64 or Windows hardware.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.tools import tool, tool_env

from cdimage.pause import PauseBinaries

VERSION = b"cdimage-pause 1"
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
IGNORED = (
    signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE, signal.SIGALRM,
    signal.SIGUSR1, signal.SIGWINCH, signal.SIGCONT,
)  # fmt: skip
DEADLINE = 20.0

# PID 1 of a new namespace: it starts a crowd of orphans, and then becomes the pause program.
CROWD = """
import os, sys
orphans, program = int(sys.argv[1]), sys.argv[2]
for _ in range(orphans):
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.read(0, 1)  # lives on as an orphan, until the test lets it go
        os._exit(0)
    os.waitpid(child, 0)
os.write(1, b"ready\\n")
os.execv(program, [program])
"""

# A parent that never waits: as PID 1's children die, only the pause program can reap them.
STORM = """
import os, sys
for number in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture
def amd64(tmp_path: Path) -> str:
    return str(_copied(PauseBinaries.bundled().linux_amd64, tmp_path))


def _copied(path: str | os.PathLike[str] | None, folder: Path) -> Path:
    """A copy that may be executed, whatever the mode of the checkout."""
    assert path is not None
    copy = Path(shutil.copy(path, folder))
    copy.chmod(0o755)
    return copy


@contextmanager
def started(*command: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # type: ignore[call-overload]
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def descendants(pid: int) -> list[int]:
    """The children of a process, as the kernel lists them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.002)


def wait_until_paused(pid: int, program: str) -> None:
    """It has been executed, and waits for signals."""

    def waits() -> bool:
        try:
            executed = Path(f"/proc/{pid}/comm").read_text() == "pause\n"
        except FileNotFoundError:
            return False
        return executed and state(pid) == "S"

    wait_for(waits, program)


@contextmanager
def as_first_process(
    program: str, orphans: int = 0
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """PID 1 of a namespace, by its PID out here, and the unshare that started it."""
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", CROWD,
               str(orphans), program]  # fmt: skip
    with started(*command) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"ready\n"
        (first,) = descendants(outer.pid)
        wait_until_paused(first, program)
        yield first, outer


def seconds_until_end(pid: int, number: signal.Signals) -> float:
    process = os.pidfd_open(pid)
    try:
        start = time.monotonic()
        os.kill(pid, number)
        assert select.select([process], [], [], DEADLINE)[0], f"{number} is ignored"
        return time.monotonic() - start
    finally:
        os.close(process)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_process_ends_at_once_with_0(amd64: str, number: signal.Signals) -> None:
    with as_first_process(amd64) as (first, outer):
        assert seconds_until_end(first, number) < 0.1
        assert outer.wait(DEADLINE) == 0


def test_what_a_terminal_sends_is_ignored(amd64: str) -> None:
    with as_first_process(amd64) as (first, outer):
        for number in IGNORED:
            os.kill(first, number)
        # The signals are taken in the order of their numbers; after this one, all were.
        wait_for(lambda: _pending(first) == 0, "taking the signals")
        assert state(first) == "S"
        assert seconds_until_end(first, signal.SIGTERM) < 0.1
        assert outer.wait(DEADLINE) == 0


def _pending(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines if line[:6] in {"SigPnd", "ShdPnd"})


def test_orphans_are_reaped(amd64: str) -> None:
    with as_first_process(amd64, orphans=50) as (first, outer):
        assert len(descendants(first)) == 50
        assert outer.stdin is not None
        outer.stdin.close()
        wait_for(lambda: descendants(first) == [], "reaping")


def test_ten_thousand_short_lived_orphans_leave_no_zombie(amd64: str) -> None:
    with as_first_process(amd64) as (first, _):
        enter = ["nsenter", "--pid", "--target", str(first), sys.executable, "-c", STORM]
        subprocess.run([*enter, "10000"], check=True, timeout=120)
        wait_for(lambda: descendants(first) == [], "reaping")


def test_beside_others_it_adopts_the_orphans_below_it(amd64: str, tmp_path: Path) -> None:
    # A shell forks, and becomes the pause program: what the fork leaves behind is its own.
    script = f"(sleep 0.2 & echo started) & exec {amd64}"
    with started("sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        wait_until_paused(process.pid, amd64)
        wait_for(lambda: descendants(process.pid) == [], "reaping")
        assert seconds_until_end(process.pid, signal.SIGTERM) < 0.1
        assert process.wait(DEADLINE) == 0


def test_it_needs_no_file_no_proc_no_user_and_no_writable_root(amd64: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Path(amd64).rename(root / "pause")
    root.chmod(0o555)
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "chroot",
               "--userspec=54321:54321", str(root), "/pause"]  # fmt: skip
    with started(*command) as outer:
        wait_for(lambda: descendants(outer.pid), "forking")
        (first,) = descendants(outer.pid)
        wait_until_paused(first, "/pause")
        assert "Uid:\t54321" in Path(f"/proc/{first}/status").read_text()
        assert seconds_until_end(first, signal.SIGTERM) < 0.1
        assert outer.wait(DEADLINE) == 0


@pytest.mark.parametrize("arguments", [["-v"], ["-v", "x"]])
def test_it_prints_its_version(amd64: str, arguments: list[str]) -> None:
    done = subprocess.run([amd64, *arguments], capture_output=True, check=True, timeout=DEADLINE)
    assert done.stdout == VERSION + b"\n"


@pytest.mark.parametrize("name", ["linux_amd64", "linux_arm64"])
def test_no_page_can_be_written_and_executed(name: str) -> None:
    data = Path(str(getattr(PauseBinaries.bundled(), name))).read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<II", data, offset + n * size) for n in range(count)]
    stack = [flags for kind, flags in headers if kind == 0x6474E551]
    assert stack == [6], "the stack is not marked as data"
    assert not [flags for kind, flags in headers if flags & 1 and flags & 2]


def test_on_arm64_it_does_the_same(tmp_path: Path) -> None:
    program = _copied(PauseBinaries.bundled().linux_arm64, tmp_path)
    command = [tool("qemu-aarch64-static"), str(program)]
    done = subprocess.run([*command, "-v"], capture_output=True, check=True, timeout=DEADLINE)
    assert done.stdout == VERSION + b"\n"
    for number in ENDING:
        with started(*command) as process:
            wait_for(lambda: _waits_for_signals(process.pid), "waiting")
            assert seconds_until_end(process.pid, number) < 1
            assert process.wait(DEADLINE) == 0


def _waits_for_signals(pid: int) -> bool:
    """Whether it sleeps in rt_sigtimedwait: number 128 on the amd64 host."""
    return Path(f"/proc/{pid}/syscall").read_text().startswith("128 ")


def imports(data: bytes) -> dict[str, list[str]]:
    """The libraries of a PE32+ file and what is taken from each; an independent, small reader."""
    (start,) = struct.unpack_from("<I", data, 0x3C)
    sections, optional = struct.unpack_from("<HxxxxxxxxxxxxH", data, start + 6)
    table = start + 24 + optional
    rows = [struct.unpack_from("<8sIIII", data, table + 40 * n) for n in range(sections)]

    def at(address: int) -> int:
        for _, size, base, raw, pointer in rows:
            if base <= address < base + max(size, raw):
                return address - base + pointer
        raise AssertionError(f"no section holds {address:#x}")

    def text(address: int) -> str:
        place = at(address)
        return data[place : data.index(b"\0", place)].decode()

    found: dict[str, list[str]] = {}
    (entry,) = struct.unpack_from("<I", data, start + 24 + 112 + 8)
    place = at(entry)
    while (row := struct.unpack_from("<5I", data, place)) != (0,) * 5:
        names, library = at(row[0] or row[4]), text(row[3])
        found[library] = []
        while (name := struct.unpack_from("<Q", data, names)[0]) != 0:
            found[library].append(text(name + 2))
            names += 8
        place += 20
    return found


def test_the_windows_program_imports_from_kernel32_only() -> None:
    data = Path(str(PauseBinaries.bundled().windows_amd64)).read_bytes()
    found = imports(data)
    assert [library.lower() for library in found] == ["kernel32.dll"]
    assert {"SetConsoleCtrlHandler", "Sleep", "ExitProcess"} <= set(next(iter(found.values())))


def test_the_windows_program_runs_and_ends_under_wine(tmp_path: Path) -> None:
    program = _copied(PauseBinaries.bundled().windows_amd64, tmp_path)
    env = {**tool_env(), "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    try:
        done = subprocess.run(
            [tool("wine64"), program, "-v"], env=env, capture_output=True, timeout=180, check=True
        )
        assert done.stdout == VERSION + b"\r\n"
        with started(tool("wine64"), str(program), env=env) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            # wine hands a terminal's SIGINT to the program as Ctrl-C.
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 0
    finally:
        subprocess.run([tool("wineserver"), "-k"], env=env, timeout=60, check=False)
