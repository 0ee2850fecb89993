"""Bringing a prepared image into containerd, up to its record."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cdimage.containerd.client import Client
from cdimage.containerd.records import (
    config_labels,
    manifest_labels,
    source_labels,
    top_chain_id,
)
from cdimage.containerd.unpack import UNCOMPRESSED, Extraction, UnpackedLayer, Unpacker
from cdimage.descriptor import Descriptor, Digest
from cdimage.errors import NotFoundError
from cdimage.image import chain_ids
from cdimage.prepare import Prepared
from cdimage.pull import ResolvedImage, copy_blob, one_error
from cdimage.reference import Reference
from cdimage.store import Progress, ProgressCallback, Source, State


@dataclass(frozen=True)
class Ingest:
    """One image on its way. All that it makes is held by the client's lease.

    Attributes:
        client: With a lease.
        source: Where the base's layers come from.
        image: The base.
        prepared: What is stored.
        snapshotter: Where it is unpacked; None leaves it packed.
    """

    client: Client
    source: Source
    image: ResolvedImage
    prepared: Prepared
    snapshotter: str | None

    async def run(self, reference: Reference, concurrency: int, progress: ProgressCallback) -> None:
        """Store everything but the record; layers are unpacked while others arrive.

        The prepared manifest is written first, because its labels hold whatever of the base
        is here already: nothing that was found can be collected afterwards.
        """
        await self._write_documents()
        base = self.image.manifest.layers
        here = await self.client.content.present([layer.digest for layer in base])
        for layer in base:
            known = State.EXISTS if layer.digest in here else State.WAITING
            offset = layer.size if layer.digest in here else 0
            progress(Progress(layer, known, offset, layer.size))
        missing = {layer.digest: layer for layer in base if layer.digest not in here}
        labels = source_labels(reference.registry, reference.repository)
        limit = asyncio.Semaphore(concurrency)
        async with one_error() as group:
            arriving = {
                digest: group.create_task(
                    copy_blob(
                        self.source,
                        self.client.content,
                        layer,
                        limit=limit,
                        labels=labels,
                        progress=progress,
                    )
                )
                for digest, layer in missing.items()
            }
            if self.snapshotter is not None:
                await self._unpack(Unpacker(self.client, self.snapshotter), arriving, progress)

    async def _write_documents(self) -> None:
        """Write what depends on nothing but the base's manifest and config."""
        image, prepared, content = self.image, self.prepared, self.client.content
        held = config_labels(top_chain_id(prepared), self.snapshotter)
        kept = manifest_labels(image, prepared.manifest)
        documents = {
            document.digest: document for document in (*image.indexes, image.manifest, image.config)
        }
        async with one_error() as group:
            if prepared.layer is not None:
                layer, diff_id = prepared.layer, {UNCOMPRESSED: str(prepared.layer.digest)}
                group.create_task(content.put(prepared.manifest.layers[-1], layer.data, diff_id))
            for document in documents.values():
                if document.digest not in {prepared.config.digest, prepared.manifest.digest}:
                    group.create_task(content.put(document.descriptor, document.data, {}))
            config, manifest = prepared.config, prepared.manifest
            group.create_task(content.put(config.descriptor, config.data, held))
            group.create_task(content.put(manifest.descriptor, manifest.data, kept))

    async def _unpack(
        self,
        unpacker: Unpacker,
        arriving: dict[Digest, asyncio.Task[None]],
        progress: ProgressCallback,
    ) -> None:
        layers = _unpacked_layers(self.prepared)
        top = layers[-1]
        try:
            # Where the base is unpacked already, room for the top layer is all that is asked for.
            extraction = await unpacker.begin(top)
        except NotFoundError:
            for layer in layers[:-1]:
                below = await unpacker.begin(layer)
                await _finish(unpacker, layer, below, arriving, progress)
            extraction = await unpacker.begin(top)
        await _finish(unpacker, top, extraction, arriving, progress)


async def _finish(
    unpacker: Unpacker,
    layer: UnpackedLayer,
    extraction: Extraction | None,
    arriving: dict[Digest, asyncio.Task[None]],
    progress: ProgressCallback,
) -> None:
    descriptor, size = layer.descriptor, layer.descriptor.size
    if extraction is not None:
        if descriptor.digest in arriving:
            await arriving[descriptor.digest]
        progress(Progress(descriptor, State.UNPACKING, size, size))
        await unpacker.finish(extraction)
    progress(Progress(descriptor, State.DONE, size, size))


def _unpacked_layers(prepared: Prepared) -> list[UnpackedLayer]:
    descriptors: tuple[Descriptor, ...] = prepared.manifest.layers
    diff_ids = prepared.config.diff_ids
    chain = [str(chain_id) for chain_id in chain_ids(diff_ids)]
    return [
        UnpackedLayer(*parts)
        for parts in zip(descriptors, diff_ids, chain, ["", *chain[:-1]], strict=True)
    ]
