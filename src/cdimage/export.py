"""Prepared images on their way out of a store: into an archive, or into another store."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, Final

from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import InvalidImageError, NotFoundError
from cdimage.image import dump_json
from cdimage.layer import read_pause_layer
from cdimage.layout.entry import index_entry
from cdimage.load import load
from cdimage.pause import PauseProgram
from cdimage.preparation import Inject, Preparation, Variant
from cdimage.prepare import ALIAS, prepare
from cdimage.prepared_store import Order, PreparedStore
from cdimage.store import ProgressCallback, Source
from cdimage.verify import Verifier

_BLOCK: Final = 512
_LAYOUT: Final = dump_json({"imageLayoutVersion": "1.0.0"})


async def copy_image(
    source: PreparedStore,
    target: PreparedStore,
    user_digest: str,
    *,
    progress: ProgressCallback | None = None,
) -> None:
    """Copy a prepared image, to the byte, from a store to another. Idempotent.

    Every byte is checked on its way, and the image against the user's that it was made of.

    Raises:
        NotFoundError: It is not prepared in the source.
        InvalidImageError: It is not what preparing makes of the user's image.
        UnavailableError: A store cannot be reached; what arrived stays for the next call.
    """
    image = await source.get_image(user_digest)
    async with source.contents() as held:
        preparation = await load(held, image)
        for variant in preparation.variants:
            _check(variant)
        before = await target.find_image(image.user_digest)
        is_same = before is not None and before.target.digest == preparation.target.digest
        if before is not None and is_same and await target.is_complete(before):
            return
        inject = Inject.ALIAS if image.recipe == ALIAS else Inject.LAYER
        ignore = progress or (lambda _: None)
        order = Order(source.place, image.user_digest, None, inject, before, ignore)
        await target.add_image(preparation, held, order)


def _check(variant: Variant) -> None:
    """Refuse what is not, to the byte, the user's image with a pause layer on top."""
    prepared, image = variant.prepared, variant.image
    if prepared.layer is None:
        return
    program = read_pause_layer(prepared.layer, variant.platform.os)
    platform = replace(variant.platform, variant="", os_version="", os_features=())
    again = prepare(image.manifest, image.config, PauseProgram(platform, program))
    if again.manifest.data != prepared.manifest.data or again.config.data != prepared.config.data:
        raise InvalidImageError(
            f"{prepared.manifest.digest} is not what preparing makes of {image.manifest.digest}: "
            "verify it, and pull it again"
        )


async def export_image(store: PreparedStore, user_digest: str, file: BinaryIO) -> None:
    """Write a prepared image as an OCI archive: a tar of an image layout.

    Deterministic: equal images give equal archives. Unpacked, it is a `LayoutStore`. After an
    error, what was written is to be thrown away.

    Raises:
        NotFoundError: It is not prepared here.
        DigestMismatchError: The store holds other bytes than it should.
        OSError: The file cannot be written.
    """
    image = await store.get_image(user_digest)
    async with store.contents() as source:
        preparation = await load(source, image)
        await _write_archive(preparation, source, file)


async def _write_archive(preparation: Preparation, source: Source, file: BinaryIO) -> None:
    index = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_INDEX,
        "manifests": [index_entry(preparation, None)],
    }
    _write_file(file, "oci-layout", _LAYOUT)
    _write_file(file, "index.json", json.dumps(index, indent=1, ensure_ascii=False).encode())
    in_memory, elsewhere = _blobs(preparation)
    algorithms = sorted({digest.algorithm for digest in (*in_memory, *elsewhere)})
    for folder in ("blobs/", *(f"blobs/{algorithm}/" for algorithm in algorithms)):
        file.write(_header(folder, 0))
    for digest, data in in_memory.items():
        _write_file(file, _path(digest), data)
    for layer in elsewhere.values():
        try:
            async with source.fetch(replace(layer, data=None)) as chunks:
                await _write_stream(file, layer, chunks)
        except NotFoundError:
            if not (MediaType.is_foreign(layer.media_type) and layer.urls):
                raise
    file.write(bytes(2 * _BLOCK))


async def _write_stream(file: BinaryIO, layer: Descriptor, chunks: Any) -> None:
    verifier, is_begun = Verifier(layer), False
    async for chunk in chunks:
        verifier.update(chunk)
        if not is_begun:
            file.write(_header(_path(layer.digest), layer.size))
            is_begun = True
        file.write(chunk)
    verifier.finish()
    if not is_begun:
        file.write(_header(_path(layer.digest), layer.size))
    file.write(bytes(-layer.size % _BLOCK))


def _blobs(preparation: Preparation) -> tuple[dict[Digest, bytes], dict[Digest, Descriptor]]:
    """What is at hand, and what is to be read from the store."""
    at_hand = dict(_at_hand(preparation))
    layers = {layer.digest: layer for layer in preparation.layers}
    elsewhere = {digest: layers[digest] for digest in layers if digest not in at_hand}
    return at_hand, elsewhere


def _at_hand(preparation: Preparation) -> Iterator[tuple[Digest, bytes]]:
    for document in (*preparation.documents, *preparation.base_documents):
        yield document.digest, document.data
    for layer, data in preparation.pause_layers.items():
        yield layer.digest, data


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _write_file(file: BinaryIO, name: str, data: bytes) -> None:
    file.write(_header(name, len(data)))
    file.write(data)
    file.write(bytes(-len(data) % _BLOCK))


def _header(name: str, size: int) -> bytes:
    """A tar header: owner 0:0, modified at the epoch."""
    member = tarfile.TarInfo(name.rstrip("/"))
    member.size, member.mode = size, 0o644
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member.tobuf(tarfile.PAX_FORMAT)
