"""What of a prepared image it takes to start a container from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cdimage.containerd.client import Client
from cdimage.containerd.listing import read_record
from cdimage.containerd.source import ContentSource
from cdimage.descriptor import text_list
from cdimage.digest import Digest
from cdimage.errors import BackendError, InvalidReferenceError, NotFoundError
from cdimage.image import Config, Index, Manifest, chain_ids
from cdimage.prepare import ALIAS, original
from cdimage.prepared_name import prepared_image_name
from cdimage.pull import read
from cdimage.resolve import parse_document, read_config
from cdimage.store import PreparedImage

_DEFAULT_SNAPSHOTTER: Final = "overlayfs"


@dataclass(frozen=True, slots=True)
class StartableImage:
    """A prepared image that is unpacked.

    Attributes:
        name: Of its record.
        user_digest: The digest that it was asked for by.
        snapshotter: What it is unpacked into.
        chain_id: The snapshot there.
        config: The digest of its config, which holds the snapshot.
        machine: The processor, as ``amd64``.
        user: Whom the user's image runs as, as it writes it; "" for root.
        env: Its variables, as ``NAME=value``.
        cwd: Where it runs.
    """

    name: str
    user_digest: str
    snapshotter: str
    chain_id: str
    config: Digest
    machine: str
    user: str
    env: Sequence[str]
    cwd: str


async def find_image(client: Client, user_digest: str, snapshotter: str | None) -> StartableImage:
    """Find a prepared image, and read its config.

    Raises:
        NotFoundError: It is not prepared, or not unpacked into that snapshotter.
        InvalidReferenceError: It has no pause program.
        InvalidImageError: What the daemon holds of it is broken.
    """
    name = prepared_image_name(user_digest)
    record = await client.images.get(name)
    image = read_record(record) if record else None
    if image is None:
        raise NotFoundError(
            f"{user_digest} is not prepared in the namespace {client.namespace}: pull it first"
        )
    if ALIAS in image.recipe.split("/"):
        raise InvalidReferenceError(
            f"{user_digest} was prepared as an alias, without a pause program: pull it with a layer"
        )
    chosen = _choose(image, snapshotter)
    chain_id = image.snapshots[chosen]
    config = await _config(ContentSource(client), image, chain_id)
    if config.platform.os != "linux":
        raise InvalidReferenceError(f"{user_digest} is for {config.platform}: warm is for Linux")
    kept = original(config)
    execution = config.execution
    user = kept.user if kept is not None else str(execution.get("User", ""))
    return StartableImage(
        name,
        str(image.user_digest),
        chosen,
        chain_id,
        config.digest,
        config.platform.architecture,
        user or "",
        text_list(execution, "Env") if execution.get("Env") else (),
        str(execution.get("WorkingDir") or "/"),
    )


def _choose(image: PreparedImage, wanted: str | None) -> str:
    names = [name for name, chain_id in image.snapshots.items() if chain_id]
    if wanted is None and names:
        return names[0] if len(names) == 1 else _one_of(names)
    if wanted not in names:
        raise NotFoundError(
            f"{image.user_digest} is not unpacked into {wanted or 'a snapshotter'}, "
            f"but into {', '.join(names) or 'none'}: pull it for this one"
        )
    return wanted


def _one_of(names: Iterable[str]) -> str:
    return _DEFAULT_SNAPSHOTTER if _DEFAULT_SNAPSHOTTER in names else min(names)


async def _config(source: ContentSource, image: PreparedImage, chain_id: str) -> Config:
    """The config of the platform that is unpacked."""
    document = parse_document(await read(source, image.target), image.target)
    manifests = [document] if isinstance(document, Manifest) else await _members(source, document)
    for manifest in manifests:
        config = await read_config(source, manifest)
        if config.diff_ids and str(chain_ids(config.diff_ids)[-1]) == chain_id:
            return config
    raise BackendError(
        f"what is unpacked of {image.user_digest} belongs to none of its manifests: pull it again"
    )


async def _members(source: ContentSource, index: Index) -> list[Manifest]:
    found = [parse_document(await read(source, entry), entry) for entry in index.manifests]
    return [it for it in found if isinstance(it, Manifest)]
