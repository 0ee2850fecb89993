"""containerd's content service: the blobs, and how they are written and continued."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from cdimage.containerd.api import content_pb2 as pb
from cdimage.containerd.api import content_pb2_grpc as rpc
from cdimage.containerd.errors import AlreadyExistsError, FailedPreconditionError, LockedError
from cdimage.containerd.session import Session
from cdimage.descriptor import Descriptor, Digest, MediaType
from cdimage.errors import BackendError, DigestMismatchError, InvalidImageError, NotFoundError
from cdimage.verify import check_size, size_mismatch

if TYPE_CHECKING:
    from cdimage.containerd.api.content_pb2_grpc import ContentAsyncStub

    WriteCall = grpc.aio.StreamStreamCall[pb.WriteContentRequest, pb.WriteContentResponse]

_MESSAGE: Final = 512 << 10
_IN_FLIGHT: Final = 4
_FIRST_WAIT: Final = 0.016
_LONGEST_WAIT: Final = 0.5
_LEAVE_SECONDS: Final = 0.5
_ACTUAL: Final = re.compile(r"unexpected commit digest (\w+:\w+)")


@dataclass(frozen=True, slots=True)
class Info:
    """A blob that is there."""

    digest: Digest
    size: int
    labels: Mapping[str, str]


class Content:
    """The content store of a namespace; a `cdimage.store.ContentStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("ContentAsyncStub", rpc.ContentStub(session.channel))

    async def info(self, digest: Digest) -> Info | None:
        """What the daemon knows of a blob; None when it is not there."""
        try:
            with self._session.calling(f"look for {digest}"):
                reply = await self._stub.Info(
                    pb.InfoRequest(digest=str(digest)), metadata=self._session.metadata
                )
        except NotFoundError:
            return None
        return _info(reply.info)

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the whole blob is there."""
        return await self.info(descriptor.digest) is not None

    async def present(self, digests: Sequence[Digest]) -> dict[Digest, Info]:
        """Those of the blobs that are there, in one call however many they are."""
        if not digests:
            return {}
        filters = [f"digest=={digest}" for digest in dict.fromkeys(digests)]
        found: dict[Digest, Info] = {}
        with self._session.calling("list the content"):
            call = self._stub.List(
                pb.ListContentRequest(filters=filters), metadata=self._session.metadata
            )
            async for reply in call:
                for message in reply.info:
                    info = _info(message)
                    found[info.digest] = info
        return found

    async def read(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from an offset to its end.

        Raises:
            NotFoundError: It is not there.
        """
        with self._session.calling(f"read {digest}"):
            call = self._stub.Read(
                pb.ReadContentRequest(digest=str(digest), offset=offset),
                metadata=self._session.metadata,
            )
            async for reply in call:
                yield reply.data

    async def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        """Set these labels and leave the others.

        Raises:
            NotFoundError: The blob is not there.
        """
        request = pb.UpdateRequest(
            info=pb.Info(digest=str(digest), labels=dict(labels)),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        with self._session.calling(f"label {digest}"):
            await self._stub.Update(request, metadata=self._session.metadata)

    async def put(self, descriptor: Descriptor, data: bytes, labels: Mapping[str, str]) -> None:
        """Write a small blob in one message, with its labels, whether it was there or not."""
        message = pb.WriteContentRequest(
            action=pb.COMMIT,
            ref=_ref(descriptor),
            total=len(data),
            expected=str(descriptor.digest),
            data=data,
            labels=dict(labels),
        )
        try:
            with self._session.calling(f"write {descriptor.digest}"):
                call, _ = await self._open(descriptor, message)
                call.cancel()
        except AlreadyExistsError:
            if labels:
                await self.set_labels(descriptor.digest, labels)

    def writer(self, descriptor: Descriptor) -> AbstractAsyncContextManager[ContentWriter | None]:
        """Begin, or continue, to write a blob; None when it is there already.

        The blob is added to the session's lease either way. Waits while another client has
        the blob open. Left without a commit, the bytes stay, for 24 hours or as long as the
        lease, and the next writer, of any client, continues from them: containerd's own
        clients name their unfinished blobs as we do.

        Raises:
            InvalidImageError: The digest is not a sha256, the only kind that containerd stores.
        """
        if descriptor.digest.algorithm != "sha256":
            raise InvalidImageError(
                f"{descriptor.digest} cannot be stored: containerd knows blobs by sha256 only"
            )
        return self._writer(descriptor)

    @asynccontextmanager
    async def _writer(self, descriptor: Descriptor) -> AsyncIterator[ContentWriter | None]:
        writer = ContentWriter(self, self._session, descriptor)
        try:
            await writer.open()
        except AlreadyExistsError:
            yield None
            return
        try:
            yield writer
        finally:
            await writer.leave()

    async def abort(self, descriptor: Descriptor) -> None:
        """Throw away an unfinished blob; none is success."""
        try:
            with self._session.calling(f"abort the write of {descriptor.digest}"):
                await self._stub.Abort(
                    pb.AbortRequest(ref=_ref(descriptor)), metadata=self._session.metadata
                )
        except NotFoundError:
            return

    async def _open(
        self, descriptor: Descriptor, first: pb.WriteContentRequest
    ) -> tuple[WriteCall, pb.WriteContentResponse]:
        """Start a write stream by its first message; waits for the lock on the ref."""
        wait = _FIRST_WAIT
        while True:
            call = self._stub.Write(metadata=self._session.metadata)
            try:
                with self._session.calling(f"write {descriptor.digest}"):
                    await _send(call, first)
                    if first.action == pb.COMMIT:
                        await call.done_writing()
                    return call, await _answer(call)
            except LockedError:
                await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
                wait = min(2 * wait, _LONGEST_WAIT)
            except BaseException:
                call.cancel()
                raise


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
        self._call, answer = await self._content._open(self._descriptor, first)
        self._sent = self._offset = answer.offset
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
        """
        if self._offset != self._descriptor.size:
            await self._discard()
            raise size_mismatch(self._descriptor, self._offset)
        try:
            with self._writing():
                await self._flush(pb.COMMIT, labels)
        except AlreadyExistsError:
            if labels:
                await self._content.set_labels(self._descriptor.digest, labels)
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
                while isinstance(await call.read(), pb.WriteContentResponse):
                    pass
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            pass  # it ended by itself, or is stuck; either way there is nothing to keep
        finally:
            call.cancel()

    async def _flush(
        self, action: pb.WriteAction.ValueType, labels: Mapping[str, str] | None = None
    ) -> None:
        call = self._call
        if call is None:
            raise BackendError(f"the writer of {self._descriptor.digest} is closed")
        message = self._message(action)
        message.offset = self._sent
        message.data = b"".join(self._unsent)
        message.labels.update(labels or {})
        self._sent, self._unsent = self._offset, []
        await _send(call, message)
        self._unanswered += 1
        if action == pb.COMMIT:
            await call.done_writing()
        while self._unanswered > (0 if action == pb.COMMIT else _IN_FLIGHT):
            await _answer(call)
            self._unanswered -= 1

    async def _discard(self) -> None:
        await self.leave()
        await self._content.abort(self._descriptor)

    def _message(self, action: pb.WriteAction.ValueType) -> pb.WriteContentRequest:
        return pb.WriteContentRequest(
            action=action,
            ref=_ref(self._descriptor),
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


async def _send(call: WriteCall, message: pb.WriteContentRequest) -> None:
    # A stream that is over says why when it is read.
    with suppress(asyncio.InvalidStateError):
        await call.write(message)


async def _answer(call: WriteCall) -> pb.WriteContentResponse:
    answer = await call.read()
    if isinstance(answer, pb.WriteContentResponse):
        return answer
    raise BackendError("containerd ended a write without an answer")


def _ref(descriptor: Descriptor) -> str:
    """What names an unfinished blob (containerd v2.1.0, core/remotes/handlers.go, MakeRefKey)."""
    if descriptor.media_type in MediaType.MANIFESTS:
        kind = "manifest"
    elif descriptor.media_type in MediaType.INDEXES:
        kind = "index"
    else:
        kind = "config" if descriptor.media_type in MediaType.CONFIGS else "layer"
    return f"{kind}-{descriptor.digest}"


def _info(message: pb.Info) -> Info:
    return Info(Digest.parse(message.digest), message.size, dict(message.labels))
