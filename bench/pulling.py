"""What pulling costs, cold, against containerd's own client, on each version of containerd."""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from tests.daemons import Containerd, Registry
from tests.holes import hole
from tests.images import Pushed, Pusher, debian_layer, image_of, layer_of, tar_of
from tests.tools import CONTAINERD_SUITE, tool

from bench.fetching import fetch
from bench.images import push_toolchain
from bench.programs import CDIMAGE, Used, gunzips_in_path, run
from bench.rows import Row, Target, in_turn, seconds

_SUITES: Final = {"1.6": "bookworm", "1.7": "trixie", "2.1": "forky"}
# What the oldest and the newest decompress with, if it is there.
_GUNZIPS: Final = {"1.6": "unpigz", "2.1": "igzip"}
_AT_MOST: Final = {3: 0.95, 40: 0.8}
_BOUNDED: Final = {(3, "1.6"), (3, "2.1"), (40, "1.6")}
_MEMORY: Final = Path("/dev/shm")
_HOW: Final = (
    "processes; a containerd of its own for each run, just started and empty; the registry's files "
    "in the page cache; all of containerd's files in memory (tmpfs), so that the disk says nothing"
)
_BOUND: Final = (
    "containerd unpacks one layer after another, each in one thread (it decompresses, hashes and "
    "writes), and a layer's snapshot must be there before the next one's: that takes what the way "
    "shows in which all is fetched, whoever asks, and more than the difference between it and ctr "
    "nobody can save; before it begins, cdimage loads Python and what speaks HTTP and gRPC, and "
    "the first layer goes through gRPC into containerd, which hashes it in one thread (ctr 2.1 has "
    "the daemon fetch by itself); where igzip or unpigz is in containerd's PATH, that "
    "decompresses, which saves more than any client can: `cdimage doctor` says whether it is"
)
_PROCESSOR: Final = (
    "a quarter of what cdimage takes is its start; of the rest, more than half is the kernel's, "
    "and copying bytes"
)
_ELSEWHERE: Final = "what bounds it is measured on other versions, or with 3 layers"
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
            yield _fetching(push_toolchain(registry, 3), few + 1)
            yield _memory(registry, 1)
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
    }
    bound, with_gunzip = "ctr, all is fetched", f"cdimage pull, with {_GUNZIPS.get(version)}"
    if (layers, version) in _BOUNDED:
        ways[bound] = unpack
    if layers == 3 and version in _GUNZIPS:
        ways[with_gunzip] = ways["cdimage pull"]
    used = _fresh(runs, ways, {with_gunzip})
    title = f"{'About 500 MB' if layers == 3 else 'The same files'} in {layers} layers"
    ours, theirs = _shown(_cdimage(image)), _shown(_ctr(image))
    commands = {way: ours if way.startswith("cdimage") else theirs for way in ways}
    yield Row(
        f"pull-{layers}-{version}",
        f"{title}, containerd {version}",
        _HOW,
        "s",
        {way: [it.seconds for it in each] for way, each in used.items()},
        commands,
        [Target("cdimage pull", "ctr image pull", _AT_MOST[layers])],
        _BOUND if bound in ways else _ELSEWHERE,
    )
    if version == "1.6":
        clients = ["cdimage pull", "ctr image pull"]
        yield Row(
            f"processor-{layers}",
            f"{title}, time of processors in the client, containerd {version}",
            _HOW,
            "s",
            {way: [it.processor for it in used[way]] for way in clients},
            {way: commands[way] for way in clients},
            [Target("cdimage pull", "ctr image pull", 2)],
            _PROCESSOR,
        )


def _fetching(image: Pushed, runs: int) -> Row:
    ctr = [tool("ctr"), "content", "fetch", "--plain-http", image.reference]

    def call(env: Mapping[str, str]) -> Used:
        where = env["CONTAINERD_ADDRESS"], env["CONTAINERD_NAMESPACE"]
        return Used(seconds(lambda: asyncio.run(fetch(*where, image.reference))), 0, 0)

    used = _fresh(runs, {"fetching": call, "ctr content fetch": _running(ctr)})
    return Row(
        "fetching",
        "Fetching alone, about 500 MB in 3 layers, containerd 1.6",
        f"{_HOW}; as a call, the layers copied as `Store.pull_image` does, all at the same time",
        "s",
        {way: [it.seconds for it in each] for way, each in used.items()},
        {"ctr content fetch": _shown(ctr)},
        [Target("fetching", "ctr content fetch", 1)],
        "containerd alone takes more than one of the two processors meanwhile",
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
    ways = {
        "cdimage pull": ours,
        "a loop over ctr": theirs,
        "ctr, one of them": ["sh", "-euc", f"{ctr} {images[0].reference}"],
    }
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
            "ctr, one of them": "ctr image pull --plain-http IMAGE",
        },
        [Target("cdimage pull", "a loop over ctr", 0.5)],
        "nobody can do with less than one of them takes, because the base must be unpacked",
    )


def _fresh(
    runs: int, ways: Mapping[str, _Way], with_gunzips: Collection[str] = ()
) -> dict[str, list[Used]]:
    """Do each thing once a run, in turn, each time on a daemon of its own."""
    used: dict[str, list[Used]] = {way: [] for way in ways}

    def on_a_daemon(way: str) -> Callable[[], float]:
        def one() -> float:
            gunzips = gunzips_in_path() if way in with_gunzips else nullcontext()
            with gunzips, Containerd() as containerd:
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
