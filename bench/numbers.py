"""Numbers as people read them: three digits that mean something, and what lies around a median."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_DIGITS: Final = 3
_ENOUGH_FOR_QUARTILES: Final = 8


class Spread(NamedTuple):
    """From where to where values lie."""

    low: float
    high: float


def number(value: float) -> str:
    """A value with three significant digits, and thousands set off."""
    rounded = significant(value, _DIGITS)
    return f"{rounded:,.{max(0, _DIGITS - 1 - _exponent(rounded))}f}"


def significant(value: float, digits: int) -> float:
    """A value, rounded to so many significant digits."""
    return round(value, digits - 1 - _exponent(value))


def spreads(values: Mapping[str, Sequence[float]]) -> tuple[str, dict[str, Spread]]:
    """The spread of each way's values, and what kind it is: the same for all of them."""
    if min(map(len, values.values())) < _ENOUGH_FOR_QUARTILES:
        return "lowest to highest", {way: Spread(min(v), max(v)) for way, v in values.items()}
    return "middle half", {way: _quartiles(each) for way, each in values.items()}


def _quartiles(values: Sequence[float]) -> Spread:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, high)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0
