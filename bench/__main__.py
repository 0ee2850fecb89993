"""Measure everything, or what is named: ``python -m bench [NAME...] [--runs N] [--json FILE]``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench import starting
from bench.rows import Row, show

_SECTIONS: Final[dict[str, Callable[[int], Iterator[Row]]]] = {
    "starting": starting.measure,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_SECTIONS))
    parser.add_argument("--runs", type=int, default=10, help="more are slower, and steadier")
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names or _SECTIONS:
        for row in _SECTIONS[name](arguments.runs):
            show(row)
            rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows]) + "\n")


if __name__ == "__main__":
    main()
