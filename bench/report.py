"""The documents that are drawn from results: a page, and a picture for each row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.numbers import number, spreads
from bench.plot import plot
from bench.results import Results
from bench.rows import Row, Target

_PAGE: Final = "benchmarks.md"
_PICTURES: Final = "benchmarks"

_TARGET_COLUMNS: Final = ["what", "against", "reached", "at most", "met"]

_OPENING: Final = """\
# Benchmarks

Drawn by `make bench` from what it measured; [benchmarks.json](benchmarks.json) has every run. What
is compared was done in turn, in one session on one machine, the order drawn by lot for each turn. A
ratio is the median of the ratios of such pairs, not the ratio of two medians: what slows the
machine for a while slows both of a pair.
"""

_NOISE: Final = """\
## What to expect of noise

The column after a median says how far runs lie apart. With 8 runs or more it is the middle half of
them, from the first quartile to the third; with fewer, the lowest and the highest. A difference
that is smaller says nothing.

Times are those of this machine; on another one they differ, and the ratios less. Processors and
disk of a virtual machine are shared with others: what writes much may take twice as long for a
while, and more runs are the only remedy. One machine, measured twice, where the second time Python
took 1.4 times as long to start and the daemon half as long for the bare calls, gave: preparing
against the bare calls 1.1, then 1.2 to 1.3; pulling against ctr 0.98 to 1.05, then 0.93 to 1.11; a
process against umoci 9, then 11.
"""

_AGAIN: Final = """\
## To do it again

```sh
make bench                     # everything; writes benchmarks.json, this page and its pictures
python -m bench NAME --runs N  # one section, printed only
python -m bench --draw         # this page and its pictures again, from benchmarks.json
```
"""


def write(results: Results, folder: Path) -> None:
    """Write the page and its pictures, and remove pictures of rows that are gone."""
    pictures = folder / _PICTURES
    pictures.mkdir(exist_ok=True)
    for old in set(pictures.glob("*.svg")) - {pictures / f"{row.key}.svg" for row in results.rows}:
        old.unlink()
    for row in results.rows:
        (pictures / f"{row.key}.svg").write_text(plot(row))
    (folder / _PAGE).write_text(document(results))


def document(results: Results) -> str:
    """The page, in Markdown."""
    parts = [_OPENING, _machine(results), _NOISE, _AGAIN, _targets(results)]
    for section in results.sections:
        parts += [f"## {section.title}\n", *map(_row, section.rows)]
    return "\n".join(parts)


def _machine(results: Results) -> str:
    rows = [(what, is_) for what, is_ in results.machine.items()]
    return "## The machine\n\n" + _table(["", ""], [*rows, ("date", results.date)])


def _targets(results: Results) -> str:
    found = [(row, target) for row in results.rows for target in row.targets]
    met = sum(_is_met(row, target) for row, target in found)
    lines = [[f"[{row.title}](#{row.key})", *_target(row, target)] for row, target in found]
    return (
        f"## Targets\n\n{met} of {len(found)} are met. What is reached is a ratio, or where "
        "nothing is compared a value; less is better.\n\n" + _table(["", *_TARGET_COLUMNS], lines)
    )


def _row(row: Row) -> str:
    parts = [
        f'<a id="{row.key}"></a>\n\n### {row.title}\n',
        f"{_sentence(row.how)}\n",
        f"![{_described(row)}]({_PICTURES}/{row.key}.svg)\n",
        _ways(row),
    ]
    if row.targets:
        parts.append(_table(_TARGET_COLUMNS, [_target(row, target) for target in row.targets]))
    if row.note:
        parts.append(f"{_sentence(row.note)}\n")
    return "\n".join(parts)


def _ways(row: Row) -> str:
    kind, around = spreads(row.values)
    return _table(
        ["way", "command", f"median, {row.unit}", kind, "runs"],
        [
            [
                way,
                f"`{row.commands[way]}`" if row.commands.get(way) else "a call",
                number(row.median(way)),
                f"{number(around[way].low)} to {number(around[way].high)}",
                str(len(values)),
            ]
            for way, values in row.values.items()
        ],
    )


def _target(row: Row, target: Target) -> list[str]:
    unit = "" if target.to else f" {row.unit}"
    return [
        target.of,
        target.to or "-",
        f"{number(row.reached(target))}{unit}",
        f"{target.at_most:g}{unit}",
        "yes" if _is_met(row, target) else "**no**",
    ]


def _is_met(row: Row, target: Target) -> bool:
    return row.reached(target) <= target.at_most


def _described(row: Row) -> str:
    """What a picture shows, for those who do not see it."""
    medians = [f"{way} {number(row.median(way))} {row.unit}" for way in row.values]
    return f"{row.title.replace('`', '')}: {', '.join(medians)}"


def _sentence(words: str) -> str:
    end = "" if words.endswith(".") else "."
    return words[:1].upper() + words[1:] + end


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruler = "|" + "---|" * len(heads)
    return "\n".join([_line(heads), ruler, *map(_line, rows)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
