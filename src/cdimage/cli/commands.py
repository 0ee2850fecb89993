"""What inspect and untag do: each makes one call and prints one result."""

from __future__ import annotations

import click

from cdimage.cli.output import (
    as_json,
    read_digest,
    show_fields,
    show_json,
    show_platforms,
    show_time,
)
from cdimage.cli.settings import Settings
from cdimage.cli.stores import open_store


async def inspect(settings: Settings, digest: str) -> None:
    """Show a prepared image and what its base would have run."""
    async with open_store(settings) as store:
        image = await store.get_image(read_digest(digest))
        original = await store.get_original(str(image.user_digest))
    value = as_json(image)
    value["original"] = original and {
        "base": str(original.base),
        "entrypoint": original.entrypoint,
        "cmd": original.cmd,
        "user": original.user,
        "stop_signal": original.stop_signal,
    }
    if settings.is_json:
        show_json(value)
        return
    fields = [
        ("user digest", str(image.user_digest)),
        ("name", image.name),
        ("platform", show_platforms(image)),
        ("prepared", show_time(image)),
        *((f"snapshot in {sn}", chain_id) for sn, chain_id in image.snapshots.items()),
        *((f"original {key}", str(item)) for key, item in (value["original"] or {}).items()),
    ]
    show_fields(fields)


async def untag(settings: Settings, digests: tuple[str, ...]) -> None:
    """Drop prepared images."""
    parsed = [read_digest(digest) for digest in digests]
    async with open_store(settings) as store:
        for digest in parsed:
            await store.untag_image(digest)
    if settings.is_json:
        show_json({"untagged": parsed})
    else:
        for digest in parsed:
            click.echo(f"untagged {digest}")
