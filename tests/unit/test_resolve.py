"""Platforms of an image: which are found, in which order, and with what bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.images import OCI_INDEX, Blob, Image, image_of, layer_of, tar_of
from tests.layouts import blobs_of

import cdimage
from cdimage.descriptor import Platform
from cdimage.digest import Digest
from cdimage.memory import MemoryContent
from cdimage.pause import PauseBinaries
from cdimage.reference import Reference
from cdimage.resolve import PLATFORM_LIMIT, resolve_image, resolve_images

HAS = PauseBinaries.bundled().has
LINUX, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


def image(platform: str, number: int = 0, **fields: Any) -> Image:
    made = image_of([layer_of(tar_of({f"{number}": b"x"}))], platform=platform)
    if not fields:
        return made
    value = {**json.loads(made.config.data), **fields}
    config = Blob(made.config.media_type, json.dumps(value).encode())
    manifest = {**json.loads(made.manifest.data), "config": config.descriptor}
    return Image(Blob(made.manifest.media_type, json.dumps(manifest).encode()), config, made.layers)


def index(*entries: dict[str, Any]) -> Blob:
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return Blob(OCI_INDEX, json.dumps(value).encode())


def entry(blob: Blob, platform: str = "", **fields: str) -> dict[str, Any]:
    if not platform:
        return dict(blob.descriptor)
    system, machine = platform.split("/")
    return {**blob.descriptor, "platform": {"os": system, "architecture": machine, **fields}}


def holding(*blobs: Blob) -> MemoryContent:
    content = MemoryContent()
    content.blobs.update({Digest.parse(blob.digest): blob.data for blob in blobs})
    return content


async def found(root: Blob, content: MemoryContent, *platforms: Platform) -> list[str]:
    digest = Digest.parse(root.digest)
    reference = Reference.parse("x.example/y").at(digest)
    images = await resolve_images(content, reference, digest, platforms or "all", HAS)
    return [str(Digest.of(image.manifest.data)) for image in images]


async def test_all_platforms_that_have_a_pause_program_come_in_their_order() -> None:
    names = ["windows/amd64", "linux/s390x", "linux/arm64", "linux/amd64"]
    images = {name: image(name) for name in names}
    root = index(*(entry(images[name].manifest, name) for name in names))
    content = holding(root, *blobs_of(*images.values()))
    wanted = [images[name].digest for name in names if name != "linux/s390x"]
    assert await found(root, content) == wanted
    assert await found(root, content, LINUX, ARM) == wanted[1:]


async def test_a_platform_that_only_the_config_states_counts() -> None:
    arm, mainframe = image("linux/arm64"), image("linux/s390x")
    root = index(entry(arm.manifest), entry(mainframe.manifest))
    assert await found(root, holding(root, *blobs_of(arm, mainframe))) == [arm.digest]


async def test_nested_indexes_are_walked_in_order_and_each_manifest_comes_once() -> None:
    one, two = image("linux/amd64", 1), image("linux/arm64", 2)
    inner = index(entry(two.manifest, "linux/arm64"), entry(one.manifest, "linux/amd64"))
    root = index(entry(inner), entry(one.manifest, "linux/amd64"))
    content = holding(root, inner, *blobs_of(one, two))
    assert await found(root, content) == [two.digest, one.digest]


async def test_indexes_in_indexes_without_end_are_refused() -> None:
    inner = index()
    blobs = [inner]
    for _ in range(6):
        inner = index(entry(inner))
        blobs.append(inner)
    with pytest.raises(cdimage.InvalidImageError, match="nested more than 4 deep"):
        await found(inner, holding(*blobs))


async def test_more_platforms_than_any_image_has_are_refused() -> None:
    images = [image("linux/amd64", number) for number in range(PLATFORM_LIMIT + 1)]
    root = index(*(entry(one.manifest, "linux/amd64") for one in images))
    with pytest.raises(cdimage.InvalidImageError, match="more than 100 platforms"):
        await found(root, holding(root, *blobs_of(*images)))
    # An index says what it likes of what it lists.
    nested = [index(entry(one.manifest, "linux/amd64")) for one in images]
    root = index(*map(entry, nested[:90]), *(entry(one.manifest) for one in images))
    with pytest.raises(cdimage.InvalidImageError, match="more than 100 platforms"):
        await found(root, holding(root, *nested, *blobs_of(*images)))


async def test_versions_and_features_are_matched_as_far_as_they_are_asked_for() -> None:
    versions = ["10.0.17763.1", "10.0.20348.2700", "10.0.26100.1"]
    images = [
        image("windows/amd64", number, **{"os.version": version})
        for number, version in enumerate(versions)
    ]
    root = index(
        *(
            entry(one.manifest, "windows/amd64", **{"os.version": version})
            for one, version in zip(images, versions, strict=True)
        )
    )
    content = holding(root, *blobs_of(*images))
    digest = Digest.parse(root.digest)
    reference = Reference.parse("x.example/y").at(digest)
    for text, number in (
        ("windows/amd64", 0),
        ("windows(10.0.20348)/amd64", 1),
        ("windows(10.0.20348.2700)/amd64", 1),
        ("windows(10.0.26100)/amd64", 2),
    ):
        chosen = await resolve_image(content, reference, digest, Platform.parse(text), LINUX)
        assert str(chosen.manifest.digest) == images[number].digest
        assert chosen.config.platform.os_version == versions[number]
    for text in ("windows(10.0.2034)/amd64", "windows(10.0.20348+win32k)/amd64"):
        with pytest.raises(cdimage.UnsupportedPlatformError):
            await resolve_image(content, reference, digest, Platform.parse(text), LINUX)
