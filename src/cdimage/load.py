"""Reading a prepared image back from a store, with the user's documents that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from cdimage.descriptor import Descriptor, text_field
from cdimage.digest import Digest
from cdimage.errors import CdimageError, InvalidImageError, NotFoundError
from cdimage.image import Config, Index, Manifest, optional_object
from cdimage.layer import PauseLayer
from cdimage.preparation import Preparation, Variant
from cdimage.prepare import ALIAS, BASE_DIGEST, RECORD, Prepared
from cdimage.pull import read
from cdimage.reference import Reference
from cdimage.resolve import ResolvedImage, parse_document, read_config
from cdimage.store import PreparedImage, Source

_DOCUMENT_LIMIT: Final = 10_000


async def load(source: Source, image: PreparedImage) -> Preparation:
    """All that a store holds of a prepared image, but for the user's layers.

    Raises:
        NotFoundError: Something of it is missing.
        InvalidImageError: It is broken, or not made of the user's image.
    """
    bases = await user_images(source, image)
    root = await _document(source, image.target)
    manifests = [root] if isinstance(root, Manifest) else await _members(source, root, image)
    variants = [await _variant(source, manifest, bases) for manifest in manifests]
    return Preparation(
        image.user_digest,
        tuple(variants),
        root if isinstance(root, Index) else None,
        image.recipe,
        image.is_all,
    )


async def user_images(source: Source, image: PreparedImage) -> dict[Digest, ResolvedImage]:
    """The user's manifests below the user digest that are here, by their digests.

    Raises:
        NotFoundError: The user's documents are not here.
        InvalidImageError: They are broken.
    """
    user_digest = image.user_digest
    root = await _root(source, image)
    found: dict[Digest, ResolvedImage] = {}
    todo: list[tuple[Descriptor, Mapping[str, Any], tuple[Index, ...]]] = [(root, {}, ())]
    looked_at = 0
    while todo and looked_at < _DOCUMENT_LIMIT:
        looked_at += 1
        descriptor, entry, above = todo.pop(0)
        try:
            document = await _document(source, descriptor)
        except NotFoundError:
            continue  # of a platform that was not asked for
        if isinstance(document, Index):
            pairs = zip(document.manifests, document.entries, strict=True)
            todo += [(child, below, (*above, document)) for child, below in pairs]
        elif document.digest not in found:
            config = await read_config(source, document)
            found[document.digest] = ResolvedImage(user_digest, document, config, above, entry)
    return found


async def _root(source: Source, image: PreparedImage) -> Descriptor:
    """The user's index or manifest.

    Stores keep it by its sha256; who asked by sha512 is led there by the prepared manifest.
    """
    named = Reference("", "", None, image.user_digest)
    if image.user_digest.algorithm == "sha256":
        return await source.resolve(named)
    document = await _document(source, image.target)
    if isinstance(document, Manifest):
        base = base_of(await read_config(source, document), document)
    else:
        notes = optional_object(document.json, "annotations")
        base = Digest.parse(text_field(notes, BASE_DIGEST) or str(document.digest))
    root = await source.resolve(named.at(base))
    if root.data is None or not image.user_digest.matches(root.data):
        raise NotFoundError(f"the index {image.user_digest} is not kept where it was asked for")
    return root


def base_of(config: Config, manifest: Manifest) -> Digest:
    """The manifest that a prepared one says it was made of; an alias is made of itself."""
    text = text_field(optional_object(config.json, RECORD), "base")
    try:
        return Digest.parse(text) if text else manifest.digest
    except CdimageError:
        return manifest.digest


async def _variant(
    source: Source, manifest: Manifest, bases: Mapping[Digest, ResolvedImage]
) -> Variant:
    config = await read_config(source, manifest)
    base = bases.get(manifest.digest) or bases.get(base_of(config, manifest))
    if base is None:
        raise InvalidImageError(
            f"{manifest.digest} was not made of the user's image: verify it, and pull it again"
        )
    layer = None
    if manifest.digest != base.manifest.digest:
        layer = PauseLayer(await read(source, manifest.layers[-1]))
    return Variant(base, Prepared(manifest, config, layer))


async def _members(source: Source, index: Index, image: PreparedImage) -> list[Manifest]:
    found: list[Manifest] = []
    for entry in index.manifests:
        try:
            document = await _document(source, entry)
        except NotFoundError:
            if image.recipe == ALIAS:
                continue  # of a platform that was not asked for
            raise
        if isinstance(document, Manifest):
            found.append(document)
    return found


async def _document(source: Source, descriptor: Descriptor) -> Index | Manifest:
    data = await read(source, replace(descriptor, data=None))
    return parse_document(data, descriptor)
