"""The calls that a daemon must be asked for a prepared image, with nothing of cdimage around them.

The messages are made beforehand, of an image that is prepared; what depends on an answer, as the
mounts do, is filled in.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

import cdimage
from cdimage.containerd.api import (
    content_pb2,
    content_pb2_grpc,
    diff_pb2,
    diff_pb2_grpc,
    images_pb2,
    images_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
)
from cdimage.containerd.api.types_pb2 import Descriptor
from cdimage.image import chain_ids
from cdimage.pull import read
from cdimage.resolve import parse_document, read_config

_SNAPSHOTTER: Final = "overlayfs"


@dataclass(frozen=True)
class Bare:
    """The messages, and whom to send them to.

    Attributes:
        channel: To the daemon.
        namespace: containerd's.
        base: The user's manifest and its config, which must be read.
        blobs: Config, layer and manifest: each with its labels, to be written in one message.
        layer: The pause layer's descriptor.
        parent: The chain ID of the base.
        top: The chain ID of what is prepared.
        record: The image record.
    """

    channel: grpc.aio.Channel
    namespace: str
    base: Sequence[str]
    blobs: Sequence[content_pb2.WriteContentRequest]
    layer: Descriptor
    parent: str
    top: str
    record: images_pb2.Image

    @classmethod
    async def learn(cls, client: cdimage.Client, user_digest: str, name: str) -> Bare:
        """Make the messages from an image that is prepared."""
        channel, namespace = client._session.channel, client.namespace
        headers = (("containerd-namespace", namespace),)
        images: Any = images_pb2_grpc.ImagesStub(channel)
        got = await images.Get(images_pb2.GetImageRequest(name=name), metadata=headers)
        record = images_pb2.Image(name=name, labels=dict(got.image.labels), target=got.image.target)
        async with cdimage.Store(client).contents() as source:
            target = (await cdimage.Store(client).get_image(user_digest)).target
            manifest: Any = parse_document(await read(source, target), target)
            config = await read_config(source, manifest)
            user = await client.content.info(cdimage.Digest.parse(user_digest))
            assert user is not None
            held = cdimage.Descriptor(target.media_type, user.digest, user.size)
            base: Any = parse_document(await read(source, held), held)
            top = manifest.layers[-1]
            blobs = []
            for descriptor in (manifest.config, top, target):
                info = await client.content.info(descriptor.digest)
                assert info is not None
                blobs.append(
                    content_pb2.WriteContentRequest(
                        action=content_pb2.COMMIT,
                        ref=f"bare-{descriptor.digest}",
                        total=descriptor.size,
                        expected=str(descriptor.digest),
                        data=await read(source, descriptor),
                        labels=dict(info.labels),
                    )
                )
        chain = [str(chain_id) for chain_id in chain_ids(config.diff_ids)]
        layer = Descriptor(media_type=top.media_type, digest=str(top.digest), size=top.size)
        documents = (user_digest, str(base.config.digest))
        return cls(channel, namespace, documents, blobs, layer, chain[-2], chain[-1], record)

    async def look(self) -> bool:
        """Look for the record; whether it is there."""
        images: Any = images_pb2_grpc.ImagesStub(self.channel)
        try:
            await images.Get(
                images_pb2.GetImageRequest(name=self.record.name),
                metadata=(("containerd-namespace", self.namespace),),
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False
        return True

    async def look_for_both(self) -> None:
        """Look for the record, and for the snapshot that it names, at the same time."""
        snapshots: Any = snapshots_pb2_grpc.SnapshotsStub(self.channel)
        stat = snapshots.Stat(
            snapshots_pb2.StatSnapshotRequest(snapshotter=_SNAPSHOTTER, key=self.top),
            metadata=(("containerd-namespace", self.namespace),),
        )
        assert await self.look()
        await stat

    async def prepare(self) -> None:
        """Look for the record, read the base's documents, store what is new, and register it."""
        assert not await self.look()
        for digest in self.base:
            await self._read(digest)
        plain = (("containerd-namespace", self.namespace),)
        leases: Any = leases_pb2_grpc.LeasesStub(self.channel)
        lease = f"bare-{secrets.token_hex(8)}"
        await leases.Create(leases_pb2.CreateRequest(id=lease), metadata=plain)
        headers = (*plain, ("containerd-lease", lease))
        async with asyncio.TaskGroup() as group:
            config, layer, manifest = self.blobs
            group.create_task(self._write(config, headers))
            group.create_task(self._write(manifest, headers))
            group.create_task(self._unpack(layer, headers))
        images: Any = images_pb2_grpc.ImagesStub(self.channel)
        await images.Create(images_pb2.CreateImageRequest(image=self.record), metadata=headers)
        await leases.Delete(leases_pb2.DeleteRequest(id=lease), metadata=plain)

    async def _read(self, digest: str) -> None:
        content: Any = content_pb2_grpc.ContentStub(self.channel)
        call = content.Read(
            content_pb2.ReadContentRequest(digest=digest),
            metadata=(("containerd-namespace", self.namespace),),
        )
        async for _ in call:
            pass

    async def _write(
        self, message: content_pb2.WriteContentRequest, headers: Sequence[tuple[str, str]]
    ) -> None:
        content: Any = content_pb2_grpc.ContentStub(self.channel)
        call = content.Write(metadata=headers)
        await call.write(message)
        await call.done_writing()
        await call.read()
        call.cancel()

    async def _unpack(
        self, layer: content_pb2.WriteContentRequest, headers: Sequence[tuple[str, str]]
    ) -> None:
        snapshots: Any = snapshots_pb2_grpc.SnapshotsStub(self.channel)
        diff: Any = diff_pb2_grpc.DiffStub(self.channel)
        key = f"bare-{secrets.token_hex(8)}"
        labels = {"containerd.io/snapshot.ref": self.top}
        room = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=_SNAPSHOTTER, key=key, parent=self.parent, labels=labels
        )
        written = asyncio.create_task(self._write(layer, headers))
        prepared = await snapshots.Prepare(room, metadata=headers)
        await written
        apply = diff_pb2.ApplyRequest(diff=self.layer, mounts=prepared.mounts)
        await diff.Apply(apply, metadata=headers)
        commit = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=_SNAPSHOTTER, name=self.top, key=key, labels=labels
        )
        await snapshots.Commit(commit, metadata=headers)
