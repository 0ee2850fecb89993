"""What pulling costs, cold, against containerd's own client, on each version of containerd."""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.daemons import Containerd, Registry
from tests.holes import hole
from tests.images import Pushed, Pusher, debian_layer, image_of, layer_of, tar_of
from tests.tools import CONTAINERD_SUITE, tool

from bench.fetching import fetch
from bench.images import push_toolchain
from bench.programs import CDIMAGE, Used, run
from bench.rows import Row, Target, in_turn, seconds

_SUITES: Final = {"1.6": "bookworm", "1.7": "trixie", "2.1": "forky"}
_AT_MOST: Final = {3: 0.95, 40: 0.8}
_MEMORY: Final = Path("/dev/shm")
_HOW: Final = (
    "processes; a containerd of its own for each run, just started and empty; the registry's files "
    "in the page cache; all of containerd's files in memory (tmpfs), so that the disk says nothing"
)
_BOUND: Final = (
    "containerd unpacks one layer after another, each in one thread (it decompresses, hashes and "
    "writes), and a layer's snapshot must be there before the next one's: that takes what the last "
    "way shows, whoever asks, and ctr, too, fetches while it unpacks; more than the difference "
    "between it and ctr nobody can save; of what cdimage takes, 0.3 s is the start of Python and "
    "of what speaks HTTP and gRPC; that three layers are fetched at the same time, and the first "
    "is there later than it could be, is half a second: to let it go first won 4 to 6 per cent in "
    "a trial, but leaves other connections standing still until they break where the disk is "
    "slow; with unpigz in containerd's PATH all are faster"
)
_ONE: Final = 500 << 20
_TEN: Final = 5000 << 20
_SHARING: Final = 20

_Way = Callable[[Mapping[str, str]], Used]


def measure(runs: int) -> Iterator[Row]:
    """Long runs, and so a few of them only."""
    few = max(2, runs // 4)
    with _in_memory(), Registry() as registry:
        for layers in _AT_MOST:
            image = push_toolchain(registry, layers)
            for version, suite in _SUITES.items():
                with _containerd_of(suite):
                    yield from _rows(image, version, layers, few)
        with _containerd_of(_SUITES["1.6"]):
            yield _fetching(push_toolchain(registry, 3), runs // 2)
            yield _memory(registry, few)
            yield _sharing(registry, max(3, runs // 3))


@contextmanager
def _in_memory() -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(_MEMORY) if _MEMORY.is_dir() else None
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _containerd_of(suite: str) -> Iterator[None]:
    os.environ[CONTAINERD_SUITE] = suite
    try:
        yield
    finally:
        del os.environ[CONTAINERD_SUITE]


def _rows(image: Pushed, version: str, layers: int, runs: int) -> Iterator[Row]:
    """Time, and on 1.6 what the client takes as well."""

    def unpack(env: Mapping[str, str]) -> Used:
        run([tool("ctr"), "content", "fetch", "--plain-http", image.reference], env)
        return run(_ctr(image), env)

    ways = {
        "cdimage pull": _running(_cdimage(image)),
        "ctr image pull": _running(_ctr(image)),
        "ctr, all is fetched": unpack,
    }
    used = _fresh(runs, ways)
    title = f"{'An image of 560 MB' if layers == 3 else 'The same image'} in {layers} layers"
    commands = {"cdimage pull": _shown(_cdimage(image)), "ctr image pull": _shown(_ctr(image))}
    yield Row(
        f"pull-{layers}-{version}",
        f"{title}, containerd {version}",
        _HOW,
        "s",
        {way: [it.seconds for it in each] for way, each in used.items()},
        {**commands, "ctr, all is fetched": _shown(_ctr(image))},
        [Target("cdimage pull", "ctr image pull", _AT_MOST[layers])],
        _BOUND,
    )
    if version == "1.6":
        del used["ctr, all is fetched"]
        yield Row(
            f"processor-{layers}",
            f"{title}, time of processors in the client, containerd {version}",
            _HOW,
            "s",
            {way: [it.processor for it in each] for way, each in used.items()},
            commands,
            [Target("cdimage pull", "ctr image pull", 2)],
        )


def _fetching(image: Pushed, runs: int) -> Row:
    ctr = [tool("ctr"), "content", "fetch", "--plain-http", image.reference]

    def call(env: Mapping[str, str]) -> Used:
        where = env["CONTAINERD_ADDRESS"], env["CONTAINERD_NAMESPACE"]
        return Used(seconds(lambda: asyncio.run(fetch(*where, image.reference))), 0, 0)

    used = _fresh(runs, {"fetching": call, "ctr content fetch": _running(ctr)})
    return Row(
        "fetching",
        "Fetching alone, an image of 560 MB in 3 layers, containerd 1.6",
        f"{_HOW}; as a call, what `Store.pull_image` does until it unpacks",
        "s",
        {way: [it.seconds for it in each] for way, each in used.items()},
        {"ctr content fetch": _shown(ctr)},
        [Target("fetching", "ctr content fetch", 1)],
    )


def _memory(registry: Registry, runs: int) -> Row:
    ways = {}
    for name, size in {"500 MB": _ONE, "5 GB": _TEN}.items():
        repository = f"bench/hole-{size}"
        pusher = Pusher(registry.host)
        made = image_of([hole(registry, repository, size)])
        pusher.push_blob(repository, made.config.data)
        image = pusher.push_manifest(repository, "latest", made.manifest)
        ways[name] = _running(_cdimage(image))
    used = _fresh(runs, ways)
    return Row(
        "memory",
        "Peak resident size of `cdimage pull`, by the size of the image",
        _HOW,
        "MB",
        {way: [it.peak for it in each] for way, each in used.items()},
        dict.fromkeys(ways, "cdimage pull IMAGE --digest DIGEST --quiet"),
        [Target("500 MB", "", 100), Target("5 GB", "", 100), Target("5 GB", "500 MB", 1.05)],
    )


def _running(words: Sequence[str]) -> _Way:
    return lambda env: run(words, env)


def _sharing(registry: Registry, runs: int) -> Row:
    base, pusher = debian_layer(), Pusher(registry.host)
    images = [
        pusher.push(
            image_of([base, layer_of(tar_of({f"own-{n}": random.randbytes(1_000_000)}))]),
            f"bench/shared-{n}",
        )
        for n in range(_SHARING)
    ]
    ours = [*CDIMAGE, "pull", "--quiet", *(f"{_name(it)}@{it.digest}" for it in images)]
    ctr = f"{shlex.quote(tool('ctr'))} image pull --plain-http"
    loop = "for image in {}; do {} $image; done"
    theirs = ["sh", "-euc", loop.format(" ".join(it.reference for it in images), ctr)]
    ways = {"cdimage pull": ours, "a loop over ctr": theirs}
    used = _fresh(runs, {way: _running(words) for way, words in ways.items()})
    return Row(
        "sharing",
        f"{_SHARING} images that share a base, containerd 1.6",
        _HOW,
        "s",
        {way: [it.seconds for it in each] for way, each in used.items()},
        {
            "cdimage pull": "cdimage pull --quiet IMAGE@DIGEST …",
            "a loop over ctr": loop.format("…", "ctr image pull --plain-http"),
        },
        [Target("cdimage pull", "a loop over ctr", 0.5)],
    )


def _fresh(runs: int, ways: Mapping[str, _Way]) -> dict[str, list[Used]]:
    """Do each thing once a run, in turn, each time on a daemon of its own."""
    used: dict[str, list[Used]] = {way: [] for way in ways}

    def on_a_daemon(way: str) -> Callable[[], float]:
        def one() -> float:
            with Containerd() as containerd:
                env = {"CONTAINERD_ADDRESS": containerd.address, "CONTAINERD_NAMESPACE": "bench"}
                used[way].append(ways[way](env))
            return used[way][-1].seconds

        return one

    in_turn(runs, {way: on_a_daemon(way) for way in ways})
    return used


def _cdimage(image: Pushed) -> list[str]:
    return [*CDIMAGE, "pull", image.reference, "--digest", image.digest, "--quiet"]


def _ctr(image: Pushed) -> list[str]:
    return [tool("ctr"), "image", "pull", "--plain-http", image.reference]


def _name(image: Pushed) -> str:
    return image.reference.rpartition(":")[0]


def _shown(words: Sequence[str]) -> str:
    return shlex.join(words)
