"""The command that lists prepared images: it is typed often, and loads no more than it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdimage.cli.output import as_json, show_json, show_platforms, show_table, show_time
from cdimage.cli.stores import list_images

if TYPE_CHECKING:
    from cdimage.cli.settings import Settings
    from cdimage.store import PreparedImage


async def ls(settings: Settings) -> None:
    """List the prepared images."""
    images = await list_images(settings)
    if settings.is_json:
        show_json([as_json(image) for image in images])
    else:
        header = ("USER DIGEST", "PLATFORM", "SNAPSHOTTERS", "PREPARED")
        show_table(header, [_row(image) for image in images])


def _row(image: PreparedImage) -> tuple[str, str, str, str]:
    snapshotters = ",".join(sorted(image.snapshots)) or "-"
    return (str(image.user_digest), show_platforms(image), snapshotters, show_time(image))
