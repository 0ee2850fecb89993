"""What a whole session measured, and the file that keeps it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from bench.numbers import significant
from bench.rows import Row, Target

_DIGITS = 4  # the rest is noise
_NUMBERS = re.compile(r"\[\s+([-+.\deE,\s]*?)\s+\]")
_HEX = re.compile(r"(?<=sha256:)[0-9a-f]{64}")


@dataclass(frozen=True)
class Section:
    """Rows about one thing, in the order that they were measured in."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Results:
    """All that is written down.

    Attributes:
        date: The day on which it was measured.
        machine: What it was measured on and with, by what that is.
        sections: What was measured.
    """

    date: str
    machine: Mapping[str, str]
    sections: list[Section]

    @property
    def rows(self) -> list[Row]:
        """All of them."""
        return [row for section in self.sections for row in section.rows]


def to_json(results: Results) -> str:
    """The text of a file that holds results; values rounded, commands without folders and hex."""
    plain = dataclasses.asdict(results)
    for section in plain["sections"]:
        for row in section["rows"]:
            row["values"] = {way: _rounded(values) for way, values in row["values"].items()}
            row["commands"] = {way: _plain(words) for way, words in row["commands"].items()}
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def from_json(text: str) -> Results:
    """The results that `to_json` wrote."""
    plain = json.loads(text)
    sections = [
        Section(section["title"], [_row(row) for row in section["rows"]])
        for section in plain["sections"]
    ]
    return Results(plain["date"], plain["machine"], sections)


def _row(plain: dict[str, Any]) -> Row:
    return Row(**{**plain, "targets": [Target(**target) for target in plain["targets"]]})


def _rounded(values: list[float]) -> list[float]:
    return [significant(value, _DIGITS) for value in values]


def _plain(command: str) -> str:
    program, *rest = command.split(" ", 1)
    return _HEX.sub("…", " ".join([PurePath(program).name, *rest]))
