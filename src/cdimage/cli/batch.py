"""Several images in one go: one that fails does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from cdimage.cli.output import as_json, show_json, show_table
from cdimage.cli.progress import Display
from cdimage.errors import CdimageError, InvalidReferenceError
from cdimage.preparation import Inject
from cdimage.prepared_store import PreparedStore
from cdimage.reference import Reference
from cdimage.resolve import Wanted
from cdimage.store import PreparedImage

_IMAGES_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one reference: an image or an error."""

    reference: str
    image: PreparedImage | None
    error: CdimageError | None

    def as_json(self) -> dict[str, Any]:
        """What a program reads of it."""
        if self.image is not None:
            return {"reference": self.reference, **as_json(self.image)}
        return {"reference": self.reference, "error": str(self.error), "exit_code": self.exit_code}

    @property
    def exit_code(self) -> int:
        """That of the error; 0 for none."""
        return self.error.exit_code if self.error else 0


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of each image, beside its reference."""

    platform: Wanted
    inject: Inject
    check_access: bool


def read_references(file: Iterable[str]) -> list[str]:
    """References, one a line; empty lines, and what follows a ``#``, are left out."""
    lines = (line.partition("#")[0].strip() for line in file)
    return [line for line in lines if line]


async def pull_all(
    store: PreparedStore, references: Iterable[str], wish: Wish, display: Display
) -> list[Result]:
    """Pull and prepare images, some at a time; the results are in the order of the references."""
    limit = asyncio.Semaphore(_IMAGES_AT_ONCE)

    async def pull(reference: str) -> Result:
        async with limit:
            try:
                return Result(
                    reference, await pull_one(store, reference, None, wish, display), None
                )
            except CdimageError as error:
                display.end(reference, "failed")
                click.echo(f"cdimage: {reference}: {error}", err=True)
                return Result(reference, None, error)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pull(reference)) for reference in dict.fromkeys(references)]
    return [task.result() for task in tasks]


async def pull_one(
    store: PreparedStore, reference: str, digest: str | None, wish: Wish, display: Display
) -> PreparedImage:
    """Pull and prepare one image; without a digest, its tag is resolved first."""
    if digest is None:
        digest = await store.resolve_image(reference)
        if Reference.parse(reference).digest is None:
            click.echo(f"{Reference.parse(reference)} is {digest}", err=True)
    await store.pull_image(
        reference,
        digest,
        platform=wish.platform,
        inject=wish.inject,
        check_access=wish.check_access,
        progress=display.image(reference),
    )
    display.end(reference, "prepared")
    return await store.get_image(digest)


def show_results(results: Sequence[Result], *, is_json: bool) -> int:
    """Print what became of each, and return the exit code.

    It is 0 when all are prepared, the one that all failures share, or else 1.
    """
    if is_json:
        show_json([result.as_json() for result in results])
    else:
        rows = [_row(result) for result in results]
        show_table(("REFERENCE", "RESULT", "USER DIGEST"), rows)
    failed = [result for result in results if result.error]
    if not failed:
        return 0
    done = len(results) - len(failed)
    click.echo(f"cdimage: {done} of {len(results)} images are prepared", err=True)
    codes = {result.exit_code for result in failed}
    return codes.pop() if len(codes) == 1 else 1


def _row(result: Result) -> tuple[str, str, str]:
    if result.image is None:
        return (result.reference, f"failed ({result.exit_code})", "-")
    return (result.reference, "prepared", str(result.image.user_digest))


def check_several(references: Sequence[str], digest: str | None) -> None:
    """Refuse what makes sense for one image only.

    Raises:
        InvalidReferenceError: There is no reference, or a digest for several.
    """
    if not references:
        raise InvalidReferenceError("no image is named: write a reference, as debian:12")
    if digest is not None and len(references) > 1:
        raise InvalidReferenceError(
            "--digest is for one reference: with several, write each as REF@DIGEST"
        )
