"""The kinds of images that there are, what becomes of each, and who reads the result.

`tests/integration/test_image_kinds.py` runs them; ``python -m tests.image_kinds`` writes the table
of ``docs/compatibility.md``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.images import (
    DOCKER_LAYER,
    OCI_INDEX,
    OCI_LAYER,
    Blob,
    Image,
    Layer,
    image_of,
    index_of,
    layer_of,
    tar_of,
)
from tests.layouts import blobs_of

DOCUMENT = Path(__file__).parent.parent / "docs" / "compatibility.md"
BEGIN, END = "<!-- kinds -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Made:
    """An image of a kind.

    Attributes:
        root: What the user digest names.
        blobs: All others.
        digest: The user digest; "" for the root's.
        platform: To be asked for.
    """

    root: Blob
    blobs: list[Blob]
    digest: str = ""
    platform: str = "linux/amd64"


@dataclass(frozen=True)
class Kind:
    """A kind of image.

    Attributes:
        name: Of the kind.
        make: Makes one.
        done: What becomes of it, in words.
        read_by: Who reads the prepared image: of containerd, skopeo, umoci.
        error: The class of the error, where it is refused.
    """

    name: str
    make: Callable[[], Made]
    done: str = "prepared"
    read_by: str = "containerd, skopeo, umoci"
    error: str = ""


def a_layer(name: str = "hello", packing: str = "gzip", *, docker: bool = False) -> Layer:
    return layer_of(tar_of({name: f"hello from {name}".encode()}), packing, docker=docker)


def single(image: Image, **more: Any) -> Made:
    return Made(image.manifest, blobs_of(image)[1:], **more)


def edited(image: Image, edit: Callable[[dict[str, Any]], None]) -> Image:
    """The same image with another manifest."""
    value = json.loads(image.manifest.data)
    edit(value)
    return replace(image, manifest=Blob(image.manifest.media_type, json.dumps(value).encode()))


def with_config(image: Image, edit: Callable[[dict[str, Any]], None]) -> Image:
    """The same image with another config."""
    value = json.loads(image.config.data)
    edit(value)
    config = Blob(image.config.media_type, json.dumps(value).encode())
    return edited(
        replace(image, config=config), lambda manifest: manifest.update(config=config.descriptor)
    )


def docker() -> Made:
    return single(image_of([a_layer(docker=True)], {"Cmd": ["sh"]}, docker=True))


def without_media_type() -> Made:
    return single(edited(image_of([a_layer()]), lambda value: value.pop("mediaType")))


def estargz() -> Made:
    def annotate(value: dict[str, Any]) -> None:
        key = "containerd.io/snapshot/stargz/toc.digest"
        value["layers"][0]["annotations"] = {key: f"sha256:{'0' * 64}"}

    return single(edited(image_of([a_layer()]), annotate))


def foreign() -> Made:
    layer = a_layer(docker=True)
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    image = image_of([replace(layer, blob=replace(layer.blob, media_type=kind))], docker=True)

    def address(value: dict[str, Any]) -> None:
        value["layers"][0]["urls"] = ["https://layers.example/one"]

    return single(edited(image, address))


def nulls() -> Made:
    def empty(value: dict[str, Any]) -> None:
        value.update(config=None, history=None, author=None)

    image = with_config(image_of([a_layer()]), empty)
    return single(edited(image, lambda value: value.update(annotations=None)))


def attested() -> Made:
    images = {
        name: image_of([a_layer(name)], platform=name) for name in ("linux/arm64", "linux/amd64")
    }
    index = index_of(images)
    return Made(index, blobs_of(*images.values()), platform="all")


def nested() -> Made:
    images = {"linux/amd64": image_of([a_layer()])}
    inner = index_of(images)
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.descriptor]}
    return Made(Blob(OCI_INDEX, json.dumps(value).encode()), [inner, *blobs_of(*images.values())])


def arm(variant: str) -> Made:
    def vary(value: dict[str, Any]) -> None:
        if variant:
            value["variant"] = variant

    image = with_config(image_of([a_layer()], platform="linux/arm64"), vary)
    return single(image, platform="linux/arm64")


def windows() -> Made:
    files = tar_of({"Hives/": b"", "Files/": b"", "Files/hello.txt": b"hello"})

    def version(value: dict[str, Any]) -> None:
        value.update({"os.version": "10.0.20348.2700", "os.features": ["win32k"]})

    image = with_config(image_of([layer_of(files)], platform="windows/amd64"), version)
    return single(image, platform="windows/amd64")


def sha512() -> Made:
    image = image_of([a_layer()])
    digest = f"sha512:{hashlib.sha512(image.manifest.data).hexdigest()}"
    return single(image, digest=digest)


def extras() -> Made:
    def extend(value: dict[str, Any]) -> None:
        value.update({"moby.buildkit.buildinfo.v1": "x", "container_config": {"Cmd": ["x"]}})
        value["config"].update(OnBuild=["RUN x"], Shell=["/bin/sh"], Healthcheck={"Test": ["CMD"]})

    return single(with_config(image_of([a_layer()]), extend))


def embedded() -> Made:
    """A manifest that carries its config."""
    image = image_of([a_layer()])
    data = base64.b64encode(image.config.data).decode()
    return single(edited(image, lambda value: value["config"].update(data=data)))


def artifact() -> Made:
    return single(edited(image_of([]), lambda value: value["config"].update(mediaType="x/helm")))


def encrypted() -> Made:
    layer = a_layer()
    kind = f"{OCI_LAYER}+gzip+encrypted"
    return single(image_of([replace(layer, blob=replace(layer.blob, media_type=kind))]))


def schema_1() -> Made:
    value = {"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    return Made(Blob(kind, json.dumps(value).encode()), [])


def many(count: int) -> Made:
    return single(image_of([a_layer(f"f{number}", "none") for number in range(count)]))


def sniffed() -> Made:
    """Docker's name for an uncompressed layer, for one that is compressed."""
    layer = a_layer(docker=True)
    plain = replace(layer, blob=replace(layer.blob, media_type=DOCKER_LAYER))
    return single(image_of([plain], docker=True))


KINDS = (
    Kind("OCI", lambda: single(image_of([a_layer()], {"Entrypoint": ["/hello"]}))),
    Kind("Docker schema 2", docker, "prepared, in Docker's family", "containerd"),
    Kind("manifest without `mediaType`", without_media_type, "prepared; the field is added"),
    Kind(
        "zstd layer", lambda: single(image_of([a_layer("z", "zstd")])), read_by="containerd, skopeo"
    ),
    Kind("uncompressed layer", lambda: single(image_of([a_layer("u", "none")]))),
    Kind("Docker's uncompressed type, compressed", sniffed, read_by="containerd"),
    Kind("eStargz annotations", estargz, "prepared; annotations stay"),
    Kind("foreign layer", foreign, "prepared; descriptor and addresses stay", "containerd"),
    Kind("no layers", lambda: single(image_of([]))),
    Kind("126 layers", lambda: many(126)),
    Kind("127 layers", lambda: many(127), "refused: too many to start", "", "InvalidImageError"),
    Kind("`null` fields", nulls),
    Kind("embedded config", embedded, "prepared; the copy is renewed"),
    Kind(
        "BuildKit index with attestations",
        attested,
        "all platforms, without the attestations",
        "containerd, skopeo",
    ),
    Kind("nested index", nested, "the platform's manifest, found in it"),
    Kind("linux/arm64/v8", lambda: arm("v8"), "prepared; the variant stays"),
    Kind("linux/arm64 without variant", lambda: arm("")),
    Kind(
        "windows/amd64 with version and features",
        windows,
        "prepared; both stay",
        "containerd, skopeo",
    ),
    Kind("asked for by sha512", sha512, "prepared under that digest"),
    Kind("fields that nobody knows in the config", extras, "prepared; they stay"),
    Kind(
        "the same diff ID twice",
        lambda: single(image_of([a_layer("a", "gzip"), a_layer("a", "none")])),
    ),
    Kind("Docker schema 1", schema_1, "refused", "", "InvalidImageError"),
    Kind("artifact, as a Helm chart", artifact, "refused", "", "InvalidImageError"),
    Kind("encrypted layer", encrypted, "refused", "", "InvalidImageError"),
)


def table() -> str:
    """As Markdown."""
    rows = ["| image | what becomes of it | the result is read by |", "|---|---|---|"]
    rows += [f"| {kind.name} | {kind.done} | {kind.read_by or '-'} |" for kind in KINDS]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
