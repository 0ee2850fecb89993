"""`cdimage run`, `start`, `exec`, `ps` and `stop`, as a person uses them."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from tests.cli.program import cdimage, environment
from tests.images import Pusher
from tests.node import Node
from tests.tools import ROOT
from tests.warm_images import busybox


@pytest.fixture
def image(pusher: Pusher, new_repository: Callable[[], str]) -> str:
    return pusher.push(busybox(User="worker"), new_repository()).reference


def run(node: Node, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "cdimage", *arguments],
        input=stdin, capture_output=True, env=environment(node), cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip


def test_a_command_runs_in_an_image_that_was_not_prepared_before(node: Node, image: str) -> None:
    script = "cat; id -u; echo no >&2; echo $A; exit 7"
    done = run(node, "run", "--memory", "64m", "--cpus", "1", "-e", "A=b", image, "--",
               "sh", "-c", script, stdin=b"in\n")  # fmt: skip
    assert (done.returncode, done.stdout) == (7, b"in\n1234\nb\n")
    assert done.stderr.endswith(b"no\n")
    digest = cdimage(node, "ls").out.splitlines()[1].split()[0]
    again = run(node, "run", digest, "echo", "-n", "--", "again")
    assert (again.returncode, again.stdout, again.stderr) == (0, b"-- again", b"")
    pinned = run(node, "run", f"{image}@{digest}", "true")
    assert (pinned.returncode, pinned.stderr) == (0, b"")
    assert node.ctr("containers", "ls", "-q") == ""


def test_containers_are_started_used_listed_and_stopped(node: Node, image: str) -> None:
    assert cdimage(node, "ps").out.split() == ["CONTAINER", "USER", "DIGEST", "STATUS", "AGE"]
    container = cdimage(node, "start", image).out.strip()
    (listed,) = json.loads(cdimage(node, "ps", "--format", "json").out)
    assert (listed["id"], listed["running"], listed["used"]) == (container, True, False)
    assert container in cdimage(node, "ps").out
    assert run(node, "exec", container[:9], "--", "true").returncode == 0
    assert run(node, "exec", "-u", "0", container, "--", "touch", "/tmp/x").returncode == 0
    assert run(node, "exec", "-u", "0", "-w", "/tmp", container, "ls").stdout == b"x\n"
    assert cdimage(node, "stop", container, container).out == f"stopped {container}\n" * 2
    assert node.ctr("containers", "ls", "-q") == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["exec", "none", "--", "true"], 125, "there is no warm container 'none'"),
        (["run", "sha256:" + "0" * 64, "--", "true"], 125, "pull it first"),
        (["run", "--memory", "much", "IMAGE", "--", "true"], 125, "'much' is not a number"),
        (["run", "--network", "x", "IMAGE", "--", "true"], 125, "'x' is no network"),
        (["run", "--mount", "x", "IMAGE", "--", "true"], 125, "'x' is not a mount"),
        (["run", "-u", "who", "IMAGE", "--", "true"], 125, "no user 'who'"),
        (["run", "-e", "=x", "IMAGE", "--", "true"], 125, "'=x' is no variable"),
        (["run", "IMAGE"], 2, "say which command"),
        (["run", "IMAGE", "--"], 2, "say which command"),
        (["run", "IMAGE", "--", "nope"], 127, "'nope': executable file not found"),
        (["run", "IMAGE", "--", "/tmp"], 126, "'/tmp': permission denied"),
        (["run", "--timeout", "0.3", "IMAGE", "--", "sleep", "1000"], 137, ""),
        (["run", "--memory", "32m", "IMAGE", "--", "sh", "-c", "x=x; while :; do x=$x$x; done"],
         137, "for want of memory"),
    ],
)  # fmt: skip
def test_mistakes_and_failures_have_a_sentence_and_a_code(
    node: Node, image: str, arguments: list[str], code: int, words: str
) -> None:
    done = cdimage(node, *(image if it == "IMAGE" else it for it in arguments))
    assert (done.code, done.out) == (code, "")
    assert words in done.error
    assert "Traceback" not in done.error
    assert node.ctr("containers", "ls", "-q") == ""


def test_a_signal_is_the_jobs(node: Node, image: str) -> None:
    script = "trap 'echo INT; exit 3' INT; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [sys.executable, "-m", "cdimage", "run", "-n", image, "--", "sh", "-c", script],
        stdout=subprocess.PIPE, env=environment(node), cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"INT\n"
        assert process.wait(20) == 3
    assert node.ctr("containers", "ls", "-q") == ""


def test_a_job_that_ignores_signals_is_killed_by_the_third(node: Node, image: str) -> None:
    script = "trap '' INT; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [sys.executable, "-m", "cdimage", "run", "-n", image, "--", "sh", "-c", script],
        stdout=subprocess.PIPE, env=environment(node), cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(3):
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)  # equal signals that are pending are one
        assert process.wait(20) == 137
    assert node.ctr("containers", "ls", "-q") == ""


def test_who_reads_the_output_may_go_away(node: Node, image: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cdimage run -n {image} -- busybox yes | head -n 1",
        shell=True, capture_output=True, env=environment(node), cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == b"y\n"
    assert b"Traceback" not in done.stderr
    assert node.ctr("containers", "ls", "-q") == ""


def test_a_person_at_a_terminal_has_a_shell(node: Node, image: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        command = [sys.executable, "-m", "cdimage", "run", image, "--", "sh"]
        os.execve(command[0], command, environment(node))
    seen = b""
    try:
        seen += _read_until(terminal, b"$ ")
        os.write(terminal, b"test -t 0 && echo a $((6 * 7)) terminal\n")
        seen += _read_until(terminal, b"a 42 terminal")
        os.write(terminal, b"sleep 1000\n")
        time.sleep(0.5)
        os.write(terminal, b"\x03")  # ends the sleep, and neither the shell nor cdimage
        os.write(terminal, b"echo still $((40 + 2)); exit 5\n")
        seen += _read_until(terminal, b"still 42")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 5, seen
    finally:
        os.close(terminal)
    assert node.ctr("containers", "ls", "-q") == ""


def _read_until(terminal: int, words: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 30
    while words not in seen:
        ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
        assert ready, seen
        seen += os.read(terminal, 4096)
    return seen
