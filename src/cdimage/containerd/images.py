"""containerd's images service: records that name blobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from google.protobuf.field_mask_pb2 import FieldMask

from cdimage.containerd.api import images_pb2 as pb
from cdimage.containerd.api import images_pb2_grpc as rpc
from cdimage.containerd.api.types_pb2 import Descriptor as DescriptorMessage
from cdimage.containerd.errors import AlreadyExistsError
from cdimage.containerd.session import Session
from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from cdimage.containerd.api.images_pb2_grpc import ImagesAsyncStub

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A name for a blob. It keeps the blob, and all that the blob's labels refer to."""

    name: str
    target: Descriptor
    labels: Mapping[str, str]
    updated_at: datetime | None = None


class Images:
    """The image records of a namespace."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("ImagesAsyncStub", rpc.ImagesStub(session.channel))

    async def get(self, name: str) -> ImageRecord | None:
        """The record of that name; None when there is none."""
        try:
            with self._session.calling(f"read the image record {name!r}"):
                reply = await self._stub.Get(
                    pb.GetImageRequest(name=name), metadata=self._session.metadata
                )
        except NotFoundError:
            return None
        return _record(reply.image)

    async def list(self, *filters: str) -> list[ImageRecord]:
        """The records that match any of the filters (containerd v2.1.0, pkg/filters)."""
        with self._session.calling("list the image records"):
            reply = await self._stub.List(
                pb.ListImagesRequest(filters=filters), metadata=self._session.metadata
            )
        return [_record(image) for image in reply.images]

    async def put(self, record: ImageRecord) -> None:
        """Create the record, or change its target and the labels that are given.

        Atomic: a reader sees the old record or the new one. Labels of others stay; one that
        is given as "" is removed.

        Raises:
            UnavailableError: Others create and delete it all the time.
        """
        image = pb.Image(
            name=record.name,
            labels={key: value for key, value in record.labels.items() if value},
            target=_message(record.target),
        )
        mask = FieldMask(paths=["target", *(f"labels.{key}" for key in record.labels)])
        metadata = self._session.metadata
        for _ in range(_ATTEMPTS):
            try:
                with self._session.calling(f"create the image record {record.name!r}"):
                    await self._stub.Create(pb.CreateImageRequest(image=image), metadata=metadata)
                return
            except AlreadyExistsError:
                pass
            try:
                with self._session.calling(f"update the image record {record.name!r}"):
                    await self._stub.Update(
                        pb.UpdateImageRequest(image=image, update_mask=mask), metadata=metadata
                    )
                return
            except NotFoundError:
                pass
        raise UnavailableError(
            f"the image record {record.name!r} is being created and deleted by others: try again"
        )

    async def delete(self, name: str, *, sync: bool = False) -> bool:
        """Delete a record; False when there was none.

        Args:
            name: The record's.
            sync: Return only when the garbage collector has run.
        """
        try:
            with self._session.calling(f"delete the image record {name!r}"):
                await self._stub.Delete(
                    pb.DeleteImageRequest(name=name, sync=sync), metadata=self._session.metadata
                )
        except NotFoundError:
            return False
        return True


def _record(image: pb.Image) -> ImageRecord:
    target = image.target
    return ImageRecord(
        name=image.name,
        target=Descriptor(target.media_type, Digest.parse(target.digest), target.size),
        labels=dict(image.labels),
        updated_at=image.updated_at.ToDatetime(UTC) if image.HasField("updated_at") else None,
    )


def _message(descriptor: Descriptor) -> DescriptorMessage:
    return DescriptorMessage(
        media_type=descriptor.media_type,
        digest=str(descriptor.digest),
        size=descriptor.size,
    )
