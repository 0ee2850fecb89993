"""Image layouts that mean harm, and those that are broken: refused, and nothing written outside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.images import image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_layout

import cdimage
from cdimage.errors import CdimageError

IMAGE = image_of([layer_of(tar_of({"f": b"x" * 5000}), "none")])
LAYER = f"blobs/sha256/{IMAGE.layers[0].blob.digest[7:]}"
MANIFEST = f"blobs/sha256/{IMAGE.digest[7:]}"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    files = layout_files([("x", IMAGE.manifest)], blobs_of(IMAGE)[1:])
    return write_layout(tmp_path / "layout", files)


def move_away(path: Path) -> Path:
    """The same somewhere else, with a link in its place."""
    target = path.parent.parent.parent / f"elsewhere-{path.name}"
    path.rename(target)
    path.symlink_to(target)
    return target


def hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HARM: dict[str, tuple[str, Callable[[Path], object]]] = {
    "blobs are elsewhere": ("blobs", move_away),
    "blobs of sha256 are elsewhere": ("blobs/sha256", move_away),
    "a blob is a link": (LAYER, move_away),
    "a manifest is a link": (MANIFEST, move_away),
    "the index is a link": ("index.json", move_away),
    "a blob never ends": (LAYER, fifo),
    "the index never ends": ("index.json", fifo),
    "a blob is a hole of 10 GB": (LAYER, hole),
    "a manifest is a hole of 10 GB": (MANIFEST, hole),
    "the index is a hole of 10 GB": ("index.json", hole),
    "a blob is shorter": (LAYER, lambda path: path.write_bytes(path.read_bytes()[:-1])),
    "a blob is another": (LAYER, lambda path: path.write_bytes(b"y" * path.stat().st_size)),
    "a manifest is another": (MANIFEST, lambda path: path.write_bytes(b"{}")),
    "a blob is missing": (LAYER, Path.unlink),
    "the index is not JSON": ("index.json", lambda path: path.write_text("{")),
    "the index is a list": ("index.json", lambda path: path.write_text("[]")),
    "the marker is missing": ("oci-layout", Path.unlink),
    "the marker is of the future": (
        "oci-layout", lambda path: path.write_text('{"imageLayoutVersion":"2.0.0"}'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
async def test_it_is_refused_in_one_sentence(harm: str, layout: Path, tmp_path: Path) -> None:
    path, change = HARM[harm]
    change(layout / path)
    store = cdimage.LayoutStore(tmp_path / "store")
    with pytest.raises(CdimageError) as caught:
        await store.pull_image(f"oci:{layout}:x", IMAGE.digest)
    assert "\n" not in str(caught.value)
    assert await store.get_existing_images() == []


@pytest.mark.parametrize("part", ["blobs", "blobs/sha256", "ingest"])
async def test_nothing_is_written_by_way_of_a_link(part: str, layout: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = tmp_path / "store"
    (store / part).parent.mkdir(parents=True)
    (store / part).symlink_to(outside)
    with pytest.raises(cdimage.InvalidImageError, match="is a link"):
        await cdimage.LayoutStore(store).pull_image(f"oci:{layout}:x", IMAGE.digest)
    assert names_in(outside) == []


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_directory_for_another_purpose_is_left_alone(layout: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter").write_text("dear")
    store = cdimage.LayoutStore(home)
    for call in (
        store.pull_image(f"oci:{layout}:x", IMAGE.digest),
        store.untag_image(IMAGE.digest),
        store.get_existing_images(),
        store.pull_image(f"oci:{home}", IMAGE.digest),
    ):
        with pytest.raises(cdimage.InvalidImageError, match="has no file oci-layout"):
            await call
    assert names_in(home) == ["letter"]


async def test_an_index_of_a_million_entries_is_refused(layout: Path) -> None:
    entry = f'{{"mediaType":"x","digest":"{IMAGE.digest}","size":1}}'
    index = '{"schemaVersion":2,"manifests":[' + ",".join([entry] * 1_000_000) + "]}"
    (layout / "index.json").write_text(index)
    with pytest.raises(cdimage.InvalidImageError, match=r"index.json is larger than 8192 KiB"):
        await cdimage.LayoutStore(layout).get_existing_images()


async def test_entries_that_others_wrote_are_left_alone(layout: Path) -> None:
    store = cdimage.LayoutStore(layout)
    await store.pull_image(f"oci:{layout}:x", IMAGE.digest)
    await store.untag_image(IMAGE.digest)
    assert (layout / LAYER).is_file()
    again = cdimage.LayoutStore(layout.parent / "other")
    await again.pull_image(f"oci:{layout}:x", IMAGE.digest)


async def test_an_image_of_which_a_blob_was_removed_is_made_whole_again(
    layout: Path, tmp_path: Path
) -> None:
    store = cdimage.LayoutStore(tmp_path / "store")
    await store.pull_image(f"oci:{layout}:x", IMAGE.digest)
    (tmp_path / "store" / LAYER).unlink()
    await store.pull_image(f"oci:{layout}:x", IMAGE.digest)
    assert (await cdimage.verify_image(store, IMAGE.digest)).disagreements == ()


async def test_a_blob_that_cannot_be_written_is_told_and_the_next_pull_succeeds(
    layout: Path, tmp_path: Path
) -> None:
    store = cdimage.LayoutStore(tmp_path / "store")
    (tmp_path / "store" / LAYER).mkdir(parents=True)  # where the blob is to go
    with pytest.raises(OSError, match="Is a directory"):
        await store.pull_image(f"oci:{layout}:x", IMAGE.digest)
    assert await store.get_existing_images() == []
    (tmp_path / "store" / LAYER).rmdir()
    await store.pull_image(f"oci:{layout}:x", IMAGE.digest)
