"""The Windows pause program, run under Wine; and its imports, read without Wine.

What was verified: Ctrl-C as Wine itself sends it, and Ctrl-C, Ctrl-Break, close, logoff and
shutdown as Windows delivers them (a thread that begins in ``CtrlRoutine``) end it with 0, and by
its own handler, not by the system's; also where Ctrl-C was switched off by whoever started it.
Not verified: a Windows kernel, or a Windows container that is stopped.
"""

from __future__ import annotations

import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts.build_pause import WINDOWS, compile_program
from tests.tools import tool, tool_env

from cdimage.descriptor import Platform
from cdimage.pause import PauseBinaries

DEADLINE = 60.0
# What Sleep(INFINITE) is under Wine: pselect6 of nothing, without end.
ASLEEP = "270 0x0 0x0 0x0 0x0 0x0"
EVENTS = {"Ctrl-C": 0, "Ctrl-Break": 1, "close": 2, "logoff": 5, "shutdown": 6}

# Starts pause.exe in a process group of its own, where Ctrl-C is off; reads the number of an event;
# gives that to it as Windows does; ends as it ends.
PRESS = """
typedef unsigned long DWORD;
typedef void *HANDLE;
typedef struct { DWORD size; char rest[100]; } STARTUPINFOA;
typedef struct { HANDLE process, thread; DWORD process_id, thread_id; } PROCESS_INFORMATION;
#define API __declspec(dllimport)
API int CreateProcessA(const char *, char *, void *, void *, int, DWORD, void *, const char *,
                       STARTUPINFOA *, PROCESS_INFORMATION *);
API HANDLE CreateRemoteThread(HANDLE, void *, unsigned long long, void *, void *, DWORD, DWORD *);
API HANDLE GetModuleHandleA(const char *);
API void *GetProcAddress(HANDLE, const char *);
API HANDLE GetStdHandle(DWORD);
API int ReadFile(HANDLE, void *, DWORD, DWORD *, void *);
API DWORD WaitForSingleObject(HANDLE, DWORD);
API int GetExitCodeProcess(HANDLE, DWORD *);
API int TerminateProcess(HANDLE, unsigned);
API void ExitProcess(unsigned);
enum { CREATE_NEW_PROCESS_GROUP = 0x200, STD_INPUT_HANDLE = -10 };

void mainCRTStartup(void)
{
    STARTUPINFOA startup = {.size = sizeof startup};
    PROCESS_INFORMATION pause;
    DWORD done, code = 97;
    char event = 0;
    if (!CreateProcessA("pause.exe", 0, 0, 0, 0, CREATE_NEW_PROCESS_GROUP, 0, 0, &startup, &pause))
        ExitProcess(99);
    ReadFile(GetStdHandle(STD_INPUT_HANDLE), &event, 1, &done, 0);
    void *routine = GetProcAddress(GetModuleHandleA("kernelbase"), "CtrlRoutine");
    if (!routine || !CreateRemoteThread(pause.process, 0, 0, routine,
                                        (void *)(long long)(event - '0'), 0, 0))
        TerminateProcess(pause.process, 98);
    if (WaitForSingleObject(pause.process, 10000))
        TerminateProcess(pause.process, 97);
    else
        GetExitCodeProcess(pause.process, &code);
    ExitProcess(code);
}
"""


@dataclass(frozen=True)
class Wine:
    """A Wine with a folder and a server of its own, in which the program lies."""

    folder: Path
    env: dict[str, str]

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A program of Windows, that is ended if the test has not done so."""
        # Files and no pipes: Wine's services inherit them, and live on for some seconds.
        with (
            self.output.open("w") as output,
            self.errors.open("w") as errors,
            subprocess.Popen(
                [tool("wine64"), *command], env=self.env, cwd=self.folder, text=True,
                stdin=subprocess.PIPE, stdout=output, stderr=errors,
            ) as process,
        ):  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def end(self, process: subprocess.Popen[str], answer: str = "") -> tuple[int, str, str]:
        """How it ends: its status, what it printed, and what Wine says of it."""
        assert process.stdin is not None
        process.stdin.write(answer)
        process.stdin.close()
        status = process.wait(2 * DEADLINE)
        output = self.output.read_bytes().decode()  # with its own ends of lines
        return status, output, self.errors.read_text()

    def run(self, *command: str) -> tuple[int, str, str]:
        """How a program that ends by itself does so."""
        with self.running(*command) as process:
            return self.end(process)

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def errors(self) -> Path:
        return self.folder / "errors"

    def stop(self) -> None:
        for option in ("--kill", "--wait"):
            subprocess.run(
                [tool("wineserver"), option], env=self.env, check=False, timeout=DEADLINE
            )

    def wait_until_asleep(self) -> int:
        """The process id of the only pause program of this Wine, once it has nothing to do."""
        deadline = time.monotonic() + DEADLINE
        while not (asleep := [pid for pid in self._pauses() if self._is_asleep(pid)]):
            assert time.monotonic() < deadline, "in vain: the program sleeps"
            time.sleep(0.01)
        (pid,) = asleep
        return pid

    def _pauses(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "cmdline").read_bytes().partition(b"\0")[0]
                if name.endswith(b"pause.exe") and (process / "cwd").samefile(self.folder):
                    found.append(int(process.name))
            except OSError:  # it has ended
                continue
        return found

    def _is_asleep(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/syscall").read_text().startswith(ASLEEP)
        except OSError:
            return False


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wine]:
    folder = tmp_path_factory.mktemp("wine")
    env = tool_env() | {
        "HOME": str(folder),
        "WINEPREFIX": str(folder / "prefix"),
        "WINEDEBUG": "-all,fixme+console",
        "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=",
    }
    (folder / "prefix").mkdir()
    program = PauseBinaries.bundled().read(Platform("windows", "amd64")).data
    (folder / "pause.exe").write_bytes(program)
    wine = Wine(folder, env)
    try:
        wine.run("wineboot", "--init")
        yield wine
    finally:
        wine.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def press(wine: Wine) -> str:
    source = wine.folder / "press.c"
    source.write_text(PRESS)
    _, *flags = WINDOWS
    compile_program("x86_64-windows-gnu", source, flags, wine.folder / "press.exe")
    return "press.exe"


def test_it_prints_its_version(wine: Wine) -> None:
    assert wine.run("pause.exe", "-v")[:2] == (0, "cdimage-pause 1\r\n")


def test_ctrl_c_ends_it_with_0(wine: Wine) -> None:
    with wine.running("pause.exe") as process:
        wine.wait_until_asleep()
        # Wine makes Ctrl-C of it. Of a program without a handler it would say that it ends it.
        process.send_signal(signal.SIGINT)
        assert wine.end(process) == (0, "", "")


@pytest.mark.parametrize("event", EVENTS)
def test_what_windows_tells_a_console_program_ends_it_with_0(
    wine: Wine, press: str, event: str
) -> None:
    with wine.running(press) as process:
        wine.wait_until_asleep()
        assert wine.end(process, str(EVENTS[event])) == (0, "", "")


def test_it_imports_from_kernel32_only() -> None:
    data = PauseBinaries.bundled().read(Platform("windows", "amd64")).data
    (start,) = struct.unpack_from("<I", data, 0x3C)
    (count,) = struct.unpack_from("<H", data, start + 6)
    headers = [struct.unpack_from("<8sIIII", data, start + 264 + 40 * n) for n in range(count)]

    def at(address: int) -> int:
        place: int
        (place,) = [raw + address - virtual for _, size, virtual, _, raw in headers
                    if virtual <= address < virtual + size]  # fmt: skip
        return place

    (imports,) = struct.unpack_from("<I", data, start + 24 + 120)
    libraries = []
    for n in range(16):
        (name,) = struct.unpack_from("<I", data, at(imports) + 20 * n + 12)
        if not name:
            break
        libraries.append(data[at(name) :].partition(b"\0")[0].lower())
    assert libraries == [b"kernel32.dll"]
    # Nor does it load one by name.
    assert {name.lower() for name in re.findall(rb"[\w.]+\.dll", data, re.IGNORECASE)} == {
        b"kernel32.dll"
    }
