"""Files into and out of containers; an image cannot lead them elsewhere."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import pytest
from tests.images import Pusher, busybox_tar, image_of, layer_of
from tests.node import Node
from tests.warm_images import open_files, prepared

import cdimage
from cdimage import warm


def tar(*members: tuple[tarfile.TarInfo, bytes], packing: Literal["w", "w:gz"] = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=packing) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o640
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    member.uid, member.gid, member.mtime = 1234, 1234, 1_000_000_000
    return member


TREE = tar(
    (entry("tree", tarfile.DIRTYPE, mode=0o750), b""),
    (entry("tree/file", mode=0o4755), b"content"),
    (entry("tree/link", tarfile.SYMTYPE, "file"), b""),
    (entry("tree/same", tarfile.LNKTYPE, "tree/file"), b""),
    (entry("tree/pipe", tarfile.FIFOTYPE, mode=0o600), b""),
    packing="w:gz",
)


async def _gather(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_a_tree_goes_in_and_comes_out_as_it_was(box: warm.Box) -> None:
    await box.put(TREE, "/new/place")
    listing = (await box.exec(["ls", "-ln", "/new/place/tree"])).stdout.decode().splitlines()[1:]
    assert [(line.split()[0], line.split()[2]) for line in listing] == [
        ("-rwsr-xr-x", "1234"), ("lrwxrwxrwx", "1234"), ("prw-------", "1234"),
        ("-rwsr-xr-x", "1234"),
    ]  # fmt: skip
    assert (await box.exec(["cat", "/new/place/tree/same"])).stdout == b"content"
    packed = await _gather(box.get("/new/place/tree"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = {it.name: it for it in archive.getmembers()}
        assert list(members) == ["tree", "tree/file", "tree/link", "tree/pipe", "tree/same"]
        assert (members["tree"].mode, members["tree/file"].mode) == (0o750, 0o4755)
        assert members["tree/file"].mtime == 1_000_000_000
        assert members["tree/link"].linkname == "file"
        content = archive.extractfile("tree/same")
        assert content is not None
        assert content.read() == b"content"


async def test_files_are_written_and_read(box: warm.Box) -> None:
    await box.write_file("/a/b/c", b"one", mode=0o600, user="worker")
    await box.write_file("/a/b/c", b"two", mode=0o600, user="worker")
    assert await box.read_file("/a/b/c") == b"two"
    listing = (await box.exec(["ls", "-ln", "/a/b"])).stdout.decode()
    assert listing.splitlines()[1].split()[:4] == ["-rw-------", "1", "1234", "1234"]
    with pytest.raises(FileNotFoundError):
        await box.read_file("/none")
    with pytest.raises(cdimage.InvalidReferenceError, match="no regular file"):
        await box.read_file("/dev/zero")
    with pytest.raises(cdimage.InvalidReferenceError, match="larger than 2 bytes"):
        await box.read_file("/a/b/c", limit=2)
    with pytest.raises(FileNotFoundError):
        await _gather(box.get("/none"))
    with pytest.raises(FileNotFoundError):
        await _gather(box.get("/none/at/all"))


async def test_links_in_an_image_lead_nowhere_else(
    client: cdimage.Client,
    store: cdimage.Store,
    node: Node,
    pusher: Pusher,
    new_repository: Callable[[], str],
    folder: Path,
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    climbing = "../" * 30 + str(outside).lstrip("/")
    image = image_of([layer_of(busybox_tar(absolute=str(outside), climbing=climbing, root="/"))])
    digest = await prepared(store, pusher, new_repository(), image)
    async with warm.start(client, digest, folder=folder, snapshotter=node.snapshotter) as box:
        for link in ("absolute", "climbing"):
            with pytest.raises(FileNotFoundError):
                await box.read_file(f"/{link}/secret")
            with pytest.raises(FileNotFoundError):
                await _gather(box.get(f"/{link}/secret"))
            with pytest.raises(OSError, match=link):
                await box.put(tar((entry("made"), b"x")), f"/{link}")
            with pytest.raises(OSError, match=link):
                await box.write_file(f"/{link}/made", b"x")
        await box.write_file("/root/tmp/made", b"inside")  # where the root is the container's
        assert (await box.exec(["cat", "/tmp/made"])).stdout == b"inside"
        leading, below = entry("sub", tarfile.SYMTYPE, str(outside)), entry("sub/made")
        with pytest.raises(OSError, match="sub"):
            await box.put(tar((leading, b""), (below, b"x")))
    assert [path.name for path in outside.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (b"no tar at all", "not a tar"),
        (tar((entry("../up"), b"x")), "climbs out"),
        (tar((entry("a/../../up"), b"x")), "climbs out"),
        (tar((entry("disk", tarfile.BLKTYPE), b"")), "is a device"),
        (TREE[:-200], "not a tar|end"),
        (tar((entry("bin"), b"x")), "is a directory"),
        (tar((entry("a"), b"x" * 512))[:1024] + b"y" * 10240, "not a tar"),
    ],
)
async def test_a_bad_tar_is_refused(box: warm.Box, archive: bytes, why: str) -> None:
    files = open_files()
    with pytest.raises(cdimage.InvalidReferenceError, match=why):
        await box.put(archive)
    assert open_files() == files


async def test_a_transfer_that_is_given_up_leaves_no_open_files(box: warm.Box) -> None:
    await box.exec(["busybox", "dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=40"])
    files = open_files()
    async for chunk in (chunks := box.get("/tmp/big")):
        assert chunk
        break
    await chunks.aclose()  # type: ignore[attr-defined]

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield tar((entry("x"), b"x" * 512))[:1024]

    putting = asyncio.create_task(box.put(endless(), "/tmp"))
    await asyncio.sleep(0.1)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert open_files() == files


async def test_what_may_only_be_read_stays_as_it_is(
    client: cdimage.Client, digest: str, node: Node, folder: Path
) -> None:
    async with warm.start(
        client, digest, read_only=True, folder=folder, snapshotter=node.snapshotter
    ) as box:
        with pytest.raises(OSError, match="Read-only"):
            await box.put(TREE)
        with pytest.raises(OSError, match="Read-only"):
            await box.write_file("/etc/x", b"x")
