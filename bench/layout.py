"""What preparing in an image layout costs, against umoci."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

from tests.images import Image, busybox_tar, debian_layer, image_of, layer_of
from tests.layouts import blobs_of, layout_files, write_layout
from tests.tools import tool

import cdimage
from bench.programs import CDIMAGE, run
from bench.rows import Row, Target, in_turn, milliseconds

_HOW: Final = (
    "the base is in the layout, all files in the page cache; each time in a new copy of the "
    "layout, which is not counted"
)
_IMPORTS: Final = "import asyncio, click"
_COMMANDS: Final = {
    "cdimage pull": "cdimage pull oci:LAYOUT --digest DIGEST --store oci:LAYOUT",
    "umoci": (
        "umoci insert --image LAYOUT:base pause /pause; "
        "umoci config --image LAYOUT:base --config.entrypoint /pause"
    ),
    _IMPORTS: f"python -c '{_IMPORTS}'",
}
_NOTE: Final = (
    "umoci takes some milliseconds for both of its runs, and does not wait until what it wrote is "
    "on disk, which cdimage does: without fsync, the call takes what the second way shows; no part "
    "of it stands out: files are looked at 48 times and opened 15 times, and threads that write "
    "and sync are waited for; a process of Python's that reads options and has an event loop has "
    "taken more than the target before it begins"
)


def measure(runs: int) -> Iterator[Row]:
    """Layouts on disk."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cdi-bench-")))
        runner = stack.enter_context(asyncio.Runner())
        images = {
            "busybox": image_of([layer_of(busybox_tar())]),
            "debian": image_of([debian_layer()]),
        }
        for name, image in images.items():
            yield _Bench(folder / name, image, runner).row(name, runs)


class _Bench:
    def __init__(self, folder: Path, image: Image, runner: asyncio.Runner) -> None:
        self._folder = folder
        self._image = image
        self._runner = runner
        self._numbers = itertools.count()
        files = layout_files([("base", image.manifest)], blobs_of(image))
        self._base = write_layout(folder / "base", files)
        pause = cdimage.PauseBinaries.bundled().read(cdimage.Platform("linux", "amd64"))
        self._pause = folder / "pause"
        self._pause.write_bytes(pause.data)
        self._pause.chmod(0o755)

    def row(self, name: str, runs: int) -> Row:
        """The image, prepared by each in turn."""
        ways: dict[str, Callable[[], float]] = {
            "LayoutStore.pull_image": lambda: self._in_a_copy(
                lambda copy: self._runner.run(self._call(copy))
            ),
            "the same without fsync": lambda: self._in_a_copy(self._unsynced),
            "cdimage pull": lambda: self._in_a_copy(self._process),
            "umoci": lambda: self._in_a_copy(self._umoci),
            _IMPORTS: lambda: run([CDIMAGE[0], "-c", _IMPORTS]).seconds,
        }
        in_turn(1, ways)
        return Row(
            f"layout-{name}",
            f"{name.capitalize()}, prepared in its layout",
            _HOW,
            "ms",
            milliseconds(in_turn(runs, ways)),
            _COMMANDS,
            [Target("LayoutStore.pull_image", "umoci", 0.3), Target("cdimage pull", "umoci", 4)],
            _NOTE,
        )

    def _in_a_copy(self, work: Callable[[Path], float]) -> float:
        copy = self._folder / str(next(self._numbers))
        shutil.copytree(self._base, copy, copy_function=_link)
        seconds = work(copy)
        shutil.rmtree(copy)
        return seconds

    async def _call(self, copy: Path) -> float:
        store = cdimage.LayoutStore(copy)
        start = time.perf_counter()
        await store.pull_image(f"oci:{copy}:base", self._image.digest)
        return time.perf_counter() - start

    def _unsynced(self, copy: Path) -> float:
        with patch("os.fsync"):
            return self._runner.run(self._call(copy))

    def _process(self, copy: Path) -> float:
        where = ["--store", f"oci:{copy}", "--quiet"]
        image = ["pull", f"oci:{copy}:base", "--digest", self._image.digest]
        return run([*CDIMAGE, *image, *where]).seconds

    def _umoci(self, copy: Path) -> float:
        image, umoci = f"{copy}:base", tool("umoci")
        insert = run([umoci, "insert", "--image", image, str(self._pause), "/pause"])
        config = run([umoci, "config", "--image", image, "--config.entrypoint", "/pause"])
        return insert.seconds + config.seconds


def _link(source: str, target: str) -> None:
    """Blobs are never changed; the other files are."""
    if "/blobs/" in source:
        Path(target).hardlink_to(source)
    else:
        shutil.copyfile(source, target)
