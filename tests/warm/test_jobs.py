"""Jobs in a warm container: what comes of them, and that nothing is left."""

from __future__ import annotations

import asyncio
import io
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.images import Pusher
from tests.node import Node
from tests.warm_images import KINDS, nothing_is_left, prepared, processes

import cdimage
from cdimage import warm


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_runs_in_any_image(
    kind: str,
    client: cdimage.Client,
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    new_repository: Callable[[], str],
    folder: Path,
) -> None:
    make, command, output = KINDS[kind]
    digest = await prepared(store, pusher, new_repository(), make())
    async with warm.start(client, digest, folder=folder, snapshotter=node.snapshotter) as box:
        result = await box.exec(command, timeout=20)
        assert (result.exit_code, result.stdout, result.stderr) == (0, output, b"")
        begin = time.monotonic()
    assert time.monotonic() - begin < 5  # the pause program ends at once, whatever the image says
    assert node.ctr("containers", "ls", "-q") == ""
    await store.untag_image(digest)
    assert node.is_empty()


async def test_a_job_has_what_it_is_given(box: warm.Box) -> None:
    result = await box.exec(
        ["sh", "-c", "id -u; id -g; pwd; echo $A $HOME; echo no >&2; cat; exit 3"],
        stdin=b"input", env={"A": "a b"}, cwd="/tmp", user="worker",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (3, b"no\n")
    assert result.stdout == b"1234\n1234\n/tmp\na b /tmp\ninput"
    assert 0 < result.seconds < 10
    assert (result.timed_out, result.truncated, result.message) == (False, False, "")


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(30):
        yield b"x" * 100_000


@pytest.mark.parametrize("source", ["bytes", "file", "stream"])
async def test_a_job_reads_all_that_there_is(box: warm.Box, source: str) -> None:
    stdin: dict[str, Any] = {
        "bytes": b"x" * 3_000_000,
        "file": io.BytesIO(b"x" * 3_000_000),
        "stream": _chunks(),
    }
    result = await box.exec(["cat"], stdin=stdin[source])
    assert result.stdout == b"x" * 3_000_000


async def test_a_job_that_never_reads_what_it_is_given_ends(box: warm.Box) -> None:
    with nothing_is_left(box):
        result = await box.exec(["echo", "bored"], stdin=b"x" * 3_000_000)
    assert (result.exit_code, result.stdout) == (0, b"bored\n")


async def _broken() -> AsyncIterator[bytes]:
    yield b"x"
    raise ZeroDivisionError


async def test_input_that_cannot_be_had_ends_the_job(box: warm.Box) -> None:
    with nothing_is_left(box), pytest.raises(ZeroDivisionError):
        await box.exec(["cat"], stdin=_broken())
    assert await processes(box) == ["ps"]


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        (["nope"], 127, "not found"),
        (["/no/such/file"], 127, "no such file"),
        (["/etc/passwd.d/x"], 127, "no such file"),
        (["/tmp"], 126, "permission denied"),
    ],
)
async def test_a_program_that_cannot_be_started_is_a_result(
    box: warm.Box, command: list[str], code: int, why: str
) -> None:
    with nothing_is_left(box):
        result = await box.exec(command)
    assert (result.exit_code, result.stdout) == (code, b"")
    assert why in result.message
    assert command[0] in result.message
    assert (await box.exec(["true"])).exit_code == 0


async def test_an_unknown_user_and_no_command_are_refused(box: warm.Box) -> None:
    with nothing_is_left(box):
        with pytest.raises(cdimage.InvalidReferenceError, match="no user 'nobody-here'"):
            await box.exec(["true"], user="nobody-here")
        with pytest.raises(cdimage.InvalidReferenceError, match="list of arguments"):
            await box.exec([])
        with pytest.raises(cdimage.InvalidReferenceError, match="NUL"):
            await box.exec(["a\0b"])


async def test_a_time_out_ends_the_job_with_all_that_it_started_and_not_the_container(
    box: warm.Box,
) -> None:
    script = "trap '' TERM INT; sleep 1000 & setsid sleep 1000 & echo began; sleep 1000"
    other = asyncio.create_task(box.exec(["sh", "-c", "sleep 2; echo done"]))
    result = await box.exec(["sh", "-c", script], timeout=1)
    assert (result.exit_code, result.timed_out, result.stdout) == (137, True, b"began\n")
    assert (await other).stdout == b"done\n"
    assert await processes(box) == ["ps"]


async def test_daemons_that_a_job_leaves_are_gone_with_it_and_its_output_is_whole(
    box: warm.Box,
) -> None:
    script = "(setsid sh -c 'echo late; sleep 1000' &) ; sleep 0.2; echo ends"
    with nothing_is_left(box):
        result = await box.exec(["sh", "-c", script], timeout=20)
    assert (result.exit_code, result.timed_out) == (0, False)
    assert sorted(result.stdout.split()) == [b"ends", b"late"]
    assert await processes(box) == ["ps"]


async def test_output_is_kept_up_to_a_limit_and_the_job_goes_on(box: warm.Box) -> None:
    script = "busybox dd if=/dev/zero bs=1M count=64 2>/dev/null; echo end >&2"
    result = await box.exec(["sh", "-c", script], output_limit=1000)
    assert (result.exit_code, len(result.stdout), result.stderr) == (0, 1000, b"end\n")
    assert result.truncated


async def test_a_gigabyte_is_streamed_whole(box: warm.Box) -> None:
    total = 0
    with nothing_is_left(box):
        command = ["busybox", "dd", "if=/dev/zero", "bs=1M", "count=1024"]
        async with box.spawn(command) as job:
            async for chunk in job.stdout:
                total += len(chunk)
            assert (await job.wait()).exit_code == 0
    assert total == 1 << 30


async def test_a_job_has_a_terminal_of_the_size_that_it_is_told(box: warm.Box) -> None:
    script = "trap 'busybox stty size; exit 5' WINCH; echo ready; while :; do sleep 0.1; done"
    with nothing_is_left(box):
        async with box.spawn(["sh", "-c", script], terminal=True) as job:
            assert job.stderr is None
            seen = await job.stdout.read()
            assert seen == b"ready\r\n"
            await job.resize(123, 45)
            seen = b"".join([chunk async for chunk in job.stdout])
            assert seen == b"45 123\r\n"
            assert (await job.wait()).exit_code == 5


async def test_a_conversation_over_standard_streams(box: warm.Box) -> None:
    async with box.spawn(["cat"], stdin=True) as job:
        assert job.stdin is not None
        for word in (b"one\n", b"two\n"):
            await job.stdin.write(word)
            assert await job.stdout.read() == word
        await job.close_stdin()
        assert (await job.wait()).exit_code == 0
        assert await job.stdout.read() == b""


async def test_a_signal_reaches_the_job(box: warm.Box) -> None:
    script = "trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.1; done"
    async with box.spawn(["sh", "-c", script]) as job:
        assert await job.stdout.read() == b"ready\n"
        await job.signal(signal.SIGUSR1)
        assert (await job.wait()).exit_code == 7
        assert await job.stdout.read() == b"got it\n"


async def test_a_cancelled_job_is_gone(box: warm.Box) -> None:
    with nothing_is_left(box):
        for delay in (0.0, 0.005, 0.02, 0.04, 0.06, 0.1, 0.3):
            job = asyncio.create_task(box.exec(["sh", "-c", "sleep 1000 & sleep 1000"]))
            await asyncio.sleep(delay)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
    assert await processes(box) == ["ps"]


async def test_a_job_that_takes_too_much_memory_is_reported(box: warm.Box) -> None:
    script = "x=x; while :; do x=$x$x$x$x; done"
    result = await box.exec(["sh", "-c", script], timeout=60)
    assert (result.exit_code, result.out_of_memory, result.timed_out) == (137, True, False)
    assert (await box.exec(["true"])).exit_code == 0
    killed = await box.exec(["sh", "-c", "kill -9 $$"])
    assert (killed.exit_code, killed.out_of_memory) == (137, False)


async def test_a_fork_bomb_is_held_and_ended(box: warm.Box) -> None:
    bomb = "f() { f | f & }; f; sleep 1000"
    with nothing_is_left(box):
        result = await box.exec(["sh", "-c", bomb], timeout=2, output_limit=1000)
        assert result.exit_code != 0
    assert await processes(box) == ["ps"]
