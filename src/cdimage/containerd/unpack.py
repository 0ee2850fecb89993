"""Unpacking layers into a snapshotter, as containerd's own clients do it.

The protocol is that of containerd v2.1.0, core/unpack/unpacker.go; it works with snapshotters
that commit a layer by themselves (lazy pulling), and beside other clients that unpack the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdimage.containerd.errors import AlreadyExistsError, LeftoverError
from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import InvalidImageError, UnavailableError

if TYPE_CHECKING:
    from cdimage.containerd.api.types_pb2 import Mount
    from cdimage.containerd.client import Client

UNCOMPRESSED = "containerd.io/uncompressed"
_SNAPSHOT_REF = "containerd.io/snapshot.ref"
_INHERITED = "containerd.io/snapshot/"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A layer, and what it is called once it is unpacked.

    Attributes:
        descriptor: The layer.
        diff_id: The digest that it must have, uncompressed.
        chain_id: The name of its snapshot.
        parent: The chain ID of the layers below; "" for none.
    """

    descriptor: Descriptor
    diff_id: Digest
    chain_id: str
    parent: str


@dataclass(frozen=True, slots=True)
class Extraction:
    """A snapshot that a layer is being unpacked into."""

    layer: UnpackedLayer
    key: str
    mounts: Sequence[Mount]


class Unpacker:
    """Unpacks into one snapshotter. What it leaves unfinished goes with the client's lease."""

    def __init__(
        self, client: Client, snapshotter: str, let_go: Callable[[], Awaitable[bool]]
    ) -> None:
        """Unpack with a client that has a lease.

        Args:
            client: It.
            snapshotter: Where to.
            let_go: Lets the daemon remove what earlier, broken work has left, and says whether
                there was any.
        """
        self._client = client
        self._snapshotter = snapshotter
        self._let_go = let_go

    async def begin(self, layer: UnpackedLayer) -> Extraction | None:
        """Make room for a layer; None when it is unpacked already.

        The snapshot is held by the client's lease either way, and with it those below.

        Raises:
            NotFoundError: The layer below is not unpacked.
        """
        for _ in range(_ATTEMPTS):
            key = f"extract-{secrets.token_hex(8)} {layer.chain_id}"
            try:
                mounts = await self._client.snapshots.prepare(
                    self._snapshotter, key, layer.parent, _labels(layer)
                )
                return Extraction(layer, key, mounts)
            except LeftoverError:
                if not await self._let_go():
                    raise
            except AlreadyExistsError:
                # Whoever unpacked it may let it go. Held first, it is there or it is not.
                await self._client.leases.hold(f"snapshots/{self._snapshotter}", layer.chain_id)
                if await self._client.snapshots.exists(self._snapshotter, layer.chain_id):
                    return None
        raise UnavailableError(
            f"the snapshot {layer.chain_id} keeps appearing and disappearing: try again"
        )

    async def finish(self, extraction: Extraction) -> None:
        """Unpack the layer, which must be in the content store by now.

        Success, too, if another client unpacked it meanwhile.

        Raises:
            InvalidImageError: The layer is not the one that the config describes.
        """
        layer, key = extraction.layer, extraction.key
        applied = await self._client.diff.apply(layer.descriptor, extraction.mounts)
        if applied != layer.diff_id:
            await self._client.snapshots.remove(self._snapshotter, key)
            raise InvalidImageError(
                f"layer {layer.descriptor.digest} unpacks to {applied}, "
                f"but the config says {layer.diff_id}"
            )
        try:
            await self._client.snapshots.commit(
                self._snapshotter, layer.chain_id, key, _labels(layer)
            )
        except AlreadyExistsError:
            await self._client.snapshots.remove(self._snapshotter, key)

    async def label(self, layer: UnpackedLayer) -> None:
        """Note on the layer what it unpacks to, as containerd's own clients do."""
        await self._client.content.set_labels(
            layer.descriptor.digest, {UNCOMPRESSED: str(layer.diff_id)}
        )


def _labels(layer: UnpackedLayer) -> dict[str, str]:
    annotations = layer.descriptor.annotations
    inherited = {key: annotations[key] for key in annotations if key.startswith(_INHERITED)}
    return {**inherited, _SNAPSHOT_REF: layer.chain_id}
