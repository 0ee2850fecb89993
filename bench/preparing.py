"""What preparing costs where the base is unpacked, against who does the same by hand."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.daemons import Containerd, Registry
from tests.images import Pushed, Pusher, busybox_tar, debian_layer, image_of, layer_of
from tests.node import Node
from tests.tools import tool

import cdimage
from bench.bare import Bare
from bench.peers import Buildah, Docker
from bench.programs import run
from bench.rows import Row, Target, in_turn, milliseconds

_PREPARED: Final = "example.test/prepared:latest"
_HOW: Final = (
    "the base is in the daemon, unpacked, and nothing of what is prepared; containerd 1.6; "
    "what was prepared is removed between runs, which is not counted"
)
_BY_HAND: Final = """
{ctr} image export base.tar {reference}
mkdir layout
tar -xf base.tar -C layout
sed -i s,{reference},example.test/prepared:latest, layout/index.json
umoci insert --image layout:latest pause /pause
umoci config --image layout:latest --config.entrypoint /pause
tar -cf prepared.tar -C layout .
{ctr} image import prepared.tar
"""
_BUILDAH: Final = """
container=$({buildah} from --signature-policy {policy} {reference})
{buildah} copy $container pause /pause
{buildah} config --entrypoint '["/pause"]' $container
{buildah} commit --signature-policy {policy} $container prepared
{buildah} rm $container
"""
_DOCKER: Final = "{docker} build --no-cache --quiet --tag prepared ."
_NOTE: Final = (
    "a twentieth of buildah or docker, and on a slow machine 15 ms, is less than the calls take "
    "that cannot be left out: they are in the next row, with nothing of cdimage around them"
)
_AGAIN_NOTE: Final = (
    "cdimage asks twice: for the record, and then whether the snapshot that it names is still "
    "there, because containers start from that; both calls alone, made at the same time, take "
    "about the target, and then one would have to know the snapshot before the record"
)
_AGAIN: Final = 200  # calls that one value of asking again is the mean of


def measure(runs: int) -> Iterator[Row]:
    """The private daemons are warm, their files in the page cache."""
    with ExitStack() as stack:
        bench = _Bench(
            Node(stack.enter_context(Containerd()), f"bench-{secrets.token_hex(4)}"),
            stack.enter_context(Buildah()),
            stack.enter_context(Docker(stack.enter_context(Containerd()))),
            Path(stack.enter_context(TemporaryDirectory(prefix="cdi-bench-"))),
        )
        pusher = Pusher(stack.enter_context(Registry()).host)
        bench.node.create()
        stack.callback(bench.node.clear)
        small = pusher.push(image_of([layer_of(busybox_tar())]), "bench/busybox")
        debian = pusher.push(image_of([debian_layer()]), "bench/debian")
        yield from bench.rows("busybox", "Busybox", small, runs)
        yield from bench.rows("debian", "Debian", debian, runs)


class _Bench:
    """The daemons, and a folder for those who need files."""

    def __init__(self, node: Node, buildah: Buildah, docker: Docker, folder: Path) -> None:
        self.node = node
        self._buildah = buildah
        self._docker = docker
        self._folder = folder

    def rows(self, key: str, title: str, image: Pushed, runs: int) -> Iterator[Row]:
        """Prepare an image in turn."""
        self.node.ctr("images", "pull", "--plain-http", image.reference)
        self._docker("pull", image.reference)
        policy = str(self._buildah.policy)
        self._buildah("pull", "--signature-policy", policy, "--tls-verify=false", image.reference)
        with asyncio.Runner() as runner:
            calls = runner.run(_Calls.open(self.node, image))
            try:
                ways: dict[str, Callable[[], float]] = {
                    "Store.pull_image": lambda: runner.run(calls.prepare()),
                    "ctr and umoci": lambda: self._script(_BY_HAND, image),
                    "buildah": lambda: self._script(_BUILDAH, image),
                    "docker build": lambda: self._script(_DOCKER, image),
                }
                in_turn(1, ways)
                yield Row(
                    f"preparing-{key}",
                    f"{title}, prepared",
                    _HOW,
                    "ms",
                    milliseconds(in_turn(runs, ways)),
                    _COMMANDS,
                    [
                        Target("Store.pull_image", "", 15),
                        Target("Store.pull_image", "buildah", 0.05),
                        Target("Store.pull_image", "docker build", 0.05),
                    ],
                    _NOTE,
                )
                yield calls.row_of_bare(key, title, runs, runner)
                yield calls.row_of_again(key, title, runs, runner)
            finally:
                runner.run(calls.close())

    def _script(self, text: str, image: Pushed) -> float:
        """Seconds of a shell script, in an empty folder with a pause program."""
        folder = self._folder / secrets.token_hex(4)
        folder.mkdir()
        pause = cdimage.PauseBinaries.bundled().read(cdimage.Platform("linux", "amd64"))
        (folder / "pause").write_bytes(pause.data)
        (folder / "pause").chmod(0o755)
        (folder / "Dockerfile").write_text(
            f'FROM {image.reference}\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n'
        )
        ctr = f"{tool('ctr')} --address {self.node.address} --namespace {self.node.namespace}"
        script = text.format(
            ctr=ctr,
            buildah=" ".join(self._buildah.words),
            docker=" ".join(self._docker.words),
            policy=self._buildah.policy,
            reference=image.reference,
        )
        used = run(["sh", "-euc", f"cd {folder}\n{script}"])
        shutil.rmtree(folder)
        self._remove_prepared(text)
        return used.seconds

    def _remove_prepared(self, text: str) -> None:
        if text is _BY_HAND:
            self.node.ctr("images", "rm", "--sync", _PREPARED)
        elif text is _BUILDAH:
            self._buildah("rmi", "prepared")
        else:
            self._docker("rmi", "--force", "prepared")


_COMMANDS: Final = {
    "ctr and umoci": (
        "ctr image export …; umoci insert …; umoci config --config.entrypoint …; ctr image import …"
    ),
    "buildah": "buildah from …; buildah copy …; buildah config …; buildah commit …; buildah rm …",
    "docker build": "docker build --no-cache --quiet --tag prepared .",
}


class _Calls:
    """What is done by calls, in a process that runs already."""

    def __init__(self, client: cdimage.Client, image: Pushed) -> None:
        self._client = client
        self._store = cdimage.Store(client)
        self._image = image
        self._name = cdimage.prepared_image_name(image.digest)

    @classmethod
    async def open(cls, node: Node, image: Pushed) -> _Calls:
        """Connect."""
        return cls(await cdimage.connect(node.address, node.namespace).__aenter__(), image)

    async def close(self) -> None:
        """Remove what is prepared, and disconnect."""
        await self._store.untag_image(self._image.digest)
        await self._client.__aexit__(None, None, None)

    async def prepare(self) -> float:
        """Seconds of preparing it."""
        await self._store.untag_image(self._image.digest)
        return await _seconds(self._pull)

    async def _pull(self) -> None:
        await self._store.pull_image(self._image.reference, self._image.digest)

    def row_of_bare(self, key: str, title: str, runs: int, runner: asyncio.Runner) -> Row:
        """The library against the calls that cannot be left out."""
        runner.run(self._pull())
        bare = runner.run(Bare.learn(self._client, self._image.digest, self._name))

        async def by_hand() -> float:
            await self._store.untag_image(self._image.digest)
            return await _seconds(bare.prepare)

        ways: dict[str, Callable[[], float]] = {
            "Store.pull_image": lambda: runner.run(self.prepare()),
            "bare calls": lambda: runner.run(by_hand()),
        }
        in_turn(1, ways)
        return Row(
            f"bare-{key}",
            f"{title}, prepared, and the calls that cannot be left out",
            f"{_HOW}; the bare calls are made with gRPC's stubs, from messages made before, "
            "as many at the same time as may be",
            "ms",
            milliseconds(in_turn(2 * runs, ways)),
            targets=[Target("Store.pull_image", "bare calls", 1.2)],
        )

    def row_of_again(self, key: str, title: str, runs: int, runner: asyncio.Runner) -> Row:
        """Asking for what is there against looking for its record."""
        runner.run(self._pull())
        bare = runner.run(Bare.learn(self._client, self._image.digest, self._name))
        ways: dict[str, Callable[[], float]] = {
            "Store.pull_image": lambda: runner.run(_mean(self._pull)),
            "Images.Get": lambda: runner.run(_mean(bare.look)),
            "Images.Get and Snapshots.Stat": lambda: runner.run(_mean(bare.look_for_both)),
        }
        in_turn(1, ways)
        return Row(
            f"again-{key}",
            f"{title}, asked for again",
            f"it is prepared; each value is the mean of {_AGAIN} calls, one after another",
            "ms",
            milliseconds(in_turn(runs, ways)),
            targets=[
                Target("Store.pull_image", "Images.Get", 1.5),
                Target("Store.pull_image", "", 2),
            ],
            note=_AGAIN_NOTE,
        )


async def _seconds(work: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


async def _mean(work: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    for _ in range(_AGAIN):
        await work()
    return (time.perf_counter() - start) / _AGAIN
