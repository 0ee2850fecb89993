"""Commands on prepared images that are there: verify, export, copy."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from cdimage.cli.output import read_digest, show_json
from cdimage.cli.settings import Settings
from cdimage.cli.stores import open_named_store, open_store
from cdimage.errors import InvalidImageError, InvalidReferenceError, NotFoundError
from cdimage.export import copy_image, export_image
from cdimage.validate import Verification, verify_image

STANDARD_OUTPUT: Final = "-"


async def verify(settings: Settings, digests: Sequence[str]) -> int:
    """Verify images, all of them where none is named; the exit code."""
    async with open_store(settings) as store:
        named = [read_digest(digest) for digest in digests]
        found = [await verify_image(store, digest) for digest in named]
        for digest in [] if named else await store.get_existing_images():
            with suppress(NotFoundError):  # it was untagged meanwhile
                found.append(await verify_image(store, digest))
    if settings.is_json:
        show_json([_as_json(one) for one in found])
    else:
        for one in found:
            _show(one)
    wrong = sum(bool(one.disagreements) for one in found)
    if wrong:
        click.echo(f"cdimage: {wrong} of {len(found)} images are not as they must be", err=True)
    return InvalidImageError.exit_code if wrong else 0


def _show(found: Verification) -> None:
    word = "WRONG" if found.disagreements else "ok   "
    click.echo(f"{word}  {found.user_digest}  {found.blobs} blobs, {found.size} bytes")
    for one in found.disagreements:
        click.echo(f"       {one}")


def _as_json(found: Verification) -> dict[str, Any]:
    return {
        "user_digest": str(found.user_digest),
        "blobs": found.blobs,
        "size": found.size,
        "disagreements": [
            {"what": one.what, "expected": one.expected, "found": one.found}
            for one in found.disagreements
        ],
    }


async def export(settings: Settings, digest: str, file: str) -> None:
    """Write an archive; a file appears when it is complete."""
    wanted = read_digest(digest)
    async with open_store(settings) as store:
        if file == STANDARD_OUTPUT:
            if sys.stdout.isatty():
                raise InvalidReferenceError(
                    "an archive is not for a terminal: name a file, or send it somewhere with >"
                )
            await export_image(store, wanted, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        with _appearing(file) as archive:
            await export_image(store, wanted, archive)
    if settings.is_json:
        show_json({"user_digest": wanted, "file": file})
    else:
        click.echo(f"exported {wanted} to {file}")


@contextmanager
def _appearing(path: str) -> Iterator[BinaryIO]:
    """A file that is at its path when all of it is written, and not before."""
    half = Path(f"{path}.{secrets.token_hex(4)}.partial")
    try:
        with half.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        with suppress(OSError):
            half.unlink()
        raise


async def copy(settings: Settings, digests: Sequence[str], target: str) -> None:
    """Copy images from the store of the settings to another."""
    wanted = [read_digest(digest) for digest in digests]
    async with open_store(settings) as ours, open_named_store(target, settings) as other:
        for digest in wanted:
            await copy_image(ours, other, digest)
        images = [await other.get_image(digest) for digest in wanted]
    if settings.is_json:
        show_json([{"user_digest": str(it.user_digest), "name": it.name} for it in images])
    else:
        for image in images:
            click.echo(f"copied {image.user_digest} to {image.name}")
