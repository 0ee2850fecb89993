"""What was measured: things that were done in turn, and what one takes of another."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """What a row is to show.

    Attributes:
        of: The way that is looked at.
        to: The way that it is compared with, run by run; "" for the value itself.
        at_most: The largest that is good.
    """

    of: str
    to: str
    at_most: float


@dataclass
class Row:
    """Ways to do one thing, measured in turn.

    Attributes:
        key: Its name in files.
        title: What is done.
        how: What is cold, what is warm, and anything else that is needed to do it again.
        unit: Of the values: ``ms``, ``s``, ``MB``.
        values: By way, one a run.
        commands: By way, what a person would type; "" for a call.
        targets: What it is to show.
        note: What to know of it, as why a target is out of reach.
    """

    key: str
    title: str
    how: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    note: str = ""

    def median(self, way: str) -> float:
        """The middle of a way's values."""
        return statistics.median(self.values[way])

    def ratio(self, of: str, to: str) -> float:
        """The middle of what one way takes of another, pair by pair."""
        pairs = zip(self.values[of], self.values[to], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def reached(self, target: Target) -> float:
        """What came of a target."""
        return self.ratio(target.of, target.to) if target.to else self.median(target.of)


def in_turn(runs: int, ways: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Do each thing once a run, the order drawn by lot; what each returned."""
    values: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way in random.sample(list(ways), len(ways)):
            values[way].append(ways[way]())
    return values


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def milliseconds(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Seconds, as milliseconds."""
    return {way: [1000 * value for value in each] for way, each in values.items()}


def show(row: Row) -> None:
    """Print a row."""
    print(f"{row.title} ({row.how})")
    for way, values in row.values.items():
        low, high = min(values), max(values)
        print(
            f"  {way:24} {row.median(way):9.1f} {row.unit}   "
            f"({low:.1f} to {high:.1f}, {len(values)} runs)"
        )
    for target in row.targets:
        what = f"{target.of} / {target.to}" if target.to else target.of
        reached = row.reached(target)
        word = "as wanted" if reached <= target.at_most else "MISSED"
        print(f"  {what}: {reached:.2f}, at most {target.at_most}: {word}", flush=True)
