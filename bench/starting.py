"""What starting cdimage costs, as a program and as an import."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.daemons import Containerd
from tests.node import Node
from tests.tools import tool

from bench.programs import CDIMAGE, run
from bench.rows import Row, Target, in_turn, milliseconds

_PYTHON = CDIMAGE[0]
_DIGEST = "sha256:" + "0" * 64
_LIBRARIES = "import click, grpc.aio, google.protobuf.timestamp_pb2"
_LISTING_NOTE = (
    "What reads options, speaks to containerd and understands its messages takes all of the "
    "target to load; the rest is an event loop, a connection, a call, and our own modules."
)
_SMALL_NOTE = (
    "click alone takes nearly all of the target: it loads typing, inspect and enum, which Python "
    "does not load for itself; completion asks bash for its version besides."
)


def measure(runs: int) -> Iterator[Row]:
    """Programs that do next to nothing, all files in the page cache."""
    with Containerd() as containerd:
        node = Node(containerd, f"bench-{secrets.token_hex(4)}")
        node.create()
        yield from _rows(node, 2 * runs)


def _rows(node: Node, runs: int) -> Iterator[Row]:
    env = {"CONTAINERD_ADDRESS": node.address, "CONTAINERD_NAMESPACE": node.namespace}
    yield _row(
        "listing",
        "`cdimage ls` of an empty store",
        runs,
        {
            "cdimage ls": [*CDIMAGE, "ls"],
            "import grpc.aio": [_PYTHON, "-c", "import grpc.aio"],
            "the libraries": [_PYTHON, "-c", _LIBRARIES],
            "ctr image ls": [tool("ctr"), "image", "ls"],
        },
        [Target("cdimage ls", "import grpc.aio", 1.3)],
        env,
        _LISTING_NOTE,
    )
    small = {
        "cdimage name": [*CDIMAGE, "name", _DIGEST],
        "cdimage --help": [*CDIMAGE, "--help"],
        "cdimage completion": [*CDIMAGE, "completion", "bash"],
    }
    yield _row(
        "small",
        "Commands that need nobody",
        runs,
        {
            **small,
            "import click": [_PYTHON, "-c", "import click"],
            "python -c pass": [_PYTHON, "-c", "pass"],
        },
        [Target(way, "python -c pass", 4) for way in small],
        env,
        _SMALL_NOTE,
    )
    yield _row(
        "import",
        "`import cdimage`",
        runs,
        {
            "import cdimage": [_PYTHON, "-c", "import cdimage"],
            "import asyncio": [_PYTHON, "-c", "import asyncio"],
        },
        [Target("import cdimage", "import asyncio", 2)],
        env,
    )


def _row(
    key: str,
    title: str,
    runs: int,
    programs: Mapping[str, Sequence[str]],
    targets: list[Target],
    env: Mapping[str, str],
    note: str = "",
) -> Row:
    values = in_turn(runs + 1, {way: _program(words, env) for way, words in programs.items()})
    return Row(
        key,
        title,
        "processes, all files in the page cache",
        "ms",
        milliseconds({way: each[1:] for way, each in values.items()}),
        {way: shlex.join(words) for way, words in programs.items()},
        targets,
        note,
    )


def _program(words: Sequence[str], env: Mapping[str, str]) -> Callable[[], float]:
    return lambda: run(words, env).seconds
