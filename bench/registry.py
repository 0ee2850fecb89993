"""What preparing inside a registry costs, whatever the image's size, against crane and skopeo."""

from __future__ import annotations

import asyncio
import itertools
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
from bench.requests import Requests
from bench.rows import Row, Target, in_turn, milliseconds, seconds

_MB: Final = 1 << 20
_SIZES: Final = (5, 2048)
_HOW: Final = (
    "the images are in the registry, their layer in the page cache; each time another one, of "
    "the same layer and with a config of its own, into a repository of the same registry which "
    "holds others already"
)
_IMPORTS: Final = "import aiohttp, click"
_COMMANDS: Final = {
    "cdimage pull": "cdimage pull IMAGE --digest DIGEST --store registry:HOST/PREFIX",
    "crane": "crane append -b IMAGE -f pause.tar -t NEW; crane mutate NEW --entrypoint /pause",
    "skopeo copy": "skopeo copy docker://IMAGE docker://NEW",
    "import aiohttp, click": f"python -c '{_IMPORTS}'",
}
_NOTE: Final = (
    "the bare requests read the image's manifest and config, mount its layer, and write a config "
    "and a manifest, and nobody could do with fewer; cdimage looks first whether the image is "
    "prepared, and writes the user's own documents and a record of what was prepared from what as "
    "well, so that others can check and use it; nearly all of its time it waits for the registry; "
    "a process loads an HTTP stack first, which takes three times what both runs of crane take, "
    "and which a worker that runs has"
)


def measure(runs: int) -> Iterator[Row]:
    """One registry, in plain HTTP on loopback."""
    with ExitStack() as stack:
        daemon = stack.enter_context(Registry())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cdi-bench-")))
        runner = stack.enter_context(asyncio.Runner())
        bench = _Bench(daemon, folder, runner)
        stack.callback(lambda: runner.run(bench.close()))
        for size in _SIZES:
            yield bench.row(size, runs)
        yield bench.row_of_sizes(2 * runs)


class _Images:
    """Images of one layer, each with a config of its own."""

    def __init__(self, daemon: Registry, size: int) -> None:
        self._repository = f"bench/{size}"
        self._pusher = Pusher(daemon.host)
        self._layer = hole(daemon, self._repository, size * _MB)
        self._numbers = itertools.count()

    def push(self, count: int) -> list[Pushed]:
        """As many more."""
        return [self._push(f"image-{next(self._numbers)}") for _ in range(count)]

    def _push(self, tag: str) -> Pushed:
        image = image_of([self._layer], {"Labels": {"tag": tag}})
        self._pusher.push_blob(self._repository, image.config.data)
        return self._pusher.push_manifest(self._repository, tag, image.manifest)


class _Bench:
    def __init__(self, daemon: Registry, folder: Path, runner: asyncio.Runner) -> None:
        self._host = daemon.host
        self._runner = runner
        self._images = {size: _Images(daemon, size) for size in _SIZES}
        pause = cdimage.PauseBinaries.bundled().read(cdimage.Platform("linux", "amd64"))
        self._layer = folder / "pause.tar"
        self._layer.write_bytes(tar_of({"pause": pause.data}))
        self._registry = cdimage.Registry()
        self._store = cdimage.RegistryStore(f"{self._host}/store", self._registry)
        self._requests = runner.run(self._opened())

    async def _opened(self) -> Requests:
        return Requests("bare", self._layer.read_bytes())

    async def close(self) -> None:
        """End the connections."""
        await self._registry.close()
        await self._requests.close()

    def row(self, size: int, runs: int) -> Row:
        """Images of that many MiB, prepared by each in turn."""
        images = self._images[size].push(runs + 1)

        def each(work: Callable[[Pushed], float]) -> Callable[[], float]:
            following = iter(images)
            return lambda: work(next(following))

        ways = {
            "RegistryStore.pull_image": each(self._call),
            "bare requests": each(self._ask),
            "cdimage pull": each(self._process),
            "crane": each(self._crane),
            "skopeo copy": each(self._skopeo),
            "import aiohttp, click": lambda: run([CDIMAGE[0], "-c", _IMPORTS]).seconds,
        }
        in_turn(1, ways)
        return Row(
            f"registry-{size}",
            f"An image of {size:,} MiB, prepared in its registry",
            _HOW,
            "ms",
            milliseconds(in_turn(runs, ways)),
            _COMMANDS,
            [
                Target("RegistryStore.pull_image", "crane", 0.2),
                Target("cdimage pull", "crane", 0.7),
            ],
            _NOTE,
        )

    def row_of_sizes(self, runs: int) -> Row:
        """The same call for all sizes."""

        def way(size: int) -> Callable[[], float]:
            images = iter(self._images[size].push(runs))
            return lambda: self._call(next(images))

        ways = {f"{size:,} MiB": way(size) for size in _SIZES}
        small, large = ways
        return Row(
            "registry-sizes",
            "`RegistryStore.pull_image` of small and large images",
            _HOW,
            "ms",
            milliseconds(in_turn(runs, ways)),
            targets=[Target(large, small, 1.2)],
        )

    def _call(self, image: Pushed) -> float:
        work = self._store.pull_image(image.reference, image.digest)
        return seconds(lambda: self._runner.run(work))

    def _ask(self, image: Pushed) -> float:
        work = self._requests.prepare(image)
        return seconds(lambda: self._runner.run(work))

    def _process(self, image: Pushed) -> float:
        where = ["--store", f"registry:{self._host}/process", "--quiet"]
        return run([*CDIMAGE, "pull", image.reference, "--digest", image.digest, *where]).seconds

    def _crane(self, image: Pushed) -> float:
        new, crane = self._new("crane", image), tool("crane")
        append = run([crane, "append", "-b", image.reference, "-f", str(self._layer), "-t", new])
        mutate = run([crane, "mutate", new, "--entrypoint", "/pause", "-t", new])
        return append.seconds + mutate.seconds

    def _skopeo(self, image: Pushed) -> float:
        options = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        target = f"docker://{self._new('skopeo', image)}"
        return run([tool("skopeo"), *options, f"docker://{image.reference}", target]).seconds

    def _new(self, repository: str, image: Pushed) -> str:
        """A name there."""
        return f"{self._host}/{repository}:{image.digest.removeprefix('sha256:')}"
