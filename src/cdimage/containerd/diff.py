"""containerd's diff service: unpacking a layer into a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from cdimage.containerd.api import diff_pb2 as pb
from cdimage.containerd.api import diff_pb2_grpc as rpc
from cdimage.containerd.api.types_pb2 import Descriptor as DescriptorMessage
from cdimage.containerd.api.types_pb2 import Mount
from cdimage.containerd.session import Session
from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest

if TYPE_CHECKING:
    from cdimage.containerd.api.diff_pb2_grpc import DiffAsyncStub

# containerd before 2.0 does not know Docker's name for zstd; the bytes are the same.
_RENAMED: Final = {f"{MediaType.DOCKER_LAYER}.zstd": f"{MediaType.OCI_LAYER}+zstd"}


class Diff:
    """Unpacks layers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("DiffAsyncStub", rpc.DiffStub(session.channel))

    async def apply(self, layer: Descriptor, mounts: Sequence[Mount]) -> Digest:
        """Unpack a layer that is in the content store.

        Cancelled, the daemon stops, and the snapshot holds a part of the layer.

        Returns:
            The digest of the uncompressed layer, as the daemon computed it.
        """
        message = DescriptorMessage(
            media_type=_RENAMED.get(layer.media_type, layer.media_type),
            digest=str(layer.digest),
            size=layer.size,
        )
        with self._session.calling(f"unpack layer {layer.digest}"):
            reply = await self._stub.Apply(
                pb.ApplyRequest(diff=message, mounts=mounts), metadata=self._session.metadata
            )
        return Digest.parse(reply.applied.digest)
