"""An unfinished blob in containerd: written, continued, committed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Final

import grpc.aio

from cdimage.containerd.api import content_pb2 as pb
from cdimage.containerd.errors import NOT_SENT, AlreadyExistsError, FailedPreconditionError
from cdimage.containerd.session import Session
from cdimage.descriptor import Descriptor, MediaType
from cdimage.errors import BackendError, DigestMismatchError, UnavailableError
from cdimage.verify import check_size, size_mismatch

if TYPE_CHECKING:
    from cdimage.containerd.content import Content

    WriteCall = grpc.aio.StreamStreamCall[pb.WriteContentRequest, pb.WriteContentResponse]

_MESSAGE: Final = 512 << 10
_IN_FLIGHT: Final = 4
_LEAVE_SECONDS: Final = 0.5
_STATUS_SECONDS: Final = 1.0
BROKEN: Final = (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError)
"""What a stream raises, one or the other, when it is over."""
_ACTUAL: Final = re.compile(r"unexpected commit digest (\w+:\w+)")


class ContentWriter:
    """An unfinished blob of containerd's; a `cdimage.store.Writer`.

    The daemon hashes what it is sent, and compares on commit; the size is checked here.
    A few messages are under way at a time, so that a round trip does not cost each of them.
    """

    def __init__(self, content: Content, session: Session, descriptor: Descriptor) -> None:
        self._content = content
        self._session = session
        self._descriptor = descriptor
        self._call: WriteCall | None = None
        self._sent = 0
        self._unsent: list[bytes] = []
        self._unanswered = 0
        self._offset = 0

    @property
    def offset(self) -> int:
        """How many bytes were taken, by whichever client."""
        return self._offset

    async def open(self) -> None:
        """Take the lock and learn how much is there.

        Raises:
            AlreadyExistsError: All of it is, committed.
        """
        first = self._message(pb.STAT)
        self._call, reply = await self._content.open_write(self._descriptor, first)
        self._sent = self._offset = reply.offset
        self._unsent, self._unanswered = [], 0

    async def write(self, data: bytes) -> None:
        """Append bytes; cancelled, those not yet sent are lost.

        Raises:
            DigestMismatchError: These are more bytes than the descriptor's size.
        """
        check_size(self._descriptor, self._offset + len(data))
        self._unsent.append(data)
        self._offset += len(data)
        if self._offset - self._sent >= _MESSAGE:
            with self._writing():
                await self._flush(pb.WRITE)

    async def restart(self) -> None:
        """Throw away what is there and begin at offset 0."""
        await self._discard()
        await self.open()

    async def commit(self, labels: Mapping[str, str] | None = None) -> None:
        """Make the blob visible, atomically; success, too, if somebody else did meanwhile.

        Raises:
            DigestMismatchError: The bytes are others; they are thrown away.
            UnavailableError: Somebody else's blob, which came meanwhile, was collected at once.
        """
        if self._offset != self._descriptor.size:
            await self._discard()
            raise size_mismatch(self._descriptor, self._offset)
        try:
            with self._writing():
                await self._flush(pb.COMMIT, labels)
        except AlreadyExistsError:
            await self._hold(labels)
        except FailedPreconditionError as error:
            await self._discard()
            raise self._mismatch(error) from None

    async def leave(self) -> None:
        """Release the lock; what was sent and not committed stays.

        Waits for the daemon to have taken what is under way, but not for long: cut off, it
        would throw that away.
        """
        call, self._call = self._call, None
        if call is None:
            return
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await call.done_writing()
                async for _ in call:
                    pass
        except (*BROKEN, TimeoutError):
            pass  # it ended by itself, or is stuck; either way there is nothing to keep
        finally:
            call.cancel()

    async def _flush(
        self, action: pb.WriteAction.ValueType, labels: Mapping[str, str] | None = None
    ) -> None:
        call = self._call
        if call is None:
            raise BackendError(f"the writer of {self._descriptor.digest} is closed")
        # The daemon looks for the blob whenever it is told the digest: so not with every message.
        message = (
            self._message(action) if action == pb.COMMIT else pb.WriteContentRequest(action=action)
        )
        message.offset = self._sent
        message.data = b"".join(self._unsent)
        message.labels.update(labels or {})
        self._sent, self._unsent = self._offset, []
        await send(call, message)
        self._unanswered += 1
        if action == pb.COMMIT:
            await finish(call)
        while self._unanswered > (0 if action == pb.COMMIT else _IN_FLIGHT):
            await answer(call)
            self._unanswered -= 1

    async def _hold(self, labels: Mapping[str, str] | None) -> None:
        """Have the lease hold what somebody else has committed.

        The daemon, which looks for it before it commits ours, only says that it is there; when it
        is asked to begin to write it, it holds it (containerd v2.1.0, contentserver.go and
        core/metadata/content.go).
        """
        await self.leave()
        digest = self._descriptor.digest
        try:
            await self.open()
        except AlreadyExistsError:
            if labels:
                await self._content.set_labels(digest, labels)
        else:
            raise UnavailableError(
                f"{digest} was written by another client, and collected at once: try again"
            )

    async def _discard(self) -> None:
        await self.leave()
        await self._content.abort(self._descriptor)

    def _message(self, action: pb.WriteAction.ValueType) -> pb.WriteContentRequest:
        return pb.WriteContentRequest(
            action=action,
            ref=ingest_ref(self._descriptor),
            total=self._descriptor.size,
            expected=str(self._descriptor.digest),
        )

    def _writing(self) -> AbstractContextManager[None]:
        return self._session.calling(f"write {self._descriptor.digest}")

    def _mismatch(self, error: FailedPreconditionError) -> DigestMismatchError:
        found = _ACTUAL.search(str(error))
        actual = found[1] if found else "another"
        return DigestMismatchError(
            f"the bytes that came for {self._descriptor.digest} have the digest {actual}",
            expected=str(self._descriptor.digest),
            actual=actual,
        )


async def send(call: WriteCall, message: pb.WriteContentRequest) -> None:
    """Send a message; a stream that is over says why when its answer is read."""
    with suppress(*BROKEN):
        await call.write(message)


async def finish(call: WriteCall) -> None:
    """Say that no message follows; a stream that is over says why when its answer is read."""
    with suppress(*BROKEN):
        await call.done_writing()


async def answer(call: WriteCall) -> pb.WriteContentResponse:
    """The daemon's answer to one message."""
    try:
        async for reply in call:
            return reply
    except grpc.aio.AioRpcError:
        raise await _why(call) from None
    raise BackendError("containerd ended a write without an answer")


async def _why(call: WriteCall) -> grpc.aio.AioRpcError:
    """The daemon's reason to end a stream.

    If a message cannot be sent, gRPC gives the stream a status of its own, and read() refuses to
    go on (grpcio v1.85, aio/_call.py). The daemon's comes behind the answers that were not read,
    and replaces it; one that came before is lost.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_STATUS_SECONDS):
            while await call.details() == NOT_SENT:  # noqa: ASYNC110 - gRPC does it
                await asyncio.sleep(0.001)
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(await call.code(), nothing, nothing, await call.details())


def ingest_ref(descriptor: Descriptor) -> str:
    """What names an unfinished blob (containerd v2.1.0, core/remotes/handlers.go, MakeRefKey)."""
    if descriptor.media_type in MediaType.MANIFESTS:
        kind = "manifest"
    elif descriptor.media_type in MediaType.INDEXES:
        kind = "index"
    else:
        kind = "config" if descriptor.media_type in MediaType.CONFIGS else "layer"
    return f"{kind}-{descriptor.digest}"
