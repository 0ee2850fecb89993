"""Unpacking beside others, and after crashes."""

from __future__ import annotations

import pytest
from tests.images import layer_of, tar_of
from tests.node import Node

import cdimage
from cdimage.containerd.unpack import UnpackedLayer, Unpacker
from cdimage.descriptor import Descriptor
from cdimage.digest import Digest


@pytest.fixture
def layer() -> tuple[UnpackedLayer, bytes]:
    made = layer_of(tar_of({"file": b"x"}), "none")
    descriptor = Descriptor.of(made.blob.media_type, made.blob.data)
    return UnpackedLayer(descriptor, Digest.parse(made.diff_id), made.diff_id, ""), made.blob.data


async def nothing_left() -> bool:
    return False


async def test_a_layer_that_somebody_else_unpacked_is_held_before_it_is_built_upon(
    client: cdimage.Client, node: Node, layer: tuple[UnpackedLayer, bytes]
) -> None:
    unpacked, data = layer
    theirs, ours = [await client.leases.create(600) for _ in range(2)]
    with_lease = client.leased(theirs)
    await with_lease.content.put(unpacked.descriptor, data, {})
    unpacker = Unpacker(with_lease, node.snapshotter, nothing_left)
    extraction = await unpacker.begin(unpacked)
    assert extraction is not None
    await unpacker.finish(extraction)
    assert (
        await Unpacker(client.leased(ours), node.snapshotter, nothing_left).begin(unpacked) is None
    )
    await client.leases.delete(theirs, sync=True)
    assert node.snapshots() == {unpacked.chain_id}
    await client.leases.delete(ours, sync=True)
    assert node.is_empty()
