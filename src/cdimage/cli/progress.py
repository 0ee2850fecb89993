"""Progress, on standard error: a bar a layer on a terminal, a line a change elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from cdimage.cli.output import readable_size
from cdimage.descriptor import Digest
from cdimage.store import Progress, ProgressCallback, State


@contextmanager
def showing_progress(*, quiet: bool) -> Iterator[ProgressCallback]:
    """A callback that draws what it is told."""
    if quiet:
        yield _show_nothing
    elif sys.stderr.isatty():
        with _bars() as callback:
            yield callback
    else:
        yield _Lines()


def _show_nothing(_: Progress) -> None:
    """Quiet."""


class _Lines:
    """One line whenever a layer's state changes."""

    def __init__(self) -> None:
        self._shown: dict[Digest, State] = {}

    def __call__(self, event: Progress) -> None:
        digest = event.descriptor.digest
        if self._shown.get(digest) is event.state:
            return
        self._shown[digest] = event.state
        resumed = event.state is State.FETCHING and event.offset > 0
        where = f" from {readable_size(event.offset)}" if resumed else ""
        click.echo(
            f"{short(digest)} {event.state}{where} of {readable_size(event.total)}", err=True
        )


@contextmanager
def _bars() -> Iterator[ProgressCallback]:
    from rich.console import Console  # noqa: PLC0415 - only terminals pay for it
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    tasks: dict[Digest, TaskID] = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def draw(event: Progress) -> None:
            digest = event.descriptor.digest
            if digest not in tasks:
                tasks[digest] = bars.add_task(short(digest), total=event.total, state=event.state)
            bars.update(tasks[digest], completed=event.offset, state=event.state)

        yield draw


def short(digest: Digest) -> str:
    """Enough of a digest for people to tell it from others."""
    return digest.hex[:12]
