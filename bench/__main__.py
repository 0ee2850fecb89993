"""Measure everything, or what is named.

Everything becomes docs/benchmarks.json, and docs/benchmarks.md with its pictures is drawn from it.
With names both stay as they are, and so they do where a section fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.tools import ROOT

from bench import growing, layout, preparing, pulling, registry, report, starting, warm
from bench.machine import describe
from bench.results import Results, Section, from_json, to_json
from bench.rows import Row, show

Sections = Mapping[str, tuple[str, Callable[[int], Iterable[Row]]]]
"""By name on the command line, the title and what measures, given how many runs."""

_SECTIONS: Final[Sections] = {
    "preparing": ("Preparing an image whose base is unpacked", preparing.measure),
    "pulling": ("Pulling", pulling.measure),
    "registry": ("Preparing in a registry", registry.measure),
    "layout": ("Preparing in an image layout", layout.measure),
    "warm": ("Running jobs", warm.measure),
    "growing": ("How cost grows", growing.measure),
    "starting": ("Starting cdimage", starting.measure),
}
_FILE: Final = "benchmarks.json"


def main(
    words: Sequence[str] | None = None,
    sections: Sections = _SECTIONS,
    docs: Path = ROOT / "docs",
) -> int:
    """Measure and print, and write what is to be kept; the exit code."""
    arguments = _arguments(words, sections)
    if arguments.draw:
        _draw(docs)
        return 0
    failures: list[str] = []
    chosen = {name: sections[name] for name in arguments.names or sections}
    measured = list(_measure(chosen, arguments.runs, failures))
    if arguments.json:
        _write(measured, arguments.json)
    elif not arguments.names and failures:
        _write(measured, Path(tempfile.mkdtemp(prefix="cdi-bench-"), _FILE))
    elif not arguments.names:
        _write(measured, docs / _FILE)
        _draw(docs)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _arguments(words: Sequence[str] | None, sections: Sections) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(sections))
    parser.add_argument("--runs", type=int, default=10, help="more are slower, and steadier")
    parser.add_argument("--json", type=Path, help="where the results go, and nothing is drawn")
    parser.add_argument("--draw", action="store_true", help="draw again, and measure nothing")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.names) - set(sections):
        parser.error(f"no section is named {', '.join(sorted(unknown))}")
    return arguments


def _measure(sections: Sections, runs: int, failures: list[str]) -> Iterator[Section]:
    """Measure one after another; what one that fails has measured before is kept."""
    for name, (title, rows_of) in sections.items():
        rows: list[Row] = []
        try:
            for row in rows_of(runs):
                show(row)
                rows.append(row)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
            traceback.print_exc()
            failures.append(f"{name}: {error!r}")
        yield Section(title, rows)


def _write(measured: list[Section], file: Path) -> None:
    results = Results(datetime.now(UTC).date().isoformat(), describe(), measured)
    file.write_text(to_json(results))
    print(f"written: {file}")


def _draw(docs: Path) -> None:
    """Draw from the file, so that the page says what the file says."""
    report.write(from_json((docs / _FILE).read_text()), docs)


if __name__ == "__main__":
    sys.exit(main())
