"""containerd's containers service: records of what can be run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf.any_pb2 import Any as AnyMessage

from cdimage.containerd.api import containers_pb2 as pb
from cdimage.containerd.api import containers_pb2_grpc as rpc
from cdimage.containerd.api.runc_pb2 import Options
from cdimage.containerd.session import Session
from cdimage.errors import BackendError, NotFoundError

if TYPE_CHECKING:
    from cdimage.containerd.api.containers_pb2_grpc import ContainersAsyncStub

RUNC: Final = "io.containerd.runc.v2"
_SPEC: Final = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs a container.

    Attributes:
        name: Of the shim (containerd v2.1.0, docs/runtime-v2.md).
        binary: The program that a runc shim calls in runc's place; "" for runc.
        root: Where that program keeps its state; "" for the shim's default.
        systemd_cgroup: Have systemd make the control groups.
    """

    name: str = RUNC
    binary: str = ""
    root: str = ""
    systemd_cgroup: bool = False

    def options(self) -> AnyMessage | None:
        """The options as the runc shim reads them; None leaves them to it."""
        if not (self.binary or self.root or self.systemd_cgroup):
            return None
        options = Options(
            binary_name=self.binary, root=self.root, systemd_cgroup=self.systemd_cgroup
        )
        # containerd compares the bare name (typeurl v2).
        return AnyMessage(type_url=Options.DESCRIPTOR.full_name, value=options.SerializeToString())


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """What containerd knows of a container, whether it runs or not.

    Attributes:
        id: Its name in the namespace.
        image: The name of the image record that it was made from.
        spec: How it is run (OCI runtime-spec v1.1, config.md).
        snapshotter: What its root file system is kept in.
        snapshot_key: The active snapshot that is its root file system, and is held by the record.
        labels: Free.
        runtime: What runs it.
        created_at: When the record was made; None before it is.
    """

    id: str
    image: str
    spec: Mapping[str, Any]
    snapshotter: str
    snapshot_key: str
    labels: Mapping[str, str]
    runtime: Runtime = field(default_factory=Runtime)
    created_at: datetime | None = None


class Containers:
    """The container records of a namespace."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("ContainersAsyncStub", rpc.ContainersStub(session.channel))

    async def create(self, record: ContainerRecord) -> None:
        """Make a record. Nothing runs yet.

        Raises:
            AlreadyExistsError: There is one of that id.
        """
        options = record.runtime.options()
        message = pb.Container(
            id=record.id,
            labels=dict(record.labels),
            image=record.image,
            runtime=pb.Container.Runtime(name=record.runtime.name, options=options),
            spec=AnyMessage(type_url=_SPEC, value=json.dumps(record.spec).encode()),
            snapshotter=record.snapshotter,
            snapshot_key=record.snapshot_key,
        )
        with self._session.calling(f"create the container {record.id}"):
            await self._stub.Create(
                pb.CreateContainerRequest(container=message), metadata=self._session.metadata
            )

    async def get(self, container: str) -> ContainerRecord | None:
        """The record of that id; None when there is none."""
        try:
            with self._session.calling(f"read the container {container!r}"):
                reply = await self._stub.Get(
                    pb.GetContainerRequest(id=container), metadata=self._session.metadata
                )
        except NotFoundError:
            return None
        return _record(reply.container)

    async def list(self, *filters: str) -> list[ContainerRecord]:
        """The records that match any of the filters (containerd v2.1.0, pkg/filters)."""
        with self._session.calling("list the containers"):
            reply = await self._stub.List(
                pb.ListContainersRequest(filters=filters), metadata=self._session.metadata
            )
        return [_record(container) for container in reply.containers]

    async def delete(self, container: str) -> None:
        """Delete a record; one that is not there is success."""
        try:
            with self._session.calling(f"delete the container {container!r}"):
                await self._stub.Delete(
                    pb.DeleteContainerRequest(id=container), metadata=self._session.metadata
                )
        except NotFoundError:
            return


def _record(message: pb.Container) -> ContainerRecord:
    try:
        spec = json.loads(message.spec.value or b"{}")
    except ValueError:
        raise BackendError(
            f"the record of the container {message.id} has no spec in JSON"
        ) from None
    options = Options()
    if message.runtime.options.type_url == Options.DESCRIPTOR.full_name:
        options.ParseFromString(message.runtime.options.value)
    return ContainerRecord(
        id=message.id,
        image=message.image,
        spec=spec,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        labels=dict(message.labels),
        runtime=Runtime(
            message.runtime.name, options.binary_name, options.root, options.systemd_cgroup
        ),
        created_at=message.created_at.ToDatetime(UTC),
    )
