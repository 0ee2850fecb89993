"""containerd's content service: the blobs, and how they are written and continued."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from google.protobuf.field_mask_pb2 import FieldMask

from cdimage.containerd.api import content_pb2 as pb
from cdimage.containerd.api import content_pb2_grpc as rpc
from cdimage.containerd.errors import AlreadyExistsError, LockedError
from cdimage.containerd.session import Session
from cdimage.containerd.writer import ContentWriter, answer, finish, ingest_ref, send
from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import InvalidImageError, NotFoundError

if TYPE_CHECKING:
    from cdimage.containerd.api.content_pb2_grpc import ContentAsyncStub
    from cdimage.containerd.writer import WriteCall

_FIRST_WAIT: Final = 0.016
_LONGEST_WAIT: Final = 0.5


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
            ref=ingest_ref(descriptor),
            total=len(data),
            expected=str(descriptor.digest),
            data=data,
            labels=dict(labels),
        )
        try:
            with self._session.calling(f"write {descriptor.digest}"):
                call, _ = await self.open_write(descriptor, message)
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
                    pb.AbortRequest(ref=ingest_ref(descriptor)), metadata=self._session.metadata
                )
        except NotFoundError:
            return

    async def open_write(
        self, descriptor: Descriptor, first: pb.WriteContentRequest
    ) -> tuple[WriteCall, pb.WriteContentResponse]:
        """Start a write stream by its first message; waits while another client has the lock.

        Raises:
            AlreadyExistsError: The blob is there.
        """
        wait = _FIRST_WAIT
        while True:
            call = self._stub.Write(metadata=self._session.metadata)
            try:
                with self._session.calling(f"write {descriptor.digest}"):
                    await send(call, first)
                    if first.action == pb.COMMIT:
                        await finish(call)
                    return call, await answer(call)
            except LockedError:
                await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
                wait = min(2 * wait, _LONGEST_WAIT)
            except BaseException:
                call.cancel()
                raise


def _info(message: pb.Info) -> Info:
    return Info(Digest.parse(message.digest), message.size, dict(message.labels))
