"""What a prepared image looks like in containerd: its record, and the labels that hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cdimage.containerd.images import ImageRecord
from cdimage.descriptor import Descriptor, Digest, Platform
from cdimage.errors import InvalidReferenceError
from cdimage.image import Manifest, chain_ids
from cdimage.prepare import Prepared
from cdimage.pull import ResolvedImage
from cdimage.reference import PREPARED_REPOSITORY, prepared_image_name

USER_DIGEST: Final = "hpcc.dev/user-digest"
RECIPE: Final = "hpcc.dev/recipe"
PLATFORM: Final = "hpcc.dev/platform"
SNAPSHOT: Final = "hpcc.dev/snapshot."
"""Followed by a snapshotter: the chain ID of the snapshot that it holds for this image."""

_GC_CONTENT: Final = "containerd.io/gc.ref.content."
_GC_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot."
_SOURCE: Final = "containerd.io/distribution.source."
_LABEL_LIMIT: Final = 4096

ALL_PREPARED: Final = f'name~="^{PREPARED_REPOSITORY.replace(".", "[.]")}:",labels."{USER_DIGEST}"'
"""The filter for the records of prepared images (containerd v2.1.0, pkg/filters)."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A prepared image that is in a containerd.

    Attributes:
        user_digest: The digest that it was asked for by.
        name: Of its image record: what a runtime starts.
        target: The prepared manifest.
        platform: What it runs on.
        recipe: Of the pause program and the version of the preparation.
        snapshots: The top snapshot's name, by snapshotter.
        updated_at: When it was registered.
    """

    user_digest: Digest
    name: str
    target: Descriptor
    platform: Platform
    recipe: str
    snapshots: Mapping[str, str]
    updated_at: datetime | None

    @classmethod
    def read(cls, record: ImageRecord) -> PreparedImage | None:
        """Read a record; None when it is not of a prepared image.

        Records of other programs that follow the convention lack our labels: they are
        prepared images, and always out of date.
        """
        labels = record.labels
        try:
            digest = Digest.parse(labels.get(USER_DIGEST, "?"))
            platform = Platform.parse(labels.get(PLATFORM, "unknown/unknown"))
        except InvalidReferenceError:
            return None
        if record.name != prepared_image_name(str(digest)):
            return None
        snapshots = {
            key.removeprefix(SNAPSHOT): labels[key] for key in labels if key.startswith(SNAPSHOT)
        }
        return cls(
            digest,
            record.name,
            record.target,
            platform,
            labels.get(RECIPE, ""),
            snapshots,
            record.updated_at,
        )


def prepared_record(
    image: ResolvedImage,
    prepared: Prepared,
    recipe: str,
    snapshotter: str | None,
    before: PreparedImage | None,
) -> ImageRecord:
    """The record of a prepared image.

    Args:
        image: The base.
        prepared: What was made of it.
        recipe: Of the pause program.
        snapshotter: Where it was unpacked; None when it was not.
        before: The record that it replaces: snapshots of another image are forgotten.
    """
    chain_id = top_chain_id(prepared)
    stale = {
        f"{SNAPSHOT}{name}": ""
        for name, held in (before.snapshots if before else {}).items()
        if held != chain_id
    }
    unpacked = {f"{SNAPSHOT}{snapshotter}": chain_id} if snapshotter else {}
    labels = {
        USER_DIGEST: str(image.user_digest),
        RECIPE: recipe,
        PLATFORM: str(prepared.config.platform),
        **stale,
        **unpacked,
    }
    return ImageRecord(
        prepared_image_name(str(image.user_digest)), prepared.manifest.descriptor, labels
    )


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
        **{f"{_GC_CONTENT}base.{n}": str(document.digest) for n, document in enumerate(base)},
    }


def config_labels(chain_id: str, snapshotter: str | None) -> dict[str, str]:
    """What the prepared config keeps: the top snapshot, and with it those below."""
    return {f"{_GC_SNAPSHOT}{snapshotter}": chain_id} if snapshotter else {}


def source_labels(registry: str, repository: str) -> dict[str, str]:
    """Where a blob came from, as containerd's own clients note it."""
    key = f"{_SOURCE}{registry}"
    return {key: repository} if len(key) + len(repository) <= _LABEL_LIMIT else {}
