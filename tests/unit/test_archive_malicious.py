"""Archives that mean harm: refused in one sentence, with little memory and time."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.images import image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_archive

from cdimage.archive import open_archive
from cdimage.errors import CdimageError, InvalidImageError
from cdimage.image import Manifest
from cdimage.pull import read
from cdimage.reference import Reference

IMAGE = image_of([layer_of(tar_of({"f": b"x" * 5000}), "none")])
FILES = layout_files(IMAGE.manifest, blobs_of(IMAGE)[1:])
LAYER = f"blobs/sha256/{IMAGE.layers[0].blob.digest[7:]}"


async def pull(path: Path) -> None:
    """Read everything of the image in an archive."""
    reference = Reference.parse(f"oci-archive:{path}")
    async with open_archive(reference) as source:
        found = await source.resolve(reference)
        manifest = Manifest.parse(await read(source, found), found.media_type)
        for descriptor in (manifest.config, *manifest.layers):
            await read(source, descriptor)


def with_member(path: Path, change: Callable[[tarfile.TarInfo], None], name: str = "x") -> Path:
    """A good archive with one more member."""
    with tarfile.open(path, "w") as archive:
        for each, data in FILES.items():
            member = tarfile.TarInfo(each)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo(name)
        change(member)
        archive.addfile(member)
    return path


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def of_type(kind: bytes, link: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = kind, link

    return change


@pytest.mark.parametrize(
    ("name", "kind", "link", "words"),
    [
        ("../../etc/cron.d/x", tarfile.REGTYPE, "", "leads out of the archive"),
        ("/etc/passwd", tarfile.REGTYPE, "", "leads out of the archive"),
        ("a/../../b", tarfile.REGTYPE, "", "leads out of the archive"),
        ("link", tarfile.SYMTYPE, "/etc/passwd", "leads out of the archive"),
        ("link", tarfile.SYMTYPE, "../x", "leads out of the archive"),
        ("link", tarfile.LNKTYPE, "../../x", "leads out of the archive"),
        ("dev", tarfile.CHRTYPE, "", "is a device"),
        ("dev", tarfile.BLKTYPE, "", "is a device"),
        ("fifo", tarfile.FIFOTYPE, "", "is a device"),
        ("index.json", tarfile.REGTYPE, "", "is in it twice"),
    ],
)
async def test_members_that_no_image_has_are_refused(
    name: str, kind: bytes, link: str, words: str, tmp_path: Path
) -> None:
    path = with_member(tmp_path / "a.tar", of_type(kind, link), name)
    with pytest.raises(InvalidImageError, match=words) as caught:
        await pull(path)
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == ["a.tar"]


async def test_links_in_circles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, target in (("index.json", "oci-layout"), ("oci-layout", "index.json")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    with pytest.raises(InvalidImageError, match="in circles"):
        await pull(path)


async def test_sizes_that_lie_are_refused(tmp_path: Path) -> None:
    for data in (b"", FILES[LAYER][:-1], FILES[LAYER] + b"x"):
        path = write_archive(tmp_path / "a.tar", {**FILES, LAYER: data})
        with pytest.raises(InvalidImageError, match="and not the"):
            await pull(path)
    changed = b"y" + FILES[LAYER][1:]
    with pytest.raises(CdimageError, match="have the digest"):
        await pull(write_archive(tmp_path / "a.tar", {**FILES, LAYER: changed}))


def test_a_hole_a_bomb_and_endless_headers_cost_little(tmp_path: Path) -> None:
    """Each in a process of its own, whose memory is limited, as is its time."""
    sparse = tarfile.TarInfo("hole")
    sparse.size = 10 << 30
    hole = tmp_path / "hole.tar"
    with hole.open("wb") as file:
        file.write(sparse.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + (10 << 30))
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 2 << 30
    endless = tmp_path / "pax.tar"
    with endless.open("wb") as file:
        file.write(pax.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(512 + (2 << 30))
    bomb = tmp_path / "bomb.tar.gz"
    with bomb.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as packed:
        packed.write(sparse.tobuf(tarfile.GNU_FORMAT))
        for _ in range(2100):
            packed.write(bytes(1 << 20))
    entries = [{"digest": IMAGE.digest, "size": 1, "mediaType": "x"}] * 1_000_000
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    million = write_archive(tmp_path / "million.tar", {**FILES, "index.json": index})
    for path, words in (
        (hole, "neither an index.json"),
        (endless, "a header of it is larger"),
        (bomb, "unpacks to more than"),
        (million, "is larger than 8 MiB"),
    ):
        assert words in refused_cheaply(path)


def refused_cheaply(path: Path) -> str:
    """What a process that has 300 MB of memory and 20 seconds says of an archive."""
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.test_archive_malicious import pull\n"
        "from cdimage.errors import CdimageError\n"
        "try: asyncio.run(pull(Path(sys.argv[1])))\n"
        "except CdimageError as error: print(error)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True, text=True, check=True, preexec_fn=limit,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    return done.stdout


async def test_cut_off_anywhere_it_is_refused_or_whole(tmp_path: Path) -> None:
    whole = write_archive(tmp_path / "a.tar", FILES).read_bytes()
    for size in range(0, len(whole), 512):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:size])
        try:
            await pull(path)
        except CdimageError:
            continue
        assert size > len(whole) - 10_240  # only the padding at its end was cut


def originals() -> Iterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    yield buffer.getvalue()
    yield gzip.compress(buffer.getvalue(), 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    original=st.sampled_from(list(originals())),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_whatever_is_changed_nothing_but_our_own_errors_comes_out(
    tmp_path: Path, original: bytes, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(original)
    for where, value in changes:
        data[int(where * len(data))] = value
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with suppress(CdimageError):
        asyncio.run(pull(path))
