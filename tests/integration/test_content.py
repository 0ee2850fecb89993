"""containerd's content store, written to and continued."""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.node import Node

import cdimage
from cdimage.containerd.content import Content
from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import (
    DigestMismatchError,
    InvalidImageError,
    NotFoundError,
    UnavailableError,
)

SIZE = 3_000_000


@pytest.fixture
def data() -> bytes:
    """Bytes that no other test has: namespaces share blobs until they are collected."""
    return os.urandom(SIZE)


@pytest.fixture
def layer(data: bytes) -> Descriptor:
    return Descriptor.of(f"{MediaType.OCI_LAYER}+gzip", data)


@pytest.fixture
async def content(client: cdimage.Client) -> Content:
    """Held by a lease: what nothing refers to may be collected at any time."""
    return client.leased(await client.leases.create(600)).content


async def write(content: Content, layer: Descriptor, data: bytes) -> None:
    async with content.writer(layer) as writer:
        assert writer is not None
        for start in range(writer.offset, len(data), 100_000):
            await writer.write(data[start : start + 100_000])
        await writer.commit({"a.example/b": "c"})


async def read(content: Content, layer: Descriptor, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in content.read(layer.digest, offset)])


async def test_what_is_committed_can_be_read_from_any_offset(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    await write(content, layer, data)
    info = await content.info(layer.digest)
    assert info is not None
    assert (info.size, dict(info.labels)) == (len(data), {"a.example/b": "c"})
    assert await read(content, layer) == data
    assert await read(content, layer, 2_999_999) == data[2_999_999:]
    assert await content.exists(layer)


async def test_a_blob_that_is_there_needs_no_writer(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    await write(content, layer, data)
    async with content.writer(layer) as writer:
        assert writer is None


async def test_what_a_writer_left_is_continued(
    content: Content, layer: Descriptor, data: bytes, node: Node
) -> None:
    async with content.writer(layer) as writer:
        assert writer is not None
        await writer.write(data[:2_000_000])
    assert node.blobs() == set()
    assert node.ingests() == {f"layer-{layer.digest}"}
    async with content.writer(layer) as writer:
        assert writer is not None
        assert 0 < writer.offset <= 2_000_000
        await writer.write(data[writer.offset :])
        await writer.commit()
    assert await read(content, layer) == data


async def test_other_bytes_are_refused_and_thrown_away(
    content: Content, layer: Descriptor, data: bytes, node: Node
) -> None:
    wrong = bytes(len(data))
    with pytest.raises(DigestMismatchError) as caught:
        await write(content, layer, wrong)
    assert caught.value.expected == str(layer.digest)
    assert caught.value.actual == str(Digest.of(wrong))
    assert node.ingests() == node.blobs() == set()


async def test_too_few_bytes_are_refused_and_thrown_away(
    content: Content, layer: Descriptor, data: bytes, node: Node
) -> None:
    with pytest.raises(DigestMismatchError, match="2999999 bytes instead of the 3000000"):
        await write(content, layer, data[:-1])
    assert node.ingests() == node.blobs() == set()


async def test_too_many_bytes_are_refused_before_they_are_sent(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    with pytest.raises(DigestMismatchError, match="more than the 3000000 bytes"):
        await write(content, layer, data + b"x")


async def test_wrong_bytes_of_somebody_else_can_be_thrown_away(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    async with content.writer(layer) as writer:
        assert writer is not None
        await writer.write(bytes(1_000_000))
    async with content.writer(layer) as writer:
        assert writer is not None
        assert writer.offset > 0
        await writer.restart()
        assert writer.offset == 0
        await writer.write(data)
        await writer.commit()
    assert await read(content, layer) == data


async def test_a_second_writer_waits_and_finds_the_blob(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    async with content.writer(layer) as first:
        assert first is not None
        second = asyncio.create_task(_open(content, layer))
        await first.write(data)
        await asyncio.sleep(0)
        assert not second.done()
        await first.commit()
    assert await second is None


async def test_a_second_writer_takes_over_what_the_first_left(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    async with content.writer(layer) as first:
        assert first is not None
        second = asyncio.create_task(_open(content, layer))
        await first.write(data[:1_500_000])
    offset = await second
    assert offset is not None
    assert offset > 0


async def _open(content: Content, layer: Descriptor) -> int | None:
    async with content.writer(layer) as writer:
        return None if writer is None else writer.offset


async def test_a_waiting_writer_can_be_cancelled(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    async with content.writer(layer) as first:
        assert first is not None
        second = asyncio.create_task(_open(content, layer))
        await asyncio.sleep(0.05)  # it waits for the lock by now, or is about to
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first.write(data)
        await first.commit()
    assert await read(content, layer) == data


async def test_labels_are_set_on_what_was_there_before(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    small = Descriptor.of(MediaType.OCI_CONFIG, b"{}")
    await content.put(small, b"{}", {"one.example/a": "1"})
    await content.put(small, b"{}", {"two.example/b": "2"})
    info = await content.info(small.digest)
    assert info is not None
    assert dict(info.labels) == {"one.example/a": "1", "two.example/b": "2"}


async def test_a_blob_of_another_namespace_is_not_sent_again(
    content: Content, layer: Descriptor, data: bytes, node: Node
) -> None:
    await write(content, layer, data)
    other = Node(node.containerd, f"{node.namespace}-other")
    try:
        async with cdimage.connect(other.address, other.namespace) as client:
            assert not await client.content.exists(layer)
            held = client.leased(await client.leases.create(600)).content
            async with held.writer(layer) as writer:
                assert writer is not None
                assert writer.offset == len(data)
                await writer.commit()
            assert await client.content.exists(layer)
    finally:
        other.clear()


async def test_those_that_are_here_are_found_in_one_call(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    await write(content, layer, data)
    absent = Digest.of(b"absent")
    assert set(await content.present([layer.digest, absent, layer.digest])) == {layer.digest}
    assert await content.present([]) == {}
    assert await content.info(absent) is None


async def test_what_is_not_there_cannot_be_read(
    content: Content, layer: Descriptor, data: bytes
) -> None:
    with pytest.raises(NotFoundError):
        await read(content, layer)


async def test_a_sha512_cannot_be_stored(content: Content, layer: Descriptor, data: bytes) -> None:
    named = Descriptor(layer.media_type, Digest.of(data, "sha512"), len(data))
    with pytest.raises(InvalidImageError, match="sha256 only"):
        content.writer(named)


async def write_as_another(client: cdimage.Client, layer: Descriptor, data: bytes) -> str:
    """Write a blob by a name that does not share our lock; the lease that holds it."""
    lease = await client.leases.create(600)
    named = Descriptor(MediaType.OCI_CONFIG, layer.digest, layer.size)
    await write(client.leased(lease).content, named, data)
    return lease


async def test_a_blob_that_somebody_else_commits_meanwhile_is_success_and_held(
    client: cdimage.Client, content: Content
) -> None:
    data = os.urandom(3 * SIZE)
    layer = Descriptor.of(MediaType.OCI_LAYER, data)
    async with content.writer(layer) as writer:
        assert writer is not None
        for start in range(0, len(data), SIZE // 3):
            if start == SIZE:
                theirs = await write_as_another(client, layer, data)
            await writer.write(data[start : start + SIZE // 3])
        await writer.commit({"a.example/c": "d"})
    await client.leases.delete(theirs, sync=True)
    info = await content.info(layer.digest)
    assert info is not None
    assert dict(info.labels) == {"a.example/b": "c", "a.example/c": "d"}


async def test_a_blob_of_somebody_elses_that_is_collected_before_it_is_held_is_no_success(
    client: cdimage.Client,
    content: Content,
    layer: Descriptor,
    data: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with content.writer(layer) as writer:
        assert writer is not None
        theirs = await write_as_another(client, layer, data)
        leave = writer.leave

        async def collected() -> None:
            await leave()
            await client.leases.delete(theirs, sync=True)

        monkeypatch.setattr(writer, "leave", collected)
        await writer.write(data)
        with pytest.raises(UnavailableError, match="collected at once: try again"):
            await writer.commit({"a.example/b": "c"})
        monkeypatch.undo()
    await write(content, layer, data)
    assert await read(content, layer) == data
