"""Golden vectors: bases made of fixed bytes, and the digests that preparing them must give.

``python -m tests.golden`` writes ``tests/golden.json`` anew; with ``--check`` it compares, under
any Python. Whoever has to write it raises the number in `cdimage.prepare.recipe` as well.
`tests/integration/test_golden.py` has umoci and skopeo read the same images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdimage.descriptor import Descriptor, MediaType, Platform
from cdimage.digest import Digest
from cdimage.image import Config, Manifest
from cdimage.layer import pause_layer
from cdimage.pause import PauseProgram
from cdimage.prepare import Prepared, prepare

FILE = Path(__file__).parent / "golden.json"
PROGRAM = b"\x7fELF a pause program that never changes"

# Every base has other fields of the execution part, or of the document.
BASES: dict[str, dict[str, Any]] = {
    "oci": {"config": {"Entrypoint": ["/app"], "Cmd": ["serve"], "Env": ["A=b"]}},
    "docker": {"config": {"Cmd": ["sh"], "Hostname": "x", "OnBuild": None}, "docker": True},
    "no layers": {"config": None, "history": None, "layers": 0},
    "three layers": {"config": {"User": "1000:1000", "WorkingDir": "/tmp"}, "layers": 3},
    "everything": {
        "config": {
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000},
            "StopSignal": "SIGQUIT",
            "ArgsEscaped": True,
            "Volumes": {"/data": {}},
            "Labels": {"ü": "<&>"},
        },
        "extra": {"moby.buildkit.buildinfo.v1": "x", "big": 12345678901234567890123},
    },
    "arm64": {"config": {"Entrypoint": ["/app"]}, "architecture": "arm64", "variant": "v8"},
    "windows": {
        "config": {"Cmd": ["c:\\windows\\system32\\cmd.exe"], "User": "ContainerUser"},
        "os": "windows",
        "extra": {"os.version": "10.0.20348.2700"},
    },
}


def base_layers(count: int) -> list[bytes]:
    """Uncompressed layers of fixed bytes, made by our own code."""
    return [pause_layer(f"layer {number}".encode(), "linux").data for number in range(count)]


def base(name: str) -> tuple[Manifest, Config, list[bytes]]:
    """The manifest, config and layers of a base."""
    value = BASES[name]
    docker = value.get("docker", False)
    layers = base_layers(value.get("layers", 1))
    diff_ids = [str(Digest.of(layer)) for layer in layers]
    document = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": value.get("architecture", "amd64"),
        **({"variant": value["variant"]} if "variant" in value else {}),
        "os": value.get("os", "linux"),
        "config": value["config"],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": value.get("history", [{"created_by": "base"} for _ in layers]),
        **value.get("extra", {}),
    }
    config_type = MediaType.DOCKER_CONFIG if docker else MediaType.OCI_CONFIG
    layer_type = MediaType.DOCKER_LAYER if docker else MediaType.OCI_LAYER
    manifest_type = MediaType.DOCKER_MANIFEST if docker else MediaType.OCI_MANIFEST
    config = Config.parse(json.dumps(document).encode(), config_type)
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": _entry(config.descriptor),
        "layers": [_entry(Descriptor.of(layer_type, layer)) for layer in layers],
    }
    return Manifest.parse(json.dumps(manifest).encode(), manifest_type), config, layers


def prepared(name: str) -> Prepared:
    """The prepared image of a base."""
    manifest, config, _ = base(name)
    platform = Platform(config.platform.os, config.platform.architecture)
    return prepare(manifest, config, PauseProgram(platform, PROGRAM))


def digests(name: str) -> Mapping[str, str]:
    """What the vectors record."""
    image = prepared(name)
    assert image.layer is not None
    return {
        "manifest": str(image.manifest.digest),
        "config": str(image.config.digest),
        "layer": str(image.layer.digest),
    }


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
        "digest": str(descriptor.digest),
    }


def main() -> int:
    """Write the vectors, or compare with them; the exit status."""
    found = json.dumps({name: digests(name) for name in BASES}, indent=2) + "\n"
    if "--check" not in sys.argv:
        FILE.write_text(found)
        return 0
    print(f"Python {sys.version.split()[0]}")
    return 0 if FILE.read_text() == found else 1


if __name__ == "__main__":
    sys.exit(main())
