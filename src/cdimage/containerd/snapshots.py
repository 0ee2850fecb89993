"""containerd's snapshots service: unpacked layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from cdimage.containerd.api import snapshots_pb2 as pb
from cdimage.containerd.api import snapshots_pb2_grpc as rpc
from cdimage.containerd.api.types_pb2 import Mount
from cdimage.containerd.session import Session
from cdimage.errors import NotFoundError

if TYPE_CHECKING:
    from cdimage.containerd.api.snapshots_pb2_grpc import SnapshotsAsyncStub


class Snapshots:
    """The snapshots of a namespace; each call names the snapshotter.

    A snapshot is active, and has a ``key``, until it is committed, and has a ``name``.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("SnapshotsAsyncStub", rpc.SnapshotsStub(session.channel))

    async def prepare(
        self, snapshotter: str, key: str, parent: str, labels: Mapping[str, str]
    ) -> Sequence[Mount]:
        """Make an active snapshot on top of a committed one ("" for none).

        Returns:
            Where it is: to be handed to `Diff.apply` as it is.

        Raises:
            AlreadyExistsError: The key, or the snapshot that the labels announce, is there.
            NotFoundError: The parent is not there.
        """
        with self._session.calling("prepare a snapshot"):
            reply = await self._stub.Prepare(
                pb.PrepareSnapshotRequest(
                    snapshotter=snapshotter, key=key, parent=parent, labels=dict(labels)
                ),
                metadata=self._session.metadata,
            )
        return reply.mounts

    async def commit(
        self, snapshotter: str, name: str, key: str, labels: Mapping[str, str]
    ) -> None:
        """Turn an active snapshot into a committed one.

        Raises:
            AlreadyExistsError: There is one of that name.
        """
        with self._session.calling("commit a snapshot"):
            await self._stub.Commit(
                pb.CommitSnapshotRequest(
                    snapshotter=snapshotter, name=name, key=key, labels=dict(labels)
                ),
                metadata=self._session.metadata,
            )

    async def remove(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot; one that is not there is success."""
        try:
            with self._session.calling("remove a snapshot"):
                await self._stub.Remove(
                    pb.RemoveSnapshotRequest(snapshotter=snapshotter, key=key),
                    metadata=self._session.metadata,
                )
        except NotFoundError:
            return

    async def exists(self, snapshotter: str, name: str) -> bool:
        """Whether there is a committed snapshot of that name."""
        try:
            with self._session.calling("look for a snapshot"):
                reply = await self._stub.Stat(
                    pb.StatSnapshotRequest(snapshotter=snapshotter, key=name),
                    metadata=self._session.metadata,
                )
        except NotFoundError:
            return False
        return reply.info.kind == pb.COMMITTED
