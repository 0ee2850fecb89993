"""containerd's leases service."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from cdimage.containerd.api import leases_pb2 as pb
from cdimage.containerd.api import leases_pb2_grpc as rpc
from cdimage.containerd.session import Session
from cdimage.errors import NotFoundError

if TYPE_CHECKING:
    from cdimage.containerd.api.leases_pb2_grpc import LeasesAsyncStub

_EXPIRE: Final = "containerd.io/gc.expire"


class Leases:
    """Leases keep what was made under them from the garbage collector."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("LeasesAsyncStub", rpc.LeasesStub(session.channel))

    async def create(self, seconds: float) -> str:
        """Make a lease that ends by itself after that time; returns its id."""
        lease = f"cdimage-{secrets.token_hex(8)}"
        expire = datetime.now(UTC) + timedelta(seconds=seconds)
        labels = {_EXPIRE: expire.strftime("%Y-%m-%dT%H:%M:%SZ")}
        with self._session.calling("create a lease"):
            await self._stub.Create(
                pb.CreateRequest(id=lease, labels=labels), metadata=self._session.metadata
            )
        return lease

    async def hold(self, kind: str, name: str) -> None:
        """Have the session's lease hold something; that it is there is not checked.

        Args:
            kind: ``content``, ``ingests`` or ``snapshots/<snapshotter>``.
            name: A digest, what names an unfinished blob, or a snapshot's name.
        """
        request = pb.AddResourceRequest(
            id=self._session.lease, resource=pb.Resource(id=name, type=kind)
        )
        with self._session.calling(f"hold {name}"):
            await self._stub.AddResource(request, metadata=self._session.metadata)

    async def delete(self, lease: str, *, sync: bool = False) -> None:
        """End a lease; one that is gone is success.

        Args:
            lease: Its id.
            sync: Return only when the garbage collector has taken what only it held.
        """
        try:
            with self._session.calling("delete a lease"):
                await self._stub.Delete(
                    pb.DeleteRequest(id=lease, sync=sync), metadata=self._session.metadata
                )
        except NotFoundError:
            return
