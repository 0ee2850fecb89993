"""Which prepared images a containerd has: as much as it takes to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError
from cdimage.notes import ALL_PLATFORMS, RECIPE, USER_DIGEST, platforms_in
from cdimage.prepared_name import PREPARED_REPOSITORY, prepared_image_name
from cdimage.store import PreparedImage

if TYPE_CHECKING:
    from cdimage.containerd.client import Client
    from cdimage.containerd.images import ImageRecord

SNAPSHOT: Final = "hpcc.dev/snapshot."
"""Followed by a snapshotter: the chain ID of the snapshot that it holds for this image."""

_ALL: Final = f'name~="^{PREPARED_REPOSITORY.replace(".", "[.]")}:",labels."{USER_DIGEST}"'
"""The filter for the records of prepared images (containerd v2.1.0, pkg/filters)."""


async def list_prepared(client: Client) -> list[PreparedImage]:
    """The prepared images, those that were registered last first.

    Raises:
        UnavailableError: containerd does not answer.
    """
    found = map(read_record, await client.images.list(_ALL))
    return sorted(
        (image for image in found if image is not None),
        key=lambda image: str(image.updated_at),
        reverse=True,
    )


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
