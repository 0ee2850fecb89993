"""Bringing a prepared image into containerd, up to its record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cdimage.containerd.client import Client
from cdimage.containerd.records import config_labels, manifest_labels, top_chain_id
from cdimage.containerd.turns import Turns
from cdimage.containerd.unpack import UNCOMPRESSED, Extraction, UnpackedLayer, Unpacker
from cdimage.containerd.writer import ingest_ref
from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import NotFoundError
from cdimage.image import chain_ids
from cdimage.preparation import Variant
from cdimage.prepare import Prepared
from cdimage.pull import copy_blob, one_error
from cdimage.store import Progress, ProgressCallback, Source, State

# How many bytes the first layer has if others wait for it, and for how many seconds.
_LARGE: Final = 16 << 20
_HEAD_START: Final = 1.0

Arriving = dict[Digest, asyncio.Task[None]]
"""The layers that are being copied."""


@dataclass(frozen=True)
class Ingest:
    """One image on its way. All that it makes is held by the client's lease.

    Attributes:
        client: With a lease.
        source: Where the base's layers come from.
        variant: The base, and what is stored.
        snapshotter: Where it is unpacked; None leaves it packed.
        progress: Told what happens to each layer.
        let_go: Ends the leases of pulls that broke; whether there was any.
        turns: Of all images that are on their way.
    """

    client: Client
    source: Source
    variant: Variant
    snapshotter: str | None
    progress: ProgressCallback
    let_go: Callable[[], Awaitable[bool]]
    turns: Turns

    async def run(self, labels: Mapping[str, str], *limits: asyncio.Semaphore) -> None:
        """Store everything but the record; layers are unpacked while others arrive.

        The prepared manifest is written first, because its labels hold whatever of the base
        is here already: nothing that is found after that can be collected.

        Args:
            labels: Set on the layers that are fetched.
            limits: How many of them at the same time, of this image and of all.
        """
        prepared, content = self.variant.prepared, self.client.content
        config, manifest = prepared.config, prepared.manifest
        held = config_labels(top_chain_id(prepared), self.snapshotter)
        kept = manifest_labels(self.variant.image, manifest)
        async with one_error() as group:
            top = group.create_task(self._write_pause_layer())
            group.create_task(content.put(config.descriptor, config.data, held))
            written = group.create_task(content.put(manifest.descriptor, manifest.data, kept))
            arriving = group.create_task(self._fetch(group, written, labels, limits))
            if self.snapshotter is not None:
                unpacker = Unpacker(self.client, self.snapshotter, self._let_go)
                await self._unpack(group, unpacker, top, arriving)

    async def _let_go(self) -> bool:
        """Let go what broken pulls have left, but for what this one goes on from."""
        leases = self.client.leases
        for layer in self.variant.image.manifest.layers:
            await leases.hold("content", str(layer.digest))
            await leases.hold("ingests", ingest_ref(layer))
        return await self.let_go()

    async def _write_pause_layer(self) -> None:
        layer = self.variant.prepared.layer
        if layer is not None:
            labels = {UNCOMPRESSED: str(layer.digest)}
            descriptor = self.variant.prepared.manifest.layers[-1]
            await self.client.content.put(descriptor, layer.data, labels)

    async def _fetch(
        self,
        group: asyncio.TaskGroup,
        written: asyncio.Task[None],
        labels: Mapping[str, str],
        limits: Sequence[asyncio.Semaphore],
    ) -> Arriving:
        """Start to copy what is not here, once the manifest holds what is.

        The base's own documents are kept as well: with them the image can be prepared again. A
        large first layer has a head start: it is unpacked while the others arrive.
        """
        await written
        image, content = self.variant.image, self.client.content
        layers = image.manifest.layers
        documents = (*image.indexes, image.manifest, image.config)
        wanted = [*(layer.digest for layer in layers), *(it.digest for it in documents)]
        here = await content.present(wanted)
        for document in {it.digest: it for it in documents if it.digest not in here}.values():
            group.create_task(content.put(document.descriptor, document.data, {}))
        arriving: Arriving = {}
        ahead: asyncio.Task[None] | None = None
        for layer in layers:
            if layer.digest in here:
                self.progress(Progress(layer, State.EXISTS, layer.size, layer.size))
            else:
                self.progress(Progress(layer, State.WAITING, 0))
            if layer.digest not in here and layer.digest not in arriving:
                copying = group.create_task(self._copy(layer, labels, limits, ahead))
                if not arriving and self.snapshotter is not None and layer.size >= _LARGE:
                    ahead = copying
                arriving[layer.digest] = copying
        return arriving

    async def _copy(
        self,
        layer: Descriptor,
        labels: Mapping[str, str],
        limits: Sequence[asyncio.Semaphore],
        ahead: asyncio.Task[None] | None,
    ) -> None:
        if ahead is not None:
            await asyncio.wait([ahead], timeout=_HEAD_START)
        async with self.turns.of("content", str(layer.digest)):
            await copy_blob(
                self.source,
                self.client.content,
                layer,
                limits=limits,
                labels=labels,
                progress=self.progress,
            )

    async def _unpack(
        self,
        group: asyncio.TaskGroup,
        unpacker: Unpacker,
        top: asyncio.Task[None],
        arriving: asyncio.Task[Arriving],
    ) -> None:
        *below, last = _unpacked_layers(self.variant.prepared)
        try:
            # Where the base is unpacked already, room for the top layer is all that is asked for.
            extraction = await unpacker.begin(last)
        except NotFoundError:
            for layer in below:
                async with self.turns.of("snapshots", layer.chain_id):
                    room = await unpacker.begin(layer)
                    await self._finish(unpacker, layer, room, await arriving)
                if room is not None:  # the next layer need not wait for the label
                    group.create_task(unpacker.label(layer))
            extraction = await unpacker.begin(last)
        await top
        # A base that was prepared elsewhere brings its own pause layer, which arrives.
        others = {} if self.variant.prepared.layer is not None else await arriving
        await self._finish(unpacker, last, extraction, others)

    async def _finish(
        self,
        unpacker: Unpacker,
        layer: UnpackedLayer,
        extraction: Extraction | None,
        arriving: Arriving,
    ) -> None:
        descriptor, size = layer.descriptor, layer.descriptor.size
        if extraction is not None:
            if descriptor.digest in arriving:
                await arriving[descriptor.digest]
            self.progress(Progress(descriptor, State.UNPACKING, size))
            await unpacker.finish(extraction)
        self.progress(Progress(descriptor, State.DONE, size))


def _unpacked_layers(prepared: Prepared) -> list[UnpackedLayer]:
    descriptors: tuple[Descriptor, ...] = prepared.manifest.layers
    diff_ids = prepared.config.diff_ids
    chain = [str(chain_id) for chain_id in chain_ids(diff_ids)]
    return [
        UnpackedLayer(*parts)
        for parts in zip(descriptors, diff_ids, chain, ["", *chain[:-1]], strict=True)
    ]
