"""Verifying sees whatever is wrong: an image is prepared, something of it changed, and verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.images import Image, image_of, index_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_layout

import cdimage
from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.layer import pause_layer
from cdimage.memory import MemoryStore
from cdimage.pause import PauseBinaries

LAYERS = [layer_of(tar_of({f"f{n}": bytes([n]) * 500})) for n in range(2)]
IMAGE = image_of(LAYERS, {"Entrypoint": ["/app"], "Env": ["A=b"]})


@dataclass
class Patient:
    """A prepared image, and what can be done to it."""

    store: MemoryStore
    digest: str

    @property
    def blobs(self) -> dict[Digest, bytes]:
        return self.store._content.blobs

    async def target(self) -> Descriptor:
        return (await self.store.get_image(self.digest)).target

    def edit(self, target: Descriptor, change: Callable[[dict[str, Any]], object]) -> Descriptor:
        """Another document in the place of one, with its own digest."""
        value = json.loads(self.blobs[target.digest])
        change(value)
        data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        found = Descriptor.of(target.media_type, data)
        self.blobs[found.digest] = data
        return found

    async def edit_manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        self.point_at(self.edit(await self.target(), change))

    async def edit_config(self, change: Callable[[dict[str, Any]], object]) -> None:
        manifest = json.loads(self.blobs[(await self.target()).digest])
        old = Descriptor(MediaType.OCI_CONFIG, Digest.parse(manifest["config"]["digest"]), 0)
        new = self.edit(old, change)
        await self.edit_manifest(
            lambda value: value["config"].update(digest=str(new.digest), size=new.size)
        )

    async def replace_top(self, data: bytes) -> None:
        """Another top layer, told of everywhere."""
        layer = Descriptor.of(MediaType.OCI_LAYER, data)
        self.blobs[layer.digest] = data
        await self.edit_config(
            lambda value: value["rootfs"]["diff_ids"].__setitem__(-1, str(layer.digest))
        )
        await self.edit_manifest(
            lambda value: value["layers"][-1].update(digest=str(layer.digest), size=layer.size)
        )

    def point_at(self, target: Descriptor, **fields: Any) -> None:
        """Change the record."""
        digest = Digest.parse(self.digest)
        image, preparation = self.store._images[digest]
        self.store._images[digest] = (replace(image, target=target, **fields), preparation)

    async def complaints(self) -> list[str]:
        found = await cdimage.verify_image(self.store, self.digest)
        return [str(one) for one in found.disagreements]


async def patient(folder: Path, image: Image = IMAGE) -> Patient:
    files = layout_files([("x", image.manifest)], blobs_of(image)[1:])
    source = write_layout(folder / "source", files)
    store = MemoryStore()
    await store.pull_image(f"oci:{source}:x", image.digest)
    found = Patient(store, image.digest)
    assert await found.complaints() == []
    return found


CONFIG: dict[str, Callable[[dict[str, Any]], object]] = {
    "config.Entrypoint": lambda value: value["config"].update(Entrypoint=["/bin/sh"]),
    "config.Env": lambda value: value["config"].update(Env=["A=c"]),
    "config.Cmd": lambda value: value["config"].update(Cmd=["x"]),
    "history": lambda value: value["history"].insert(0, {"created_by": "x"}),
    "architecture": lambda value: value.update(variant="v3"),
    "author": lambda value: value.update(author="somebody else"),
    "hpcc.dev/prepared": lambda value: value["hpcc.dev/prepared"].update(
        pause="sha256:" + "0" * 64
    ),
}


@pytest.mark.parametrize("what", CONFIG)
async def test_a_config_that_differs_where_it_may_not_is_seen(what: str, tmp_path: Path) -> None:
    it = await patient(tmp_path)
    await it.edit_config(CONFIG[what])
    said = await it.complaints()
    field = "variant" if what == "architecture" else what
    assert any(f"config.{field}" in words for words in said), said


MANIFEST: dict[str, Callable[[dict[str, Any]], object]] = {
    "layer 0: ": lambda value: value["layers"].reverse(),
    "layer 1: ": lambda value: value["layers"][1].update(annotations={"a": "b"}),
    "3 layers": lambda value: value["layers"].insert(0, value["layers"][0]),
    "2 layers": lambda value: value["layers"].pop(0),
    "manifest.annotations": lambda value: value["annotations"].update(x="y"),
    "manifest.schemaVersion": lambda value: value.update(schemaVersion=3),
    "the same fields in other bytes": lambda value: value.update(config=value.pop("config")),
}


@pytest.mark.parametrize("words", MANIFEST)
async def test_a_manifest_that_differs_is_seen(words: str, tmp_path: Path) -> None:
    it = await patient(tmp_path)
    await it.edit_manifest(MANIFEST[words])
    said = await it.complaints()
    assert any(words in one for one in said), said


async def test_a_layer_that_is_another_or_missing_is_seen(tmp_path: Path) -> None:
    it = await patient(tmp_path)
    digest = Digest.parse(LAYERS[0].blob.digest)
    good = it.blobs[digest]
    for data in (good[:-1], good + b"x", b"x" + good[1:], tar_of({"a": b"b"})):
        it.blobs[digest] = data
        assert any("linux/amd64 layer 0" in words for words in await it.complaints())
    del it.blobs[digest]
    assert any("linux/amd64 layer 0" in words for words in await it.complaints())


async def test_a_layer_that_unpacks_to_something_else_is_seen(tmp_path: Path) -> None:
    wrong = image_of(LAYERS, diff_ids=[LAYERS[0].diff_id, LAYERS[0].diff_id])
    files = layout_files([("x", wrong.manifest)], blobs_of(wrong)[1:])
    store = MemoryStore()
    await store.pull_image(f"oci:{write_layout(tmp_path, files)}:x", wrong.digest)
    said = await Patient(store, wrong.digest).complaints()
    assert said == [
        f"linux/amd64 layer 1: unpacks to {LAYERS[1].diff_id}, and not diff ID {LAYERS[0].diff_id}"
    ]


async def test_a_top_layer_with_something_else_in_it_is_seen(tmp_path: Path) -> None:
    bundled = PauseBinaries.bundled().read(cdimage.Platform("linux", "amd64"))
    good = pause_layer(bundled.data, "linux").data
    more = tar_of({".hpcc/": b"", ".hpcc/pause": bundled.data, "etc/passwd": b"x"})
    for data, words in (
        (more, "something else than a pause program"),
        (good[:-512], "something else than a pause program"),
        (pause_layer(b"\x7fELF other", "linux").data, "pull again"),
    ):
        it = await patient(tmp_path / str(len(data)))
        await it.replace_top(data)
        said = await it.complaints()
        assert any(words in one for one in said), said


async def test_a_record_that_lies_is_seen(tmp_path: Path) -> None:
    it = await patient(tmp_path)
    target = await it.target()
    arm = (cdimage.Platform("linux", "arm64"),)
    for fields, words in (
        ({"platforms": arm}, "the record: linux/arm64"),
        ({"recipe": "[1]"}, "the record's recipe"),
        ({"snapshots": {"overlayfs": "sha256:" + "0" * 64}}, "snapshot in overlayfs"),
    ):
        before = it.store._images[Digest.parse(it.digest)]
        it.point_at(target, **fields)
        said = await it.complaints()
        assert any(words in one for one in said), said
        it.store._images[Digest.parse(it.digest)] = before


async def test_the_users_documents_that_are_missing_or_others_are_seen(tmp_path: Path) -> None:
    it = await patient(tmp_path)
    for name in (IMAGE.digest, IMAGE.config.digest):
        data = it.blobs.pop(Digest.parse(name))
        assert await it.complaints()
        it.blobs[Digest.parse(name)] = data.replace(b"amd64", b"arm64") + b" "
        assert await it.complaints()
        it.blobs[Digest.parse(name)] = data
    assert await it.complaints() == []


async def test_an_index_that_differs_is_seen(tmp_path: Path) -> None:
    images = {name: image_of(LAYERS, platform=name) for name in ("linux/amd64", "linux/arm64")}
    index = index_of(images)
    files = layout_files([("x", index)], blobs_of(*images.values()))
    source = write_layout(tmp_path, files)
    store = MemoryStore()
    await store.pull_image(f"oci:{source}:x", index.digest, platform="all")
    it = Patient(store, index.digest)
    assert await it.complaints() == []
    target = await it.target()
    it.point_at(it.edit(target, lambda value: value["manifests"].reverse()))
    assert any("the record" in one for one in await it.complaints())
    it.point_at(it.edit(target, lambda value: value.update(annotations={"a": "b"})))
    assert any("the index.annotations" in one for one in await it.complaints())
    it.point_at(it.edit(target, lambda value: value["manifests"].pop()))
    assert await it.complaints()


async def test_what_is_not_prepared_is_not_found() -> None:
    with pytest.raises(cdimage.NotFoundError):
        await cdimage.verify_image(MemoryStore(), IMAGE.digest)


@pytest.mark.parametrize("what", ["config.Entrypoint", "config.Env", "hpcc.dev/prepared"])
async def test_what_is_not_as_preparing_makes_it_is_not_copied(what: str, tmp_path: Path) -> None:
    it = await patient(tmp_path)
    await it.edit_config(CONFIG[what])
    other = MemoryStore()
    with pytest.raises(cdimage.InvalidImageError, match="is not what preparing makes of"):
        await cdimage.copy_image(it.store, other, it.digest)
    assert await other.get_existing_images() == []
