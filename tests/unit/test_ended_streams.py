"""A daemon that ends a write in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

import cdimage
from cdimage.containerd.api import content_pb2 as pb
from cdimage.containerd.writer import ContentWriter
from cdimage.descriptor import Descriptor, MediaType

MESSAGE = 3 << 20
"""More than a stream takes before the other side reads: the next message is still on its way."""


async def fill_the_disk(
    requests: AsyncIterator[pb.WriteContentRequest],
    context: grpc.aio.ServicerContext[pb.WriteContentRequest, pb.WriteContentResponse],
) -> AsyncIterator[pb.WriteContentResponse]:
    """Answer the first question and two messages, and have no room for what comes then."""
    for _ in range(3):
        request = await anext(requests)
        offset = request.offset + len(request.data)
        yield pb.WriteContentResponse(action=request.action, offset=offset)
    await context.abort(grpc.StatusCode.UNKNOWN, "write x: no space left on device")


async def write_messages(writer: ContentWriter, data: bytes) -> None:
    for start in range(0, len(data), MESSAGE):
        await writer.write(data[start : start + MESSAGE])
    await writer.commit()


async def test_its_reason_is_told_although_messages_and_answers_are_under_way(
    tmp_path: Path,
) -> None:
    method = grpc.stream_stream_rpc_method_handler(
        fill_the_disk,
        request_deserializer=pb.WriteContentRequest.FromString,
        response_serializer=pb.WriteContentResponse.SerializeToString,
    )
    service = "containerd.services.content.v1.Content"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Write": method}),)
    )
    address = f"{tmp_path}/s"
    server.add_insecure_port(f"unix:{address}")
    data = bytes(5 * MESSAGE)
    layer = Descriptor.of(MediaType.OCI_LAYER, data)
    await server.start()
    try:
        async with cdimage.connect(address, "x") as client, client.content.writer(layer) as writer:
            assert writer is not None
            with pytest.raises(cdimage.UnavailableError, match="its disk is full; free some"):
                await write_messages(writer, data)
    finally:
        await server.stop(None)
