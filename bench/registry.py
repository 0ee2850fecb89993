"""What preparing inside a registry costs, whatever the image's size, against crane and skopeo."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.daemons import Registry
from tests.holes import hole
from tests.images import Pushed, Pusher, image_of, tar_of
from tests.tools import tool

import cdimage
from bench.programs import CDIMAGE, run
from bench.rows import Row, Target, in_turn, milliseconds

_MB: Final = 1 << 20
_SIZES: Final = (5, 2048)
_HOW: Final = (
    "the image is in the registry, its layers in the page cache; each time into another, new "
    "repository of the same registry"
)
_COMMANDS: Final = {
    "cdimage pull": "cdimage pull IMAGE --digest DIGEST --store registry:NEW",
    "crane": "crane append -b IMAGE -f pause.tar -t NEW; crane mutate NEW --entrypoint /pause",
    "skopeo copy": "skopeo copy docker://IMAGE docker://NEW",
}
_NOTE: Final = (
    "nine requests must wait for another's answer, and the registry takes some milliseconds for "
    "each that writes; cdimage writes more than crane does, the base's documents and a record of "
    "what was prepared from what, so that others can check and use it; a process loads an HTTP "
    "stack first, which takes three times what crane takes, and which a worker that runs has"
)


def measure(runs: int) -> Iterator[Row]:
    """One registry, in plain HTTP on loopback."""
    with ExitStack() as stack:
        daemon = stack.enter_context(Registry())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cdi-bench-")))
        runner = stack.enter_context(asyncio.Runner())
        bench = _Bench(daemon, folder, runner)
        stack.callback(lambda: runner.run(bench.registry.close()))
        images = {size: _push(daemon, size * _MB) for size in _SIZES}
        for size, image in images.items():
            yield bench.row(size, image, runs)
        yield bench.row_of_sizes(images, runs)


def _push(daemon: Registry, size: int) -> Pushed:
    repository = f"bench/{size}"
    pusher = Pusher(daemon.host)
    image = image_of([hole(daemon, repository, size)])
    pusher.push_blob(repository, image.config.data)
    return pusher.push_manifest(repository, "latest", image.manifest)


class _Bench:
    def __init__(self, daemon: Registry, folder: Path, runner: asyncio.Runner) -> None:
        self.registry = cdimage.Registry()
        self._daemon = daemon
        self._runner = runner
        self._numbers = itertools.count()
        pause = cdimage.PauseBinaries.bundled().read(cdimage.Platform("linux", "amd64"))
        self._layer = folder / "pause.tar"
        self._layer.write_bytes(tar_of({"pause": pause.data}))

    def row(self, size: int, image: Pushed, runs: int) -> Row:
        """An image of that many MiB, prepared by each in turn."""
        ways: dict[str, Callable[[], float]] = {
            "RegistryStore.pull_image": lambda: self._runner.run(self._call(image)),
            "cdimage pull": lambda: self._process(image),
            "crane": lambda: self._crane(image),
            "skopeo copy": lambda: self._skopeo(image),
            "import aiohttp, click": lambda: run([CDIMAGE[0], "-c", _IMPORTS]).seconds,
        }
        in_turn(1, ways)
        return Row(
            f"registry-{size}",
            f"An image of {size:,} MiB, prepared in its registry",
            _HOW,
            "ms",
            milliseconds(in_turn(runs, ways)),
            {**_COMMANDS, "import aiohttp, click": f"python -c '{_IMPORTS}'"},
            [
                Target("RegistryStore.pull_image", "crane", 0.2),
                Target("cdimage pull", "crane", 0.7),
            ],
            _NOTE,
        )

    def row_of_sizes(self, images: dict[int, Pushed], runs: int) -> Row:
        """The same call for all sizes."""

        def way(image: Pushed) -> Callable[[], float]:
            return lambda: self._runner.run(self._call(image))

        ways = {f"{size:,} MiB": way(image) for size, image in images.items()}
        small, large = ways
        return Row(
            "registry-sizes",
            "`RegistryStore.pull_image` of small and large images",
            _HOW,
            "ms",
            milliseconds(in_turn(2 * runs, ways)),
            targets=[Target(large, small, 1.2)],
        )

    def _new(self) -> str:
        return f"{self._daemon.host}/new/{next(self._numbers)}"

    async def _call(self, image: Pushed) -> float:
        store = cdimage.RegistryStore(self._new(), self.registry)
        start = time.perf_counter()
        await store.pull_image(image.reference, image.digest)
        return time.perf_counter() - start

    def _process(self, image: Pushed) -> float:
        where = ["--store", f"registry:{self._new()}", "--quiet"]
        return run([*CDIMAGE, "pull", image.reference, "--digest", image.digest, *where]).seconds

    def _crane(self, image: Pushed) -> float:
        new, crane = f"{self._new()}:latest", tool("crane")
        append = run([crane, "append", "-b", image.reference, "-f", str(self._layer), "-t", new])
        mutate = run([crane, "mutate", new, "--entrypoint", "/pause", "-t", new])
        return append.seconds + mutate.seconds

    def _skopeo(self, image: Pushed) -> float:
        options = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        target = f"docker://{self._new()}"
        return run([tool("skopeo"), *options, f"docker://{image.reference}", target]).seconds


_IMPORTS: Final = "import aiohttp, click"
