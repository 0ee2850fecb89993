"""Results, on standard output: a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cdimage.digest import Digest

if TYPE_CHECKING:
    from cdimage.store import PreparedImage


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, as wide as their widest cell."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def show_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one a line."""
    width = max(len(key) for key, _ in fields)
    for key, value in fields:
        click.echo(f"{key.ljust(width)}  {value}".rstrip())


def show_json(value: object) -> None:
    """Print a result for programs."""
    import json  # noqa: PLC0415 - needed here only

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def as_json(image: PreparedImage) -> dict[str, Any]:
    """A prepared image as programs see it."""
    return {
        "user_digest": str(image.user_digest),
        "name": image.name,
        "platforms": [str(platform) for platform in image.platforms],
        "snapshots": dict(image.snapshots),
        "manifest": {
            "media_type": image.target.media_type,
            "digest": str(image.target.digest),
            "size": image.target.size,
        },
        "updated_at": image.updated_at.isoformat() if image.updated_at else None,
    }


def show_platforms(image: PreparedImage) -> str:
    """What an image runs on, in one word."""
    return ",".join(map(str, image.platforms))


def show_time(image: PreparedImage) -> str:
    """When an image was registered, where that is known."""
    return f"{image.updated_at:%Y-%m-%d %H:%M:%S} UTC" if image.updated_at else "-"


def read_digest(text: str) -> str:
    """A digest, with or without its algorithm, or at the end of a reference.

    Raises:
        InvalidReferenceError: It is not one.
    """
    return str(Digest.parse(text.rpartition("@")[2]))


def readable_size(size: float) -> str:
    """A number of bytes for people, as ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
