"""A container that runs, for jobs to be exec'd into."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final

from cdimage.containerd.client import Client
from cdimage.containerd.containers import ContainerRecord
from cdimage.errors import BackendError, InvalidReferenceError, NotFoundError
from cdimage.locks import locked
from cdimage.threads import finish, to_end
from cdimage.warm.cgroup import Cgroup
from cdimage.warm.files import outside, read_file, write_file
from cdimage.warm.job import OUTPUT_SECONDS, Job, JobEnd, JobPlace
from cdimage.warm.options import MiB
from cdimage.warm.owners import owner_path
from cdimage.warm.process import Process
from cdimage.warm.removal import STARTING, hold, remove
from cdimage.warm.rooted import Root, open_root
from cdimage.warm.settings import DIGEST_LABEL, FOLDER_LABEL, SETTINGS, Settings
from cdimage.warm.spec import merged_env, process_spec, users_of
from cdimage.warm.streams import Input, OutputStream
from cdimage.warm.transfer import get, put
from cdimage.warm.users import User, find_user

OUTPUT_LIMIT: Final = 16 * MiB
STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What came of a job.

    Attributes:
        exit_code: 128 + N after the signal N; 127 when the program is not there, 126 when it
            cannot be executed.
        stdout: What it wrote, up to the limit.
        stderr: The same; empty for a job with a terminal.
        truncated: Whether it wrote more than that; or another job holds its output open, and it
            was not waited for.
        timed_out: Whether it was killed because its time was over.
        out_of_memory: Whether it was killed for want of memory.
        message: Why it could not be started; "" when it was.
        started_at: When.
        seconds: How long it ran.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    timed_out: bool
    out_of_memory: bool
    message: str
    started_at: datetime
    seconds: float


class Box:
    """A container that runs. Made by `start`, `launch` or `attach`; belongs to one event loop.

    As an asynchronous context manager it is stopped at the end. Any number of jobs run in it at
    the same time. They *start* one after another, because every start keeps runc, and the kernel's
    one lock for control groups, busy for as long: asked for at once, they would hold up each other.

    Attributes:
        id: The container's, in its containerd namespace.
        user_digest: The digest of the image that the user asked for.
    """

    def __init__(self, client: Client, record: ContainerRecord, pid: int) -> None:
        self.id = record.id
        self.user_digest = record.labels.get(DIGEST_LABEL, "")
        self._client = client
        self._record = record
        try:
            self._settings = Settings.load(record.spec["annotations"][SETTINGS])
        except (KeyError, TypeError, ValueError):
            raise BackendError(f"the container {record.id} was not started by cdimage") from None
        self._users = users_of(record.spec)
        self._folder = Path(record.labels[FOLDER_LABEL])
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self._place = JobPlace(client, self.id, self._folder, Cgroup.of(pid), self._start_one)
        self._process = Process(pid)
        self._owner = hold(owner_path(self._folder, self._token))

    @property
    def pid(self) -> int:
        """The container's first process, as the node counts."""
        return self._process.pid

    @property
    def record(self) -> ContainerRecord:
        """What containerd knows of it."""
        return self._record

    async def exec(
        self,
        arguments: Sequence[str],
        *,
        stdin: Input | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - ends the job, not the wait for it
        output_limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        """Run a job to its end, and what it started with it.

        What a job does, and that its program is not there, is a result and no error. Its output is
        complete when the result is there. Cancelled, and when what it reads raises an error, the
        job is killed, and nothing of it is left.

        Args:
            arguments: The program, looked up in the PATH of the job, and its arguments.
            stdin: What it reads; None is nothing.
            env: Variables beside the image's, or in their place.
            cwd: Where it runs; None is where the image says.
            user: As image configs write it, ``name``, ``uid:gid``; None is the image's.
            timeout: After how many seconds it is killed; None is never.
            output_limit: How many bytes of each output stream are kept; the rest is read and
                forgotten.

        Raises:
            InvalidReferenceError: There is no such user in the image, or no argument.
            NotFoundError: The container has ended.
            UnavailableError: containerd does not answer, or the container is full.
        """
        job = self.spawn(arguments, stdin=stdin is not None, env=env, cwd=cwd, user=user)
        timed_out = False
        async with job:
            outputs = [_Output(stream, output_limit) for stream in (job.stdout, job.stderr)]
            reading = [asyncio.create_task(output.collect()) for output in outputs]
            feeding = asyncio.create_task(_feed(job, stdin)) if stdin is not None else None
            try:
                try:
                    async with asyncio.timeout(timeout) as limit:
                        end = await _ended(job, feeding)
                except TimeoutError:
                    if not limit.expired():  # what it reads took too long
                        raise
                    timed_out = True
                    await job.kill()
                    end = await job.wait()
                done, held = await asyncio.wait(reading, timeout=OUTPUT_SECONDS)
                for task in done:
                    await task
            finally:
                for task in (*reading, *([feeding] if feeding else [])):
                    task.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await task
        stdout, stderr = outputs
        return ExecResult(
            exit_code=end.exit_code,
            stdout=bytes(stdout.kept),
            stderr=bytes(stderr.kept),
            truncated=stdout.is_cut or stderr.is_cut or bool(held),
            timed_out=timed_out,
            out_of_memory=end.out_of_memory,
            message=end.message,
            started_at=end.started_at,
            seconds=end.seconds,
        )

    def spawn(
        self,
        arguments: Sequence[str],
        *,
        stdin: bool = False,
        terminal: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> Job:
        """A job whose streams are yours: ``async with box.spawn([...], stdin=True) as job``.

        It runs when the block begins, and is gone, with all that it started, when it ends.

        Args:
            arguments: The program and its arguments.
            stdin: Whether it is given something to read.
            terminal: Whether its streams are a terminal.
            env: Variables beside the image's.
            cwd: Where it runs.
            user: As image configs write it.

        Raises:
            InvalidReferenceError: There is no such user in the image, or no argument.
            NotFoundError: The container has ended.
        """
        if not arguments or isinstance(arguments, str | bytes):
            raise InvalidReferenceError("a job is a list of arguments: the program first")
        if any("\0" in text for text in (*arguments, *(env or {}).values(), cwd or "")):
            raise InvalidReferenceError("a job's arguments cannot hold a NUL")
        whose = self.find_user(self._settings.user if user is None else user)
        more = {"HOME": whose.home, **({"TERM": "xterm"} if terminal else {})}
        missing = {
            name: value for name, value in more.items()
            if not any(entry.startswith(f"{name}=") for entry in self._settings.env)
        }  # fmt: skip
        process = process_spec(
            whose,
            arguments,
            self._settings,
            env=merged_env(self._settings.env, {**missing, **(env or {})}),
            cwd=cwd,
            is_terminal=terminal,
        )
        name = f"{self._token}-{next(self._numbers)}"
        return Job(self._place, name, process, stdin=stdin)

    def find_user(self, text: str) -> User:
        """Whom the image means, by its own files.

        Raises:
            InvalidReferenceError: There is no such user or group; or these files are none, as when
                a job put a FIFO in their place, which runc would wait for.
            NotFoundError: The container has ended.
        """
        with self.root() as root:
            return find_user(text, root.read_text("/etc/passwd"), root.read_text("/etc/group"))

    def root(self) -> AbstractContextManager[Root]:
        """The container's files, as it sees them.

        Raises:
            NotFoundError: The container has ended.
        """
        return open_root(self._process)

    async def put(self, archive: Input, path: str = "/") -> None:
        """Unpack a tar, packed or not, below a directory of the container, made if need be.

        Owners, modes and times are the tar's. What is there already is replaced; directories are
        merged. Takes nothing of the image. Cancelled, it leaves what came until then.

        Raises:
            InvalidReferenceError: It is no tar, holds a device, or climbs out of the directory.
            NotFoundError: The container has ended.
            OSError: The container's file system refuses.
        """
        await put(self.root(), archive, path, self._users)

    def get(self, path: str) -> AsyncIterator[bytes]:
        """Pack a file or a directory of the container as a tar: its bytes, as they are made.

        Raises:
            NotFoundError: The container has ended.
            OSError: It is not there.
        """
        return get(self.root(), path, self._users)

    async def write_file(
        self, path: str, data: bytes, *, mode: int = 0o644, user: str | None = None
    ) -> None:
        """Write a file of the container, as a whole or not at all; directories are made.

        Args:
            path: In the container.
            data: What is in it.
            mode: Its permissions.
            user: Whose it is, as image configs write it; None is whom jobs run as.

        Raises:
            NotFoundError: The container has ended.
            OSError: The container's file system refuses.
        """
        whose = self.find_user(self._settings.user if user is None else user)
        owner = outside(self._users, whose.uid), outside(self._users, whose.gid)
        with self.root() as root:
            await to_end(lambda: write_file(root, path, data, mode, owner))

    async def read_file(self, path: str, *, limit: int = OUTPUT_LIMIT) -> bytes:
        """Read a file of the container.

        Raises:
            InvalidReferenceError: It is no regular file, or larger than the limit, in bytes.
            NotFoundError: The container has ended.
            OSError: It is not there.
        """
        with self.root() as root:
            return await to_end(lambda: read_file(root, path, limit))

    @property
    def is_running(self) -> bool:
        """Whether it runs still, and was not let go of; the kernel says so, and at once."""
        return not self._process.has_ended

    async def wait(self) -> int:
        """Wait until it has ended by itself, as at the end of its lifetime; its exit code."""
        try:
            return await self._client.tasks.wait(self.id)
        except NotFoundError:
            return 0

    async def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """End it, with all jobs, and remove everything that it had. Idempotent.

        The pause program ends at once on SIGTERM; one that does not is killed.

        Args:
            seconds: How long it is waited for before that.

        Raises:
            UnavailableError: containerd does not answer.
        """
        try:
            await finish(remove(self._client, self._record, seconds=seconds))
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Leave it running, and not ours: `attach` finds it again."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
            self._process.close()
            owner_path(self._folder, self._token).unlink(missing_ok=True)

    async def __aenter__(self) -> Box:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @asynccontextmanager
    async def _start_one(self) -> AsyncIterator[None]:
        async with self._starting, locked(self._folder / STARTING):
            yield


class _Output:
    """What is written, up to a limit, and whether there was more."""

    def __init__(self, stream: OutputStream | None, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self.kept = bytearray()
        self.is_cut = False

    async def collect(self) -> None:
        if self._stream is None:
            return
        async for chunk in self._stream:
            room = self._limit - len(self.kept)
            self.kept += chunk[:room]
            self.is_cut = self.is_cut or len(chunk) > room


async def _feed(job: Job, source: Input) -> None:
    assert job.stdin is not None  # noqa: S101 - it was asked for
    try:
        await job.stdin.write_all(source)
        await job.close_stdin()
    except (BrokenPipeError, NotFoundError):
        if not job.stdin.has_ended:  # without reading all of it
            raise


async def _ended(job: Job, feeding: asyncio.Task[None] | None) -> JobEnd:
    """Wait for a job; that what it reads cannot be had is an error, not its end."""
    waiting = asyncio.ensure_future(job.wait())
    try:
        if feeding is not None:
            await asyncio.wait((waiting, feeding), return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not waiting.done():
                await feeding
        return await waiting
    finally:
        waiting.cancel()
