"""containerd's namespaces service."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cdimage.containerd.api import namespaces_pb2 as pb
from cdimage.containerd.api import namespaces_pb2_grpc as rpc
from cdimage.containerd.session import Session
from cdimage.errors import NotFoundError

if TYPE_CHECKING:
    from cdimage.containerd.api.namespaces_pb2_grpc import NamespacesAsyncStub


class Namespaces:
    """Namespaces divide one daemon among its users; they appear on the first write."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("NamespacesAsyncStub", rpc.NamespacesStub(session.channel))

    async def labels(self, name: str) -> dict[str, str]:
        """The labels of a namespace; none for one that does not exist yet."""
        try:
            with self._session.calling(f"read the namespace {name!r}"):
                reply = await self._stub.Get(pb.GetNamespaceRequest(name=name))
        except NotFoundError:
            return {}
        return dict(reply.namespace.labels)

    async def names(self) -> list[str]:
        """All namespaces."""
        with self._session.calling("list the namespaces"):
            reply = await self._stub.List(pb.ListNamespacesRequest())
        return [namespace.name for namespace in reply.namespaces]
