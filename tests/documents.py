"""Small images as documents, for tests of the pure core."""

from __future__ import annotations

import json
from typing import Any

from cdimage.descriptor import Descriptor, MediaType, Platform
from cdimage.digest import Digest
from cdimage.image import Config, Manifest
from cdimage.pause import PauseProgram

LINUX = Platform("linux", "amd64")
PAUSE = PauseProgram(LINUX, b"pause program")


def config_json(layers: int = 1, **changes: Any) -> dict[str, Any]:
    """A config with so many layers."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/app"], "Cmd": ["serve"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id(n) for n in range(layers)]},
        "history": [{"created_by": f"layer {n}"} for n in range(layers)],
        **changes,
    }


def make_config(value: dict[str, Any], *, docker: bool = False) -> Config:
    """The parsed config."""
    media_type = MediaType.DOCKER_CONFIG if docker else MediaType.OCI_CONFIG
    return Config.parse(json.dumps(value).encode(), media_type)


def manifest_json(config: Config, count: int = 1, **changes: Any) -> dict[str, Any]:
    """A manifest of a config, with so many layers, of the config's family."""
    docker = config.media_type == MediaType.DOCKER_CONFIG
    layer = f"{MediaType.DOCKER_LAYER}.gzip" if docker else f"{MediaType.OCI_LAYER}+gzip"
    return {
        "schemaVersion": 2,
        "mediaType": MediaType.DOCKER_MANIFEST if docker else MediaType.OCI_MANIFEST,
        "config": descriptor_json(config.descriptor),
        "layers": [
            descriptor_json(Descriptor.of(layer, f"layer {n}".encode())) for n in range(count)
        ],
        **changes,
    }


def make_manifest(value: dict[str, Any]) -> Manifest:
    """The parsed manifest."""
    media_type = value.get("mediaType") or MediaType.OCI_MANIFEST
    return Manifest.parse(json.dumps(value).encode(), media_type)


def make_image(layers: int = 1, *, docker: bool = False, **changes: Any) -> tuple[Manifest, Config]:
    """A manifest and its config."""
    config = make_config(config_json(layers, **changes), docker=docker)
    return make_manifest(manifest_json(config, layers)), config


def descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    """A descriptor as it stands in a document."""
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


def diff_id(number: int) -> str:
    """The diff ID of the layer of that number."""
    return str(Digest.of(f"uncompressed {number}".encode()))
