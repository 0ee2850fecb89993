"""Progress, on standard error: bars on a terminal, a line a change elsewhere.

One image is drawn layer by layer, several as one line each.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import click

from cdimage.cli.output import readable_size
from cdimage.digest import Digest
from cdimage.store import Progress, ProgressCallback, State

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_SHORT = 12
_NAME_WIDTH = 40


class Display(Protocol):
    """Draws what it is told about images, each known by a name."""

    def image(self, name: str) -> ProgressCallback:
        """The callback for one image."""
        ...

    def end(self, name: str, outcome: str) -> None:
        """Nothing more happens to an image, to which perhaps nothing had to happen."""
        ...


@contextmanager
def showing_progress(*, quiet: bool, many: bool) -> Iterator[Display]:
    """A display, for as long as images are pulled.

    Args:
        quiet: Draw nothing.
        many: Whether more than one image is pulled.
    """
    if quiet:
        yield _Silence()
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _ImageBars(bars) if many else _LayerBars(bars)
    else:
        yield _ImageLines() if many else _LayerLines()


@dataclass
class Sum:
    """What the events of one image add up to, in bytes."""

    latest: dict[Digest, Progress] = field(default_factory=dict)

    def add(self, event: Progress) -> None:
        """Take the newest event of a blob."""
        self.latest[event.descriptor.digest] = event

    @property
    def total(self) -> int:
        """Of all blobs that are known."""
        return sum(event.total for event in self.latest.values())

    @property
    def offset(self) -> int:
        """Here by now."""
        return sum(event.offset for event in self.latest.values())

    @property
    def fetched(self) -> int:
        """Fetched by this pull."""
        return sum(event.offset - event.resumed_at for event in self.latest.values())

    @property
    def state(self) -> State:
        """Of the blob that is furthest from its end."""
        order = (State.FETCHING, State.WAITING, State.UNPACKING, State.FETCHED, State.DONE)
        states = {event.state for event in self.latest.values()}
        return next((state for state in order if state in states), State.EXISTS)


class _Silence:
    def image(self, _: str) -> ProgressCallback:
        return lambda _: None

    def end(self, name: str, outcome: str) -> None:
        """Quiet."""


class _LayerLines:
    """One line whenever a layer's state changes."""

    def image(self, _: str) -> ProgressCallback:
        shown: dict[Digest, State] = {}

        def show(event: Progress) -> None:
            digest = event.descriptor.digest
            if shown.get(digest) is event.state:
                return
            shown[digest] = event.state
            resumed = event.state is State.FETCHING and event.resumed_at > 0
            where = f" from {readable_size(event.resumed_at)}" if resumed else ""
            total = readable_size(event.total)
            click.echo(f"{short(digest)} {event.state}{where} of {total}", err=True)

        return show

    def end(self, name: str, outcome: str) -> None:
        """The layers have told it."""


class _ImageLines:
    """One line whenever the state of an image changes, with what it has by then."""

    def image(self, name: str) -> ProgressCallback:
        seen, shown = Sum(), State.WAITING

        def show(event: Progress) -> None:
            nonlocal shown
            seen.add(event)
            if seen.state is not shown:
                shown = seen.state
                sizes = f"{readable_size(seen.offset)} of {readable_size(seen.total)}"
                click.echo(f"{name} {shown}, {sizes}", err=True)

        return show

    def end(self, name: str, outcome: str) -> None:
        """One line more."""
        click.echo(f"{name} {outcome}", err=True)


class _LayerBars:
    """A bar for each layer."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    def image(self, _: str) -> ProgressCallback:
        draw = _drawing(self._bars)
        return lambda event: draw(
            short(event.descriptor.digest), event.offset, event.total, event.state
        )

    def end(self, name: str, outcome: str) -> None:
        """The layers have told it."""


class _ImageBars:
    """A bar for each image."""

    def __init__(self, bars: Bars) -> None:
        self._draw = _drawing(bars)
        self._sums: defaultdict[str, Sum] = defaultdict(Sum)

    def image(self, name: str) -> ProgressCallback:
        self._draw(_shortened(name), 0, None, State.WAITING)

        def add(event: Progress) -> None:
            seen = self._sums[name]
            seen.add(event)
            self._draw(_shortened(name), seen.offset, seen.total, seen.state)

        return add

    def end(self, name: str, outcome: str) -> None:
        """A bar that moves no more."""
        seen = self._sums[name]
        self._draw(_shortened(name), seen.offset, seen.total, outcome)


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"


def _drawing(bars: Bars) -> Callable[[str, int, int | None, str], None]:
    """A function that draws a bar of a name: how much is here, of how much."""
    from rich.progress import TaskID  # noqa: PLC0415 - only terminals pay for it

    tasks: dict[str, TaskID] = {}

    def draw(name: str, offset: int, total: int | None, state: str) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, state=state)
        bars.update(tasks[name], completed=offset, total=total, state=state)

    return draw


@contextmanager
def _bars() -> Iterator[Bars]:
    from rich.console import Console  # noqa: PLC0415 - only terminals pay for it
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars


def short(digest: Digest) -> str:
    """Enough of a digest for people to tell it from others."""
    return digest.hex[:_SHORT]
