"""The golden vectors, as umoci and skopeo understand them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.golden import BASES, PROGRAM, base, prepared
from tests.tools import tool, tool_env

from cdimage.layer import pause_path


def run(*command: str) -> str:
    done = subprocess.run(command, env=tool_env(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_layout(folder: Path, name: str) -> list[bytes]:
    """The prepared image as an OCI layout; a Docker one as skopeo's dir is converted first."""
    image = prepared(name)
    assert image.layer is not None
    layers = [*base(name)[2], image.layer.data]
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data, digest in [
        (image.manifest.data, image.manifest.digest),
        (image.config.data, image.config.digest),
        *zip(layers, image.config.diff_ids, strict=True),
    ]:
        (blobs / digest.hex).write_bytes(data)
    entry = {
        "mediaType": image.manifest.media_type,
        "digest": str(image.manifest.digest),
        "size": len(image.manifest.data),
        "annotations": {"org.opencontainers.image.ref.name": "x"},
    }
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return layers


def write_dir(folder: Path, name: str) -> None:
    """The prepared image as skopeo's ``dir:``, which holds Docker's family as well."""
    image = prepared(name)
    assert image.layer is not None
    folder.mkdir()
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / "manifest.json").write_bytes(image.manifest.data)
    (folder / image.config.digest.hex).write_bytes(image.config.data)
    layers = [*base(name)[2], image.layer.data]
    for data, digest in zip(layers, image.config.diff_ids, strict=True):
        (folder / digest.hex).write_bytes(data)


@pytest.mark.parametrize("name", BASES)
def test_skopeo_copies_it_and_reads_the_same_config(name: str, tmp_path: Path) -> None:
    write_dir(tmp_path / "dir", name)
    target = f"oci:{tmp_path / 'copy'}:x"
    run(tool("skopeo"), "--insecure-policy", "copy", f"dir:{tmp_path / 'dir'}", target)
    config = json.loads(run(tool("skopeo"), "inspect", "--config", target))
    ours = prepared(name).config
    assert config["config"]["Entrypoint"] == [pause_path(config["os"])]
    assert config["architecture"] == ours.platform.architecture
    assert config["rootfs"]["diff_ids"] == [str(diff_id) for diff_id in ours.diff_ids]
    assert config["history"][-1]["created_by"] == "hpcc: inject pause binary"
    raw = json.loads(run(tool("skopeo"), "inspect", "--raw", f"dir:{tmp_path / 'dir'}"))
    assert raw == prepared(name).manifest.json


# umoci reads Docker's media types from no layout, and unpacks nothing of Windows.
@pytest.mark.parametrize("name", [it for it in BASES if not {"docker", "os"} & BASES[it].keys()])
def test_umoci_unpacks_it(name: str, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", name)
    run(
        tool("umoci"), "unpack", "--rootless", "--image", f"{tmp_path / 'layout'}:x",
        str(tmp_path / "bundle"),
    )  # fmt: skip
    program = tmp_path / "bundle" / "rootfs" / ".hpcc" / "pause"
    assert program.read_bytes() == PROGRAM
    assert program.stat().st_mode & 0o7777 == 0o755
    assert program.parent.stat().st_mode & 0o7777 == 0o755
    spec = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert spec["process"]["args"] == ["/.hpcc/pause"]
