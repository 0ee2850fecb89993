"""What is registered of a prepared image in containerd, and the labels that hold it."""

from __future__ import annotations

from typing import Final

from cdimage.containerd.images import ImageRecord
from cdimage.containerd.listing import SNAPSHOT
from cdimage.image import Manifest, chain_ids
from cdimage.notes import ALL_PLATFORMS, notes_of
from cdimage.preparation import Preparation, Variant
from cdimage.prepare import Prepared
from cdimage.prepared_name import prepared_image_name
from cdimage.reference import Reference
from cdimage.resolve import ResolvedImage
from cdimage.store import PreparedImage

_GC_CONTENT: Final = "containerd.io/gc.ref.content."
_GC_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot."
_SOURCE: Final = "containerd.io/distribution.source."
_LABEL_LIMIT: Final = 4096


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
