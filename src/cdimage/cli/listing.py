"""The commands that list: they are typed often, and load no more than it takes."""

from __future__ import annotations

from datetime import UTC, datetime
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


async def ps(settings: Settings) -> None:
    """List the containers."""
    from cdimage import warm  # noqa: PLC0415 - loads gRPC

    async with settings.connect() as client:
        boxes = await warm.list(client)
    if settings.is_json:
        show_json(
            [
                {
                    "id": it.id,
                    "user_digest": it.user_digest,
                    "running": it.is_running,
                    "used": it.is_used,
                    "created_at": it.created_at.isoformat(),
                    "labels": dict(it.labels),
                }
                for it in boxes
            ]
        )
        return
    rows = [
        (it.id, it.user_digest, "running" if it.is_running else "ended", _age(it.created_at))
        for it in boxes
    ]
    show_table(("CONTAINER", "USER DIGEST", "STATUS", "AGE"), rows)


def _row(image: PreparedImage) -> tuple[str, str, str, str]:
    snapshotters = ",".join(sorted(image.snapshots)) or "-"
    return (str(image.user_digest), show_platforms(image), snapshotters, show_time(image))


def _age(created_at: datetime) -> str:
    seconds = int((datetime.now(UTC) - created_at).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
