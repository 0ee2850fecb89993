"""Images from archive files."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from backports import zstd
from tests.images import Image, digest_of, image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_archive, write_layout
from tests.tools import tool, tool_env

from cdimage.archive import open_archive
from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import (
    CdimageError,
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
)
from cdimage.image import Manifest
from cdimage.pull import read
from cdimage.reference import Reference

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstd.compress,
}


def image(name: str = "hello", count: int = 3) -> Image:
    layers = [layer_of(tar_of({f"{name}{n}": os.urandom(2_000_000)}), "none") for n in range(count)]
    return image_of(layers, {"Cmd": [name]})


def oci_archive(path: Path, made: Image, packing: str = "none") -> Path:
    write_archive(path, layout_files([("latest", made.manifest)], blobs_of(made)[1:]))
    path.write_bytes(PACKINGS[packing](path.read_bytes()))
    return path


def docker_files(images: Mapping[str, Image]) -> dict[str, bytes]:
    """What ``docker save`` wrote before it knew image layouts."""
    files: dict[str, bytes] = {}
    entries = []
    for name, made in images.items():
        config = f"{made.config.digest[7:]}.json"
        paths = [f"{layer.diff_id[7:]}/layer.tar" for layer in made.layers]
        files[config] = made.config.data
        files.update(
            {path: layer.blob.data for path, layer in zip(paths, made.layers, strict=True)}
        )
        entries.append({"Config": config, "RepoTags": [name], "Layers": paths})
    return {**files, "manifest.json": json.dumps(entries).encode()}


async def whole(reference: str) -> tuple[Descriptor, list[bytes]]:
    """The manifest and the layers of an image."""
    parsed = Reference.parse(reference)
    async with open_archive(parsed) as source:
        found = await source.resolve(parsed)
        manifest = Manifest.parse(await read(source, found), found.media_type)
        layers = []
        for layer in manifest.layers:
            async with source.fetch(layer) as chunks:
                layers.append(b"".join([chunk async for chunk in chunks]))
        assert await read(source, manifest.config)
        return found, layers


@pytest.mark.parametrize("packing", PACKINGS)
async def test_an_oci_archive_is_read_however_it_is_packed(packing: str, tmp_path: Path) -> None:
    made = image()
    path = oci_archive(tmp_path / "a.tar", made, packing)
    for reference in (f"oci-archive:{path}", f"oci-archive:{path}:latest"):
        found, layers = await whole(reference)
        assert str(found.digest) == made.digest
        assert layers == [layer.blob.data for layer in made.layers]


@pytest.mark.parametrize("packing", PACKINGS)
async def test_layers_are_read_at_the_same_time_and_from_any_offset(
    packing: str, tmp_path: Path
) -> None:
    made = image()
    path = oci_archive(tmp_path / "a.tar", made, packing)
    source = open_archive(Reference.parse(f"oci-archive:{path}"))

    async def part(number: int, offset: int) -> None:
        blob = made.layers[number].blob
        descriptor = Descriptor(blob.media_type, Digest.parse(blob.digest), len(blob.data))
        async with source.fetch(descriptor, offset) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == blob.data[offset:]

    async with source, asyncio.TaskGroup() as group:
        for number in (2, 0, 1):
            for offset in (0, 1, 999_999, len(made.layers[number].blob.data)):
                group.create_task(part(number, offset))


@pytest.mark.parametrize("packing", PACKINGS)
async def test_a_docker_archive_gets_the_same_manifest_however_it_is_packed(
    packing: str, tmp_path: Path
) -> None:
    made = image()
    files = docker_files({"debian:12": made})
    plain = write_archive(tmp_path / "plain.tar", files)
    other = write_archive(tmp_path / "other.tar", dict(reversed(files.items())))
    other.write_bytes(PACKINGS[packing](other.read_bytes()))
    wanted, _ = await whole(f"docker-archive:{plain}")
    for name in ("", ":debian:12", ":docker.io/library/debian:12"):
        found, layers = await whole(f"docker-archive:{other}{name}")
        assert found == wanted
        assert layers == [layer.blob.data for layer in made.layers]
    assert (await whole(f"docker-archive:{other}@{wanted.digest}"))[0] == wanted


async def test_a_layer_that_is_there_twice_may_be_a_link(tmp_path: Path) -> None:
    made = image(count=1)
    made = image_of([*made.layers, *made.layers])
    files = docker_files({"x:1": made})
    (path,) = (name for name in files if name.endswith("layer.tar"))
    entries = json.loads(files["manifest.json"])
    entries[0]["Layers"] = [path, "other/layer.tar"]
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("other/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, f"../{path}"
        tar.addfile(link)
        for name, data in {**files, "manifest.json": json.dumps(entries).encode()}.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    _, layers = await whole(f"docker-archive:{archive}")
    assert layers == [made.layers[0].blob.data] * 2


async def test_of_several_images_one_must_be_named(tmp_path: Path) -> None:
    images = {f"x/{name}:1": image(name, 1) for name in ("a", "b")}
    docker = write_archive(tmp_path / "docker.tar", docker_files(images))
    tagged = [(name, made.manifest) for name, made in images.items()]
    oci = write_archive(
        tmp_path / "oci.tar",
        layout_files(tagged, [blob for made in images.values() for blob in blobs_of(made)[1:]]),
    )
    for kind, path in (("docker", docker), ("oci", oci)):
        with pytest.raises(InvalidReferenceError, match=r"name one; it has .*x/a:1, .*x/b:1"):
            await whole(f"{kind}-archive:{path}")
        with pytest.raises(NotFoundError, match="there is no image 'x/c:1'"):
            await whole(f"{kind}-archive:{path}:x/c:1")
        _, layers = await whole(f"{kind}-archive:{path}:x/b:1")
        assert layers == [images["x/b:1"].layers[0].blob.data]


def skopeo(*arguments: str) -> bytes:
    return subprocess.run(
        [tool("skopeo"), "--insecure-policy", *arguments],
        env=tool_env(), check=True, capture_output=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [("oci", "x"), ("docker", "y/z:1")])
async def test_what_skopeo_writes_is_read(kind: str, name: str, tmp_path: Path) -> None:
    made = image()
    files = layout_files([("x", made.manifest)], blobs_of(made)[1:])
    folder = write_layout(tmp_path / "layout", files)
    target = f"{kind}-archive:{tmp_path / kind}.tar:{name}"
    skopeo("copy", f"oci:{folder}:x", target)
    found, layers = await whole(target)
    unpacked = [gzip.decompress(layer) if kind == "oci" else layer for layer in layers]
    assert unpacked == [layer.blob.data for layer in made.layers]
    if kind == "oci":
        assert str(found.digest) == digest_of(skopeo("inspect", "--raw", target))


@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        ("oci-archive:{}/nowhere.tar", NotFoundError, "there is no file"),
        ("oci-archive:{}", InvalidImageError, "is a directory: .*write oci:"),
        ("oci-archive:{}/text", InvalidImageError, "not a whole tar"),
        ("oci-archive:{}/empty.tar", InvalidImageError, "neither an index.json nor"),
        ("oci-archive:{}/docker.tar", InvalidImageError, "write docker-archive:"),
    ],
)
async def test_a_wrong_file_is_refused_in_one_sentence(
    reference: str, error: type[CdimageError], words: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    write_archive(tmp_path / "empty.tar", {})
    write_archive(tmp_path / "docker.tar", docker_files({"x:1": image(count=1)}))
    with pytest.raises(error, match=words):
        await whole(reference.format(tmp_path))
