"""Every kind of image: what becomes of it, and who reads the result (docs/compatibility.md)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.image_kinds import BEGIN, DOCUMENT, END, KINDS, Kind, Made, table
from tests.layouts import layout_files, write_layout
from tests.node import Node
from tests.stores import check_verified
from tests.tools import tool, tool_env

import cdimage
from cdimage import errors
from cdimage.resolve import Wanted

REFUSED = [kind for kind in KINDS if kind.error]
PREPARED = [kind for kind in KINDS if not kind.error]


def named(kind: Kind) -> str:
    return kind.name


def is_accepted(*command: str) -> bool:
    done = subprocess.run(command, env=tool_env(), capture_output=True, text=True, check=False)
    return done.returncode == 0


def wanted(made: Made) -> Wanted:
    return "all" if made.platform == "all" else cdimage.Platform.parse(made.platform)


async def prepared(made: Made, folder: Path) -> tuple[cdimage.LayoutStore, str]:
    """Prepare an image from a layout on disk into another."""
    source = write_layout(folder / "source", layout_files(made.root, made.blobs))
    store = cdimage.LayoutStore(folder / "store")
    digest = made.digest or made.root.digest
    if digest.startswith("sha512:"):
        blobs = source / "blobs" / "sha512"
        blobs.mkdir()
        (blobs / digest[7:]).write_bytes(made.root.data)
    await store.pull_image(f"oci:{source}", digest, platform=wanted(made))
    return store, digest


@pytest.mark.parametrize("kind", PREPARED, ids=named)
async def test_it_is_prepared_and_read_by_whom_the_table_says(
    kind: Kind, node: Node, tmp_path: Path
) -> None:
    made = kind.make()
    store, digest = await prepared(made, tmp_path)
    await check_verified(store, digest)
    archive = tmp_path / "image.tar"
    with archive.open("wb") as file:
        await cdimage.export_image(store, digest, file)
    image, tag = str(tmp_path / "store"), digest[7:]
    found = {
        "containerd": is_accepted(
            tool("ctr"), "--address", node.address, "--namespace", node.namespace,
            "images", "import", "--all-platforms", "--no-unpack", str(archive),
        ),
        "skopeo": is_accepted(
            tool("skopeo"), "--insecure-policy", "copy", "--all",
            f"oci:{image}:{tag}", f"oci:{tmp_path / 'copy'}:x",
        ),
        "umoci": is_accepted(
            tool("umoci"), "unpack", "--rootless", "--image", f"{image}:{tag}",
            str(tmp_path / "bundle"),
        ),
    }  # fmt: skip
    assert ", ".join(name for name, accepted in found.items() if accepted) == kind.read_by
    if found["containerd"]:
        assert cdimage.prepared_image_name(digest) in node.images()


@pytest.mark.parametrize("kind", REFUSED, ids=named)
async def test_it_is_refused_in_one_sentence(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(getattr(errors, kind.error)) as caught:
        await prepared(kind.make(), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store" / "index.json").exists()


@pytest.mark.parametrize("kind", PREPARED, ids=named)
async def test_containerd_and_the_layout_make_the_same_of_it(
    kind: Kind, node: Node, client: cdimage.Client, tmp_path: Path
) -> None:
    made = kind.make()
    layout, digest = await prepared(made, tmp_path)
    store = cdimage.Store(client)
    await store.pull_image(f"oci:{tmp_path / 'source'}", digest, platform=wanted(made))
    await check_verified(store, digest)
    ours = await store.get_image(digest)
    theirs = await layout.get_image(digest)
    assert (ours.target.digest, ours.platforms) == (theirs.target.digest, theirs.platforms)
    await store.untag_image(digest)
    assert node.is_empty()


def test_the_table_in_the_document_is_this_one() -> None:
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    assert rest.partition(END)[0] == table()


async def test_what_the_index_says_of_a_windows_image_stays(tmp_path: Path) -> None:
    (kind,) = (kind for kind in KINDS if kind.name.startswith("windows"))
    store, digest = await prepared(kind.make(), tmp_path)
    (platform,) = (await store.get_image(digest)).platforms
    assert str(platform) == "windows(10.0.20348.2700+win32k)/amd64"
    assert json.loads((tmp_path / "store" / "index.json").read_text())["manifests"]
