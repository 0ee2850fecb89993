"""Fetch the layers of an image into containerd, as `Store.pull_image` does, and no more."""

from __future__ import annotations

import asyncio

import cdimage
from cdimage.image import Manifest
from cdimage.pull import copy_blob, read
from cdimage.registry.client import Registry
from cdimage.resolve import parse_document

_AT_ONCE = 3
_SECONDS = 3600.0


async def fetch(address: str, namespace: str, name: str) -> None:
    """Fetch an image of one platform, by its reference, into that daemon."""
    reference, limit = cdimage.Reference.parse(name), asyncio.Semaphore(_AT_ONCE)
    async with cdimage.connect(address, namespace) as client, Registry() as registry:
        content = client.leased(await client.leases.create(_SECONDS)).content
        source = registry.open(reference)
        target = await source.resolve(reference)
        manifest = parse_document(await read(source, target), target)
        assert isinstance(manifest, Manifest)
        async with asyncio.TaskGroup() as group:
            for layer in manifest.layers:
                group.create_task(
                    copy_blob(
                        source,
                        content,
                        layer,
                        limits=[limit],
                        labels={},
                        progress=lambda _: None,
                    )
                )
