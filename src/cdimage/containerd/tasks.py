"""containerd's tasks service: containers that run, and what is exec'd into them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf.any_pb2 import Any as AnyMessage

from cdimage.containerd.api import task_types_pb2, tasks_pb2
from cdimage.containerd.api import tasks_pb2 as pb
from cdimage.containerd.api import tasks_pb2_grpc as rpc
from cdimage.containerd.api.types_pb2 import Mount
from cdimage.containerd.session import Session
from cdimage.errors import NotFoundError

if TYPE_CHECKING:
    from cdimage.containerd.api.tasks_pb2_grpc import TasksAsyncStub

_PROCESS: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"


class Status(Enum):
    """What a process does."""

    UNKNOWN = task_types_pb2.UNKNOWN
    CREATED = task_types_pb2.CREATED
    RUNNING = task_types_pb2.RUNNING
    STOPPED = task_types_pb2.STOPPED
    PAUSED = task_types_pb2.PAUSED
    PAUSING = task_types_pb2.PAUSING


@dataclass(frozen=True, slots=True)
class Process:
    """The first process of a container.

    Attributes:
        container: The container's id.
        pid: As the host counts.
        status: What it does.
    """

    container: str
    pid: int
    status: Status


@dataclass(frozen=True, slots=True)
class Streams:
    """Paths of the FIFOs that the shim opens; "" for none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    is_terminal: bool = False


class Tasks:
    """The tasks of a namespace: one a container, and processes that are exec'd into it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("TasksAsyncStub", rpc.TasksStub(session.channel))

    async def create(
        self, container: str, rootfs: Sequence[Mount], options: AnyMessage | None
    ) -> int:
        """Start a container's shim and make its first process, which does not run yet.

        Returns:
            The process's PID, as the host counts.

        Raises:
            AlreadyExistsError: It has a task.
        """
        request = pb.CreateTaskRequest(container_id=container, rootfs=rootfs, options=options)
        with self._session.calling(f"create the task of {container}"):
            reply = await self._stub.Create(request, metadata=self._session.metadata)
        return reply.pid

    async def exec(
        self, container: str, exec_id: str, process: Mapping[str, Any], streams: Streams
    ) -> None:
        """Announce a process; it does not run yet.

        Args:
            container: Where.
            exec_id: Its name, among those of the container.
            process: What it is (OCI runtime-spec v1.1, config.md, Process).
            streams: Its standard streams.
        """
        request = pb.ExecProcessRequest(
            container_id=container,
            exec_id=exec_id,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            terminal=streams.is_terminal,
            spec=AnyMessage(type_url=_PROCESS, value=json.dumps(process).encode()),
        )
        with self._session.calling(f"exec into {container}"):
            await self._stub.Exec(request, metadata=self._session.metadata)

    async def start(self, container: str, exec_id: str = "") -> int:
        """Have a process run; returns its PID, as the host counts."""
        request = pb.StartRequest(container_id=container, exec_id=exec_id)
        with self._session.calling(f"start {exec_id or container}"):
            reply = await self._stub.Start(request, metadata=self._session.metadata)
        return reply.pid

    async def wait(self, container: str, exec_id: str = "") -> int:
        """Wait until a process has ended; returns its exit status, 128 + N after the signal N."""
        request = pb.WaitRequest(container_id=container, exec_id=exec_id)
        with self._session.calling(f"wait for {exec_id or container}"):
            reply = await self._stub.Wait(request, metadata=self._session.metadata)
        return reply.exit_status

    async def kill(self, container: str, signal: int, exec_id: str = "") -> None:
        """Send a signal to a process; one that has ended is success."""
        request = pb.KillRequest(container_id=container, exec_id=exec_id, signal=signal)
        try:
            with self._session.calling(f"send a signal to {exec_id or container}"):
                await self._stub.Kill(request, metadata=self._session.metadata)
        except NotFoundError:
            return

    async def get(self, container: str, exec_id: str = "") -> Process | None:
        """The first process of a container, or another; None where there is none."""
        request = pb.GetRequest(container_id=container, exec_id=exec_id)
        try:
            with self._session.calling(f"look at {exec_id or container}"):
                reply = await self._stub.Get(request, metadata=self._session.metadata)
        except NotFoundError:
            return None
        return _process(reply.process)

    async def list(self) -> list[Process]:
        """The first processes of all containers of the namespace that have tasks."""
        with self._session.calling("list the tasks"):
            reply = await self._stub.List(
                tasks_pb2.ListTasksRequest(), metadata=self._session.metadata
            )
        return [_process(task) for task in reply.tasks]

    async def delete(self, container: str) -> None:
        """Delete the task of a container that has ended, with its shim; none is success.

        Raises:
            FailedPreconditionError: It runs.
        """
        request = pb.DeleteTaskRequest(container_id=container)
        try:
            with self._session.calling(f"delete the task of {container}"):
                await self._stub.Delete(request, metadata=self._session.metadata)
        except NotFoundError:
            return

    async def delete_process(self, container: str, exec_id: str) -> None:
        """Forget a process that has ended, or never began; none is success.

        Raises:
            FailedPreconditionError: It runs.
        """
        request = pb.DeleteProcessRequest(container_id=container, exec_id=exec_id)
        try:
            with self._session.calling(f"delete {exec_id}"):
                await self._stub.DeleteProcess(request, metadata=self._session.metadata)
        except NotFoundError:
            return

    async def resize(self, container: str, exec_id: str, columns: int, rows: int) -> None:
        """Tell a process's terminal its size, in characters."""
        request = pb.ResizePtyRequest(
            container_id=container, exec_id=exec_id, width=columns, height=rows
        )
        with self._session.calling(f"resize the terminal of {exec_id}"):
            await self._stub.ResizePty(request, metadata=self._session.metadata)

    async def close_stdin(self, container: str, exec_id: str) -> None:
        """Have the shim let go of a process's standard input; one that has ended is success."""
        request = pb.CloseIORequest(container_id=container, exec_id=exec_id, stdin=True)
        try:
            with self._session.calling(f"close the standard input of {exec_id}"):
                await self._stub.CloseIO(request, metadata=self._session.metadata)
        except NotFoundError:
            return


def _process(message: task_types_pb2.Process) -> Process:
    """The task list names the container ``id``, other calls ``container_id``."""
    container = message.container_id or message.id
    return Process(container, message.pid, Status(message.status))
