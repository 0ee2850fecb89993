"""Prepared images and started containers for the tests of warm containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cdimage
from cdimage import warm
from tests.images import Image, Pusher, busybox_tar, debian_layer, image_of, layer_of, tar_of

PAUSE = Path(cdimage.PauseBinaries.bundled().linux_amd64 or "").read_bytes()


def one_program() -> Image:
    """As distroless images are: one static program, and no shell."""
    return image_of([layer_of(tar_of({"app": PAUSE}))], {"Entrypoint": ["/app"], "Env": None})


def busybox(**execution: Any) -> Image:
    """Debian's busybox."""
    return image_of([layer_of(busybox_tar())], execution or {"Cmd": ["sh"]})


KINDS: Mapping[str, tuple[Any, list[str], bytes]] = {
    "one program": (one_program, ["/app", "-v"], b"cdimage-pause 2\n"),
    "busybox": (busybox, ["sh", "-c", "echo $((6 * 7))"], b"42\n"),
    "an entrypoint that exits": (
        lambda: busybox(Entrypoint=["/bin/false"]), ["echo", "42"], b"42\n",
    ),
    "a user": (lambda: busybox(User="worker"), ["id", "-u"], b"1234\n"),
    "a stop signal": (lambda: busybox(StopSignal="SIGUSR1"), ["echo", "42"], b"42\n"),
    "a directory": (
        lambda: busybox(WorkingDir="/made/for/it"), ["sh", "-c", "pwd"], b"/made/for/it\n",
    ),
    "Debian": (
        lambda: image_of([debian_layer()], {"Cmd": ["bash"]}),
        ["perl", "-e", "print 6*7, qq(\n)"], b"42\n",
    ),
}  # fmt: skip


async def prepared(store: cdimage.Store, pusher: Pusher, repository: str, image: Image) -> str:
    """Push an image and prepare it; its user digest."""
    pushed = pusher.push(image, repository)
    await store.pull_image(pushed.reference, pushed.digest)
    return pushed.digest


def open_files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def processes(box: warm.Box) -> list[str]:
    """What runs in the container beside the pause program."""
    lines = (await box.exec(["ps", "-o", "comm"])).stdout.decode().split()[1:]
    return sorted(name for name in lines if name != "pause")


@contextmanager
def nothing_is_left(box: warm.Box) -> Iterator[None]:
    """Jobs leave no FIFO, group or open file of theirs."""
    (folder,) = [Path(box.record.labels["hpcc.dev/warm.folder"])]
    files = open_files()
    yield
    left = [path.name for path in folder.iterdir() if path.is_dir()]
    assert left == []
    assert list(_groups(box)) == []
    assert open_files() <= files


def _groups(box: warm.Box) -> Iterator[Path]:
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/freezer")):
        yield from root.glob(f"*/{box.id}/job-*")
