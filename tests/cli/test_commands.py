"""The commands, doing what they are for."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable

import pytest
from tests.cli.program import cdimage, environment
from tests.daemons import Registry
from tests.faults import Fault, FaultyRegistry, stall
from tests.images import Pushed, Pusher, busybox_tar, image_of, layer_of, tar_of
from tests.node import Node
from tests.tools import ROOT

from cdimage.prepared_name import prepared_image_name


@pytest.fixture
def busybox(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    execution = {"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "x"], "User": "worker"}
    return pusher.push(image_of([layer_of(busybox_tar())], execution), new_repository())


def test_pull_prints_the_result_and_nothing_else_on_standard_output(
    node: Node, busybox: Pushed
) -> None:
    said = cdimage(node, "pull", busybox.reference)
    assert said.code == 0
    assert said.out.split() == [
        "prepared", prepared_image_name(busybox.digest), "user", "digest", busybox.digest,
    ]  # fmt: skip
    assert f"{busybox.reference} is {busybox.digest}" in said.error
    assert re.search(r"^[0-9a-f]{12} fetched of ", said.error, re.MULTILINE)


def test_a_pull_that_finds_everything_done_says_the_same_quietly(
    node: Node, busybox: Pushed
) -> None:
    first = cdimage(node, "pull", busybox.reference, "--digest", busybox.digest, "--quiet")
    again = cdimage(node, "pull", busybox.reference, "--digest", busybox.digest)
    assert first.out == again.out
    assert (first.error, again.error) == ("", "")


def test_programs_get_json(node: Node, busybox: Pushed) -> None:
    pulled = json.loads(cdimage(node, "pull", busybox.reference, "--format", "json").out)
    (listed,) = json.loads(cdimage(node, "ls", "--format", "json").out)
    assert listed == pulled
    assert listed["user_digest"] == busybox.digest
    assert listed["platforms"] == ["linux/amd64"]
    assert list(listed["snapshots"]) == [node.snapshotter]
    inspected = json.loads(cdimage(node, "inspect", busybox.digest, "--format", "json").out)
    assert inspected["original"] == {
        "base": busybox.digest,
        "entrypoint": ["/bin/sh"],
        "cmd": ["-c", "x"],
        "user": "worker",
        "stop_signal": None,
    }
    untagged = json.loads(cdimage(node, "untag", busybox.digest, "--format", "json").out)
    assert untagged == {"untagged": [busybox.digest]}
    assert json.loads(cdimage(node, "ls", "--format", "json").out) == []
    assert node.is_empty()


def test_people_get_tables(node: Node, busybox: Pushed) -> None:
    assert cdimage(node, "ls").out == "USER DIGEST  PLATFORM  SNAPSHOTTERS  PREPARED\n"
    cdimage(node, "pull", busybox.reference)
    header, row = cdimage(node, "ls").out.splitlines()
    assert header.split() == ["USER", "DIGEST", "PLATFORM", "SNAPSHOTTERS", "PREPARED"]
    assert row.split()[:3] == [busybox.digest, "linux/amd64", node.snapshotter]
    shown = cdimage(node, "inspect", busybox.digest.removeprefix("sha256:")).out
    assert "['/bin/sh']" in shown
    assert prepared_image_name(busybox.digest) in shown


def test_untag_takes_several_digests_and_does_not_mind_those_that_are_not_there(
    node: Node, busybox: Pushed
) -> None:
    cdimage(node, "pull", busybox.reference)
    absent = "f" * 64
    said = cdimage(node, "untag", busybox.digest, absent)
    assert (said.code, said.error) == (0, "")
    assert said.out == f"untagged {busybox.digest}\nuntagged sha256:{absent}\n"
    assert node.is_empty()


def test_name_needs_no_daemon(busybox: Pushed) -> None:
    said = cdimage(None, "name", busybox.digest)
    assert (said.code, said.out) == (0, prepared_image_name(busybox.digest) + "\n")


def test_another_platform_of_an_index_can_be_asked_for(
    node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    image = image_of([layer_of(tar_of({"a": b"arm"}))], platform="linux/arm64")
    pushed = pusher.push(image, new_repository())
    said = cdimage(
        node, "pull", pushed.reference, "--platform", "linux/aarch64", "--format", "json"
    )
    assert json.loads(said.out)["platforms"] == ["linux/arm64"]


def test_a_terminal_gets_bars_on_standard_error_only(node: Node, busybox: Pushed) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cdimage", "pull", busybox.reference],
        env={**environment(node), "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE, stderr=theirs, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        os.close(theirs)
        drawn = b""
        while chunk := _read(ours):
            drawn += chunk
        os.close(ours)
        assert process.stdout is not None
        assert process.stdout.read().startswith("prepared ")
        assert process.wait() == 0
    assert "━".encode() in drawn
    assert b"done" in drawn


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's word for the other end being closed
        return b""


async def test_ctrl_c_is_answered_with_130_and_one_line(
    node: Node, registry: Registry, busybox: Pushed
) -> None:
    faulty = FaultyRegistry(registry.host, [Fault("layers", stall(1000))])
    async with faulty.serving():
        reference = busybox.reference.replace(registry.host, faulty.host)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cdimage", "pull", reference,
            env=environment(node), stdout=PIPE, stderr=PIPE, cwd=ROOT,
        )  # fmt: skip
        assert process.stderr is not None
        while b"fetching" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        rest = (await process.stderr.read()).decode()
        assert await process.wait() == 130, rest
    assert "Traceback" not in rest
    assert rest.splitlines()[-1].startswith("cdimage: interrupted")
    assert node.images() == set()
    done = await asyncio.to_thread(cdimage, node, "pull", busybox.reference)
    assert done.code == 0


def test_doctor_is_content_with_a_containerd_that_works(node: Node) -> None:
    said = cdimage(node, "doctor")
    assert (said.code, said.error) == (0, "")
    for word in ("daemon", "version", "permission", "namespace", node.snapshotter, "disk"):
        assert word in said.out
    assert "WRONG" not in said.out
    assert all(check["ok"] for check in json.loads(cdimage(node, "doctor", "--format", "json").out))


def test_doctor_says_what_is_wrong_and_what_to_do(node: Node) -> None:
    said = cdimage(node, "doctor", "--snapshotter", "zfs")
    assert said.code == 1
    assert "WRONG  chosen snapshotter: the snapshotter 'zfs' cannot be used" in said.out
    assert "→ name another with --snapshotter" in said.out
    assert "checks failed: chosen snapshotter" in said.error
    said = cdimage(None, "doctor", "--address", "/nowhere.sock")
    assert said.code == 1
    assert "WRONG  daemon: no containerd answers" in said.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: str) -> None:
    assert "_CDIMAGE_COMPLETE" in cdimage(None, "completion", shell).out


def test_a_reader_that_goes_away_is_no_traceback(node: Node) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cdimage doctor | true", shell=True, env=environment(node),
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
