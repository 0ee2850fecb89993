"""A job: a process that is exec'd into a container, with all that it starts."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from cdimage.containerd.client import Client
from cdimage.containerd.errors import AlreadyExistsError
from cdimage.containerd.tasks import Process, Status, Streams
from cdimage.errors import BackendError, CdimageError, NotFoundError, UnavailableError
from cdimage.retry import Retry, persistently
from cdimage.threads import finish
from cdimage.warm.cgroup import Cgroup
from cdimage.warm.streams import InputStream, OutputStream

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_KILLED: Final = 128 + signal.SIGKILL

# A daemon that was restarted is waited for: jobs go on without it.
_PATIENCE: Final = Retry(attempts=40, first_seconds=0.05, longest_seconds=1.0)
_CLEANING_SECONDS: Final = 30.0
_START_SECONDS: Final = 60.0
OUTPUT_SECONDS: Final = 5.0
"""How long the output of a job that has ended is read, if somebody else holds it open."""


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where jobs run: a container, seen by one of its users.

    Attributes:
        client: The daemon.
        container: The container's id.
        folder: For the jobs' FIFOs.
        cgroup: The container's.
        starting: Held while a job starts, by one job of the container at a time.
    """

    client: Client
    container: str
    folder: Path
    cgroup: Cgroup
    starting: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended.

    Attributes:
        exit_code: Of its first process; 128 + N after the signal N, 127 when its program is not
            there, 126 when it cannot be executed.
        message: Why it could not be started; "" when it was.
        started_at: When.
        seconds: How long it ran.
        out_of_memory: Whether it was killed while the kernel killed for want of memory in its
            container: with jobs beside it, it may have been another's.
    """

    exit_code: int
    message: str
    started_at: datetime
    seconds: float
    out_of_memory: bool


class Job:
    """A job that runs. Made by `Box.spawn`, as an asynchronous context manager.

    When the block ends, and when it is cancelled, the job is killed with all that it started, and
    nothing of it is left: no process, FIFO, file descriptor or record. When this process is
    killed, that is done by the next `attach`, `reap` or `stop`.

    Attributes:
        stdin: None when it was given nothing to read.
        stdout: What it writes; of a job with a terminal, everything.
        stderr: None with a terminal.
    """

    def __init__(
        self, place: JobPlace, job_id: str, process: dict[str, Any], *, stdin: bool
    ) -> None:
        self.id = job_id
        self._place = place
        self._tasks = place.client.tasks
        self._process = process
        self._is_terminal: bool = process["terminal"]
        self._folder = place.folder / job_id
        self._cgroup = place.cgroup.job(job_id)
        self._end: asyncio.Task[JobEnd] | None = None
        self._was_killed = False
        self._folder.mkdir(mode=0o700)
        self.stdin = InputStream.fifo(self._folder / "stdin") if stdin else None
        self.stdout = OutputStream.fifo(self._folder / "stdout")
        self.stderr = None if self._is_terminal else OutputStream.fifo(self._folder / "stderr")

    async def wait(self) -> JobEnd:
        """Wait until its first process has ended, and what that left behind was killed.

        Raises:
            NotFoundError: The container has ended.
            UnavailableError: containerd does not answer, for longer than a restart takes.
        """
        if self._end is None:
            raise BackendError("the job was not started")
        return await asyncio.shield(self._end)

    async def signal(self, number: int) -> None:
        """Send a signal to its first process; one that has ended is success."""
        await self._tasks.kill(self._place.container, number, self.id)

    async def kill(self) -> None:
        """End it, with all that it started."""
        self._was_killed = True
        await self._cgroup.kill()

    async def resize(self, columns: int, rows: int) -> None:
        """Tell its terminal its size, in characters."""
        await self._tasks.resize(self._place.container, self.id, columns, rows)

    async def close_stdin(self) -> None:
        """Let it see the end of what it reads."""
        if self.stdin is not None:
            self.stdin.close()
            await persistently(
                _PATIENCE, lambda: self._tasks.close_stdin(self._place.container, self.id)
            )

    async def __aenter__(self) -> Job:
        try:
            await self._start()
        except BaseException:
            await finish(self._close())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await finish(self._close())

    async def _start(self) -> None:
        streams = Streams(
            stdin=str(self._folder / "stdin") if self.stdin else "",
            stdout=str(self._folder / "stdout"),
            stderr="" if self._is_terminal else str(self._folder / "stderr"),
            is_terminal=self._is_terminal,
        )
        await finish(persistently(_PATIENCE, lambda: self._announce(streams)))
        async with self._place.starting():  # cancelled while it waits, nothing of it has run
            await finish(self._run())

    async def _run(self) -> None:
        started_at = datetime.now(UTC)
        kills = self._place.cgroup.memory_kills()
        try:
            pid = await self._begin()
        except CdimageError as error:
            end = await self._failed(error, started_at)
            self._end = asyncio.ensure_future(_return(end))
            self.stdout.close()
            if self.stderr is not None:
                self.stderr.close()
            return
        try:
            await self._cgroup.adopt(pid)
        finally:  # whoever watches it may remove its group
            self._end = asyncio.create_task(self._watch(started_at, kills))

    async def _announce(self, streams: Streams) -> None:
        with suppress(AlreadyExistsError):  # the answer did not arrive
            await self._tasks.exec(self._place.container, self.id, self._process, streams)

    async def _begin(self) -> int:
        """Have it run; its PID. When the daemon dies meanwhile, the next one is asked for it.

        The daemon's end may have killed runc when the job ran already, and nobody knows its PID.
        A shim that does not answer is given up after a while: others wait for their turn.
        """
        before = self._place.cgroup.processes()
        try:
            async with asyncio.timeout(_START_SECONDS):
                return await self._tasks.start(self._place.container, self.id)
        except (UnavailableError, TimeoutError):
            with suppress(UnavailableError, TimeoutError):
                async with asyncio.timeout(_CLEANING_SECONDS):
                    process = await self._look()
                if process is not None and process.status is not Status.CREATED:
                    return process.pid
            await self._cgroup.adopt_since(before)
            await self._cgroup.kill()
            raise UnavailableError(
                "containerd ended, or did not answer, while it started a job, and what had begun "
                "of the job was killed: run it again, if it may run twice"
            ) from None

    async def _look(self) -> Process | None:
        return await persistently(
            _PATIENCE, lambda: self._tasks.get(self._place.container, self.id)
        )

    async def _watch(self, started_at: datetime, kills: int) -> JobEnd:
        tasks, container = self._tasks, self._place.container
        begin = asyncio.get_running_loop().time()
        try:
            code = await persistently(_PATIENCE, lambda: tasks.wait(container, self.id))
        except NotFoundError:
            # Its record goes with the container's.
            raise NotFoundError(f"the container {container} ended while the job ran") from None
        seconds = asyncio.get_running_loop().time() - begin
        out_of_memory = (
            code == _KILLED and not self._was_killed and self._place.cgroup.memory_kills() > kills
        )
        # Daemons that it left behind hold its output open.
        await self._cgroup.kill()
        if self.stdin is not None:
            self.stdin.end()
        return JobEnd(code, "", started_at, seconds, out_of_memory)

    async def _failed(self, error: CdimageError, started_at: datetime) -> JobEnd:
        """What runc's words say of a program that could not be started."""
        process = await self._tasks.get(self._place.container)
        if process is None or process.status is not Status.RUNNING:
            raise NotFoundError(f"the container {self._place.container} has ended") from None
        words = str(error)
        for code, reason in _REASONS:
            if reason in words:
                program = self._process["args"][0]
                what = f"{program!r}: {reason.removesuffix(': unknown')}"
                return JobEnd(code, what, started_at, 0.0, out_of_memory=False)
        if _NO_ROOM in words:
            raise UnavailableError(
                f"the container {self._place.container} has no room to start a job: what runs in "
                "it has used up its limit of processes or of memory"
            ) from None
        raise error

    async def _close(self) -> None:
        """Leave nothing of it."""
        try:
            async with asyncio.timeout(_CLEANING_SECONDS):
                await self._clean()
        except TimeoutError:
            raise UnavailableError(
                f"the job {self.id} cannot be removed: its container does not answer"
            ) from None
        finally:
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    stream.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _clean(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
        if self._end is not None:
            if not self._end.done():
                self._was_killed = True
                with suppress(CdimageError):
                    await self._tasks.kill(self._place.container, signal.SIGKILL, self.id)
                await self._cgroup.kill()
            with suppress(CdimageError):
                await self._end
                # Somebody who is not of the job may hold its output open.
                with suppress(TimeoutError):
                    async with asyncio.timeout(OUTPUT_SECONDS):
                        await asyncio.gather(
                            *(it.drain() for it in (self.stdout, self.stderr) if it is not None)
                        )
        elif (process := await self._look()) and process.status is not Status.CREATED:
            with suppress(CdimageError):
                await self._tasks.kill(self._place.container, signal.SIGKILL, self.id)
                await self._tasks.wait(self._place.container, self.id)
        with suppress(NotFoundError):
            await persistently(
                _PATIENCE, lambda: self._tasks.delete_process(self._place.container, self.id)
            )


_NO_ROOM: Final = "read init-p: connection reset"  # runc's process in the container died
_REASONS: Final = (
    (NOT_FOUND, "executable file not found in $PATH"),
    (NOT_FOUND, "no such file or directory"),
    (NOT_EXECUTABLE, "permission denied"),
    (NOT_EXECUTABLE, "exec format error"),
    (NOT_EXECUTABLE, "is a directory"),
    (NOT_EXECUTABLE, "not a directory"),
)


async def _return(end: JobEnd) -> JobEnd:
    return end
