"""The same image and the same pause program give the same bytes: in every store, from every source,
and on machines that differ in all that must not matter.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.backends import (
    Backend,
    ContainerdBackend,
    LayoutBackend,
    MemoryBackend,
    RegistryBackend,
)
from tests.daemons import Registry
from tests.images import Image, Pushed, Pusher, image_of, index_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_archive, write_layout
from tests.node import Node
from tests.stores import check_verified
from tests.tools import ROOT, SUITE

import cdimage

IMAGE = image_of(
    [layer_of(tar_of({f"f{n}": bytes([n]) * 3000})) for n in range(3)],
    {"Entrypoint": ["/ü"], "Labels": {"a": "<&>"}},
)
OTHER = image_of([layer_of(tar_of({"f": b"arm"}))], platform="linux/arm64")


@pytest.fixture
def pushed(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(IMAGE, new_repository())


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    files = layout_files([("x", IMAGE.manifest)], blobs_of(IMAGE)[1:])
    return write_layout(tmp_path / "source", files)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    files = layout_files([("x", IMAGE.manifest)], blobs_of(IMAGE)[1:])
    return write_archive(tmp_path / "source.tar", files)


async def test_every_store_and_every_source_gives_the_same_digest(
    node: Node, registry: Registry, pushed: Pushed, layout: Path, archive: Path, tmp_path: Path
) -> None:
    node.ctr("images", "pull", "--plain-http", pushed.reference)
    os.environ["CONTAINERD_ADDRESS"] = node.address
    os.environ["CONTAINERD_NAMESPACE"] = node.namespace
    try:
        sources = (
            pushed.reference, f"oci:{layout}", f"oci-archive:{archive}:x",
            f"docker-archive:{archive}", f"containerd:{pushed.reference}",
        )  # fmt: skip
        found = set()
        for number, source in enumerate(sources):
            backends: list[Backend] = [
                LayoutBackend(tmp_path / f"layout-{number}"), RegistryBackend(registry),
                MemoryBackend(), ContainerdBackend(node),
            ]  # fmt: skip
            for backend in backends:
                async with backend.open() as store:
                    await store.pull_image(source, IMAGE.digest)
                    await check_verified(store, IMAGE.digest)
                    found.add((await store.get_image(IMAGE.digest)).target.digest)
                    await store.untag_image(IMAGE.digest)
        assert len(found) == 1
    finally:
        del os.environ["CONTAINERD_ADDRESS"], os.environ["CONTAINERD_NAMESPACE"]


async def test_copies_are_the_same_to_the_byte(
    node: Node, registry: Registry, pusher: Pusher, new_repository: Callable[[], str],
    tmp_path: Path,
) -> None:  # fmt: skip
    images: dict[str, Image] = {"linux/amd64": IMAGE, "linux/arm64": OTHER}
    index = pusher.push_index(index_of(images), [*images.values()], new_repository())
    backends: list[Backend] = [
        LayoutBackend(tmp_path / "one"), MemoryBackend(), RegistryBackend(registry),
        ContainerdBackend(node), LayoutBackend(tmp_path / "two"),
    ]  # fmt: skip
    async with backends[0].open() as first:
        await first.pull_image(index.reference, index.digest, platform="all")
        wanted = (await first.get_image(index.digest)).target
    for source, target in itertools.pairwise(backends):
        async with source.open() as ours, target.open() as theirs:
            await cdimage.copy_image(ours, theirs, index.digest)
            await check_verified(theirs, index.digest)
            found = await theirs.get_image(index.digest)
            assert (found.target, found.is_all) == (wanted, True)
            await cdimage.copy_image(ours, theirs, index.digest)  # is there


async def test_archives_of_one_image_are_equal(pushed: Pushed, tmp_path: Path) -> None:
    archives = []
    for name in ("a", "b"):
        store = cdimage.LayoutStore(tmp_path / name)
        await store.pull_image(pushed.reference, pushed.digest)
        path = tmp_path / f"{name}.tar"
        with path.open("wb") as file:
            await cdimage.export_image(store, pushed.digest, file)
        archives.append(path.read_bytes())
    assert archives[0] == archives[1]


WAYS = {
    "as it is": ([], {}),
    "another locale": ([], {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "0"}),
    "another time zone": ([], {"TZ": "Pacific/Kiritimati"}),
    "other hashes": ([], {"PYTHONHASHSEED": "1234"}),
    "optimised": ([], {"PYTHONOPTIMIZE": "2"}),
    "another umask": (["sh", "-c", 'umask 077; exec "$@"', "x"], {}),
    "another clock": (
        [],
        {"FAKETIME": "1999-12-31 23:59:59", "LD_PRELOAD": "libfaketime.so.1"},
    ),
    "another epoch": ([], {"SOURCE_DATE_EPOCH": "1000000000"}),
    "another user": (["setpriv", "--reuid", "65534", "--clear-groups"], {}),
}


def test_nothing_of_the_machine_matters(layout: Path, tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and str(path).startswith("/tmp/"):
            path.chmod(path.stat().st_mode | 0o055)
    (library,) = (ROOT / ".tools" / SUITE / "usr" / "lib").glob("*/faketime/libfaketime.so.1")
    faketime = str(library.parent)
    found = set()
    for number, (before, variables) in enumerate(WAYS.values()):
        target = tmp_path / f"out-{number}"
        target.mkdir()
        target.chmod(0o777)
        done = subprocess.run(
            [
                *before, sys.executable, "-m", "cdimage", "pull", f"oci:{layout}", "--quiet",
                "--platform", "linux/amd64", "--store", f"oci:{target}", "--format", "json",
            ],
            env={**os.environ, **variables, "LD_LIBRARY_PATH": faketime},
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (before, done.stderr)
        blobs = sorted(path.name for path in (target / "blobs" / "sha256").iterdir())
        index = (target / "index.json").read_text()
        is_long_ago = '.created":"1999-' in index or '.created":"2000-' in index
        assert is_long_ago is ("FAKETIME" in variables)
        found.add(tuple(blobs))
    assert len(found) == 1
