"""Several images in one command, and Ctrl-C at any moment."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.program import cdimage, environment
from tests.daemons import Containerd, Registry
from tests.images import Layer, Pushed, Pusher, busybox_tar, image_of, layer_of, tar_of
from tests.node import Node
from tests.tools import ROOT

IMAGES = 20


@pytest.fixture(scope="module")
def base() -> Layer:
    return layer_of(busybox_tar(noise=random.Random(3).randbytes(8_000_000)), "none")


@pytest.fixture
def twenty(base: Layer, pusher: Pusher, new_repository: Callable[[], str]) -> list[Pushed]:
    """Images on one base, each with a layer and a repository of its own."""
    layers = [layer_of(tar_of({f"own-{n}": os.urandom(100_000)}), "none") for n in range(IMAGES)]
    return [pusher.push(image_of([base, layer]), new_repository()) for layer in layers]


def test_twenty_images_that_share_a_base_cost_each_distinct_blob_once(
    node: Node, twenty: list[Pushed], registry: Registry, base: Layer
) -> None:
    before = len(registry.requests())
    said = cdimage(node, "pull", *(image.reference for image in twenty))
    assert said.code == 0, said.error
    header, *rows = said.out.splitlines()
    assert header.split() == ["REFERENCE", "RESULT", "USER", "DIGEST"]
    assert [row.split() for row in rows] == [
        [image.reference, "prepared", image.digest] for image in twenty
    ]
    assert f"{twenty[0].reference} done, " in said.error
    fetched = [
        request
        for request in registry.requests()[before:]
        if request.method == "GET" and "/blobs/" in request.path
    ]
    layers = {digest for image in twenty for digest in image.layers}
    asked = [request.path.rpartition("/")[2] for request in fetched]
    assert sorted(digest for digest in asked if digest in layers) == sorted(layers)
    sizes = {digest: registry.blob_path(digest).stat().st_size for digest in layers}
    of_layers = [r.size for r in fetched if r.path.rpartition("/")[2] in layers]
    assert sum(of_layers) == sum(sizes.values())


def test_one_that_fails_does_not_stop_the_others(
    node: Node, twenty: list[Pushed], registry: Registry
) -> None:
    first, second = twenty[0].reference, twenty[1].reference
    missing, wrong = f"{registry.host}/no/such:1", f"{registry.host}/UPPER"
    said = cdimage(node, "pull", first, missing, second)
    assert said.code == 6
    assert [row.split()[1] for row in said.out.splitlines()[1:]] == [
        "prepared", "failed", "prepared",
    ]  # fmt: skip
    assert f"cdimage: {missing}: " in said.error
    assert said.error.splitlines()[-1] == "cdimage: 2 of 3 images are prepared"
    for reference, outcome in ((first, "prepared"), (missing, "failed")):
        assert f"{reference} {outcome}" in said.error.splitlines()
    said = cdimage(node, "pull", first, missing, wrong, "--format", "json")
    assert said.code == 1
    results = json.loads(said.out)
    assert [result["reference"] for result in results] == [first, missing, wrong]
    assert results[0]["user_digest"] == twenty[0].digest
    assert [result.get("exit_code") for result in results] == [None, 6, 2]
    assert "lower case" in results[2]["error"]


def test_references_come_from_files_and_from_standard_input(
    node: Node, twenty: list[Pushed], tmp_path: Path
) -> None:
    named, piped, listed = (image.reference for image in twenty[:3])
    (tmp_path / "refs").write_text(f"# images\n\n  {listed}   # the third\n{named}\n")
    command = [
        sys.executable,
        "-m",
        "cdimage",
        "pull",
        named,
        "-",
        "--file",
        str(tmp_path / "refs"),
    ]
    done = subprocess.run(
        command, input=f"{piped}\n", env=environment(node), capture_output=True, text=True,
        cwd=ROOT, check=True,
    )  # fmt: skip
    assert [row.split()[0] for row in done.stdout.splitlines()[1:]] == [named, piped, listed]
    done = subprocess.run(
        [sys.executable, "-m", "cdimage", "pull", "-", "--format", "json"], input=piped,
        env=environment(node), capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert [result["reference"] for result in json.loads(done.stdout)] == [piped]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no image is named"),
        (("--file", "/dev/null"), 2, "no image is named"),
        (("--file", "/no/such"), 2, "does not exist"),
        (("a", "b", "--digest", "sha256:" + "0" * 64), 2, "--digest is for one reference"),
        (("a", "--hosts-dir", "/no/such"), 2, "does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    said = cdimage(None, "pull", *arguments)
    assert (said.code, said.out) == (code, "")
    assert words in said.error
    assert "Traceback" not in said.error


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "refs").write_bytes(b"\xff\xfe\x00")
    said = cdimage(None, "pull", "--file", str(tmp_path / "refs"))
    assert said.code == 1
    assert "not text in UTF-8" in said.error


def test_a_terminal_gets_a_bar_for_each_image(node: Node, twenty: list[Pushed]) -> None:
    ours, theirs = pty.openpty()
    references = [image.reference for image in twenty[:3]]
    with subprocess.Popen(
        [sys.executable, "-m", "cdimage", "pull", *references],
        env={**environment(node), "TERM": "xterm", "COLUMNS": "140"},
        stdout=subprocess.PIPE, stderr=theirs, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        os.close(theirs)
        drawn = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        assert process.wait() == 0
    for reference in references:
        assert reference[-20:].encode() in drawn
    assert drawn.count(b"prepared") >= len(references)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's word for the other end being closed
        return b""


def test_debug_shows_every_request_and_no_secret(node: Node, twenty: list[Pushed]) -> None:
    said = cdimage(node, "pull", twenty[0].reference, "--debug")
    assert said.code == 0
    repository = twenty[0].reference.partition("/")[2].rpartition(":")[0]
    assert f"/v2/{repository}/manifests/latest: 200" in said.error
    assert f"/v2/{repository}/blobs/{twenty[0].layers[1]}: 200" in said.error


# Ctrl-C.


def interrupt(node: Node, reference: str, seconds: float) -> tuple[int, float, str]:
    """Interrupt a pull after a time; its exit code, how long the answer took, what it said."""
    with subprocess.Popen(
        [sys.executable, "-m", "cdimage", "pull", reference],
        env=environment(node), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        start = time.monotonic()
        said = process.stderr.read()
        code = process.wait(10)
        return code, time.monotonic() - start, said


def test_ctrl_c_at_any_moment_is_answered_within_a_second(
    node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    layers = [layer_of(tar_of({f"{n}": os.urandom(20_000_000)}), "none") for n in range(3)]
    pushed = pusher.push(image_of(layers), new_repository())
    interrupted = 0
    for tenths in range(3, 15):
        code, seconds, said = interrupt(node, pushed.reference, tenths / 10)
        assert "Traceback" not in said
        assert seconds < 1.2  # with the machine's own time to end a process
        if code == 0:
            break
        if (code, said) == (-signal.SIGINT, ""):
            continue  # Python itself had not begun
        assert code == 130
        assert said.splitlines()[-1].startswith("cdimage: interrupted")
        interrupted += 1
        if node.images():
            break  # between the daemon's registering it and the client's hearing so
    assert interrupted > 0
    assert cdimage(node, "pull", pushed.reference).code == 0
    assert len(node.images()) == 1


def test_a_pull_in_the_background_of_a_shell_goes_on(node: Node, busybox: Pushed) -> None:
    program = f"trap '' INT; echo; exec {sys.executable} -m cdimage pull {busybox.reference}"
    with subprocess.Popen(
        ["sh", "-c", program], env=environment(node), stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
    assert process.returncode == 0
    assert len(node.images()) == 1


@pytest.fixture
def stopped() -> Iterator[Containerd]:
    """A containerd that hangs."""
    with Containerd() as daemon:
        os.kill(daemon.pid, signal.SIGSTOP)
        yield daemon
        os.kill(daemon.pid, signal.SIGCONT)


def test_ctrl_c_is_answered_though_the_daemon_hangs(stopped: Containerd, busybox: Pushed) -> None:
    code, seconds, said = interrupt(Node(stopped, "hanging"), busybox.reference, 2)
    assert (code, "Traceback" in said) == (130, False)
    assert said.splitlines()[-1].startswith("cdimage: interrupted")
    assert seconds < 1.2


@pytest.fixture
def busybox(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(image_of([layer_of(busybox_tar())]), new_repository())
