"""However large an image is, a pull needs the same memory."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from tests.daemons import Registry
from tests.images import Blob, Pushed, Pusher, image_of, layer_of, tar_of
from tests.node import Node
from tests.worker import start_worker

PEAK = 100_000_000
GROWTH = 10_000_000
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"


def large_layer(registry: Registry, repository: str, size: int) -> dict[str, object]:
    """Put a layer with one large file into a registry's storage, as a hole; its descriptor."""
    member = tarfile.TarInfo("large")
    member.size = size
    end = bytes(-size % 512 + 1024)
    head, whole = member.tobuf(tarfile.GNU_FORMAT), hashlib.sha256()
    whole.update(head)
    zeros = bytes(1 << 20)
    for at in range(0, size + len(end), len(zeros)):
        whole.update(zeros[: size + len(end) - at])
    digest, total = f"sha256:{whole.hexdigest()}", len(head) + size + len(end)
    path = registry.blob_path(digest)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(total)
    link = registry.storage / "docker/registry/v2/repositories" / repository / "_layers/sha256"
    (link / whole.hexdigest()).mkdir(parents=True)
    (link / whole.hexdigest() / "link").write_text(digest)
    return {"mediaType": MEDIA_TYPE, "digest": digest, "size": total}


def push_large(pusher: Pusher, registry: Registry, repository: str, size: int) -> Pushed:
    """An image with a small and a large layer."""
    small = layer_of(tar_of({"small": b"x"}), "none")
    pusher.push_blob(repository, small.blob.data)
    descriptor = large_layer(registry, repository, size)
    diff_ids = [small.diff_id, str(descriptor["digest"])]
    image = image_of([small], diff_ids=diff_ids)
    manifest = json.loads(image.manifest.data)
    manifest["layers"].append(descriptor)
    pusher.push_blob(repository, image.config.data)
    blob = Blob(image.manifest.media_type, json.dumps(manifest).encode())
    return pusher.push_manifest(repository, "latest", blob)


def peak_of_pull(node: Node, image: Pushed, folder: Path) -> int:
    """The peak resident size, in bytes, of a process that pulls an image."""
    peak = folder / "peak"
    worker = start_worker(node, image.reference, image.digest, "--peak", str(peak))
    assert worker.wait() == 0
    return int(peak.read_text()) * 1024


def test_a_large_image_needs_no_more_memory_than_a_small_one(
    node: Node,
    registry: Registry,
    pusher: Pusher,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    size = 5_000_000_000 if pytestconfig.getoption("--soak") else 400_000_000
    images = [push_large(pusher, registry, f"memory/{size}", size) for size in (4_000_000, size)]
    small, large = (peak_of_pull(node, image, tmp_path) for image in images)
    print(f"peak: {small / 1e6:.0f} MB, and {large / 1e6:.0f} MB for {size / 1e6:.0f} MB")
    assert large <= PEAK
    assert large - small <= GROWTH
