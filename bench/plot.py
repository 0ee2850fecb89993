"""A row as a picture: bars of medians, their spread, and the runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from bench.numbers import Spread, number, spreads
from bench.rows import Row

_WIDTH: Final = 720
_PITCH: Final = 44  # from one way to the next
_BAR: Final = 18
_VALUES: Final = 96  # the column at the right
_LETTER: Final = 7.2  # as wide as the letters of a name are on average, in the widest usual font
_FEW: Final = 24  # runs that can be told from each other
_LOGARITHMIC: Final = 30  # the largest value is that many times the smallest

_STYLE: Final = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
.value { font-weight: 600; font-variant-numeric: tabular-nums; text-anchor: end }
.tick { font-size: 11px; fill: #656d76; text-anchor: middle }
.grid { stroke: #8c959f; stroke-opacity: .25 }
.ours { fill: #2f6feb }
.peer { fill: #afb8c1 }
.spread { stroke: #24292f; stroke-width: 1.5; fill: none }
.run { fill: #24292f; fill-opacity: .4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .tick { fill: #9198a1 }
  .ours { fill: #4c8dff }
  .peer { fill: #59636e }
  .spread { stroke: #e6edf3 }
  .run { fill: #e6edf3 }
}
"""


@dataclass(frozen=True)
class _Scale:
    """Where values are drawn, from left to right.

    Attributes:
        low: The value at the left end.
        high: The value at the right end.
        left: The left end.
        right: The right end.
        logarithmic: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    left: float
    right: float
    logarithmic: bool

    def at(self, value: float) -> float:
        """Where a value is drawn."""
        return self.left + self._part(value) * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Round values, few enough to be read."""
        if self.logarithmic:
            powers = range(round(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**power for power in powers]
        step = _round_step(self.high / 6)
        return [count * step for count in range(math.floor(self.high / step) + 1)]

    def _part(self, value: float) -> float:
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return value / self.high


def plot(row: Row) -> str:
    """A picture of a row, as SVG that is readable on light and on dark."""
    kind, around = spreads(row.values)
    scale = _scale(row, around.values())
    bottom = _PITCH * len(row.values) + 4
    height = bottom + 42
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f"<title>{escape(row.title.replace('`', ''))}</title>",
        f"<style>\n{_STYLE}</style>",
        *_axis(scale, bottom),
        *(
            part
            for place, way in enumerate(row.values)
            for part in _way(row, way, around[way], scale, place * _PITCH)
        ),
        _text(_caption(row, kind, scale), (scale.left + scale.right) / 2, bottom + 34, "tick"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _is_ours(row: Row, way: str) -> bool:
    """Whether a way is cdimage's, and not a peer's."""
    return "cdimage" in way or "Box" in way or any(target.of == way for target in row.targets)


def _scale(row: Row, around: Iterable[Spread]) -> _Scale:
    medians = [row.median(way) for way in row.values]
    drawn = [value for spread in around for value in spread]
    drawn += [value for values in row.values.values() for value in _dots(values)]
    low, high = min(drawn), max(drawn)
    left = 16 + _LETTER * max(map(len, row.values))
    right = _WIDTH - _VALUES
    if low <= 0 or max(medians) <= _LOGARITHMIC * min(medians):
        return _Scale(0, high or 1, left, right, logarithmic=False)
    return _Scale(10.0 ** math.floor(math.log10(low / 2)), high, left, right, logarithmic=True)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... that is no less."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least)


def _dots(values: Sequence[float]) -> Sequence[float]:
    return values if len(values) <= _FEW else ()


def _caption(row: Row, kind: str, scale: _Scale) -> str:
    dots = "; dots: runs" if any(map(_dots, row.values.values())) else ""
    logarithmic = ", on a logarithmic scale" if scale.logarithmic else ""
    return f"{row.unit}{logarithmic} (bar: median; line: {kind}{dots})"


def _axis(scale: _Scale, bottom: float) -> Iterator[str]:
    for tick in scale.ticks():
        x = scale.at(tick)
        yield f'<path class="grid" d="M{x:.1f} 4V{bottom}"/>'
        yield _text(f"{tick:,.10g}", x, bottom + 16, "tick")


def _way(row: Row, way: str, around: Spread, scale: _Scale, top: float) -> Iterator[str]:
    """One bar, with what belongs to it."""
    middle = top + 8 + _BAR / 2
    end = scale.at(row.median(way))
    low, high = map(scale.at, around)
    colour = "ours" if _is_ours(row, way) else "peer"
    yield _text(way, 4, middle + 4.5)
    yield (
        f'<rect class="{colour}" x="{scale.left:.1f}" y="{top + 8}" rx="2" '
        f'width="{max(1, end - scale.left):.1f}" height="{_BAR}"/>'
    )
    yield (
        f'<path class="spread" d="M{low:.1f} {middle}H{high:.1f}'
        f'M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>'
    )
    for value in _dots(row.values[way]):
        yield f'<circle class="run" cx="{scale.at(value):.1f}" cy="{top + 33}" r="2.5"/>'
    yield _text(f"{number(row.median(way))} {row.unit}", _WIDTH - 4, middle + 4.5, "value")


def _text(words: str, x: float, y: float, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
