"""What a prepared image looks like in containerd: its record, and the labels that hold it."""

from __future__ import annotations

from typing import Final

from cdimage.containerd.images import ImageRecord
from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError
from cdimage.image import Manifest, chain_ids
from cdimage.notes import ALL_PLATFORMS, RECIPE, USER_DIGEST, notes_of, platforms_in
from cdimage.preparation import Preparation, Variant
from cdimage.prepare import Prepared
from cdimage.prepared_name import PREPARED_REPOSITORY, prepared_image_name
from cdimage.reference import Reference
from cdimage.resolve import ResolvedImage
from cdimage.store import PreparedImage

SNAPSHOT: Final = "hpcc.dev/snapshot."
"""Followed by a snapshotter: the chain ID of the snapshot that it holds for this image."""

_GC_CONTENT: Final = "containerd.io/gc.ref.content."
_GC_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot."
_SOURCE: Final = "containerd.io/distribution.source."
_LABEL_LIMIT: Final = 4096

ALL_PREPARED: Final = f'name~="^{PREPARED_REPOSITORY.replace(".", "[.]")}:",labels."{USER_DIGEST}"'
"""The filter for the records of prepared images (containerd v2.1.0, pkg/filters)."""


def read_record(record: ImageRecord) -> PreparedImage | None:
    """Read a record; None when it is not of a prepared image.

    Records of other programs that follow the convention lack our labels: they are
    prepared images, and always out of date.
    """
    labels = record.labels
    try:
        digest = Digest.parse(labels.get(USER_DIGEST, "?"))
    except InvalidReferenceError:
        return None
    if record.name != prepared_image_name(str(digest)):
        return None
    snapshots = {
        key.removeprefix(SNAPSHOT): labels[key] for key in labels if key.startswith(SNAPSHOT)
    }
    return PreparedImage(
        digest,
        record.name,
        record.target,
        platforms_in(labels),
        labels.get(RECIPE, ""),
        ALL_PLATFORMS in labels,
        snapshots,
        record.updated_at,
    )


def prepared_record(
    preparation: Preparation,
    unpacked: Variant | None,
    snapshotter: str,
    before: PreparedImage | None,
) -> ImageRecord:
    """The record of a prepared image.

    Args:
        preparation: It.
        unpacked: What of it was unpacked.
        snapshotter: Where.
        before: The record that it replaces: snapshots of another image are forgotten.
    """
    chain_id = top_chain_id(unpacked.prepared) if unpacked else None
    stale = {
        f"{SNAPSHOT}{name}": ""
        for name, held in (before.snapshots if before else {}).items()
        if held != chain_id
    }
    labels = {
        ALL_PLATFORMS: "",  # removed, where it is not noted
        **notes_of(preparation),
        **stale,
        **({f"{SNAPSHOT}{snapshotter}": chain_id} if chain_id else {}),
    }
    name = prepared_image_name(str(preparation.user_digest))
    return ImageRecord(name, preparation.target, labels)


def top_chain_id(prepared: Prepared) -> str:
    """The name of the snapshot that a container of the prepared image starts from."""
    return str(chain_ids(prepared.config.diff_ids)[-1]) if prepared.config.diff_ids else ""


def manifest_labels(image: ResolvedImage, manifest: Manifest) -> dict[str, str]:
    """What the prepared manifest keeps: its config and layers, and the base's documents.

    With those, the image can be prepared again, for a new pause program, without a network.
    """
    base = (*image.indexes, image.manifest, image.config)
    return {
        f"{_GC_CONTENT}config": str(manifest.config.digest),
        **{f"{_GC_CONTENT}l.{n}": str(layer.digest) for n, layer in enumerate(manifest.layers)},
        **{
            f"{_GC_CONTENT}base.{n}": str(document.digest)
            for n, document in enumerate(base)
            if document.digest != manifest.digest
        },
    }


def index_labels(preparation: Preparation) -> dict[str, str]:
    """What the prepared index keeps: its manifests."""
    return {
        f"{_GC_CONTENT}m.{n}": str(variant.prepared.manifest.digest)
        for n, variant in enumerate(preparation.variants)
    }


def config_labels(chain_id: str, snapshotter: str | None) -> dict[str, str]:
    """What the prepared config keeps: the top snapshot, and with it those below."""
    return {f"{_GC_SNAPSHOT}{snapshotter}": chain_id} if snapshotter else {}


def source_labels(named: Reference) -> dict[str, str]:
    """Which registry a blob came from, as containerd's own clients note it."""
    key = f"{_SOURCE}{named.registry}"
    fits = len(key) + len(named.repository) <= _LABEL_LIMIT
    return {key: named.repository} if fits and not named.transport else {}
