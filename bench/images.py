"""A large image: Debian with Python and compilers, about 500 MB packed, in any number of layers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.daemons import Registry
from tests.holes import Elsewhere, place_blob
from tests.images import OCI_LAYER, Layer, Pushed, Pusher, debootstrap, image_of
from tests.tools import ROOT

from bench.programs import gunzips_in_path

_PACKAGES: Final = ("python3-dev", "build-essential", "clang", "clang-13", "llvm-dev")
_CACHE: Final = ROOT / ".images" / "compilers"
_COUNTS: Final = (3, 40)
_LEFT_OUT: Final = {
    "var/cache/apt/archives", "var/lib/apt/lists", "debootstrap", "dev", "proc", "sys",
}  # fmt: skip
_PIECE: Final = 1 << 20


def push_toolchain(registry: Registry, layers: int) -> Pushed:
    """Put the image, in 3 or in 40 layers of the same files, into a registry.

    Made once, in minutes, and kept in ``.images``; its layers are linked into the registry's
    storage.
    """
    if not (_CACHE / "layers.json").exists():
        _make()
    made = json.loads((_CACHE / "layers.json").read_text())[str(layers)]
    repository = f"bench/toolchain-{layers}"
    held = []
    for digest, diff_id, size in made:
        _link(_CACHE / digest, place_blob(registry, repository, digest))
        held.append(Layer(Elsewhere(f"{OCI_LAYER}+gzip", b"", digest, size), diff_id))
    image = image_of(held)
    pusher = Pusher(registry.host)
    pusher.push_blob(repository, image.config.data)
    return pusher.push_manifest(
        repository, "latest", image.manifest, tuple(layer.blob.digest for layer in held)
    )


def _link(file: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(file, target)
    except OSError:  # another file system
        shutil.copyfile(file, target)


def _make() -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)
    root = _CACHE / "root"
    root.mkdir(parents=True)
    debootstrap(root, *_PACKAGES, foreign=True)
    with ThreadPoolExecutor(os.cpu_count()) as workers, gunzips_in_path():
        list(workers.map(partial(_unpack, root), (root / "var/cache/apt/archives").glob("*.deb")))
        paths = sorted(_paths(root))
        made = {
            count: list(workers.map(lambda part: _pack(root, part), _parts(root, paths, count)))
            for count in _COUNTS
        }
    shutil.rmtree(root)
    (_CACHE / "layers.json").write_text(json.dumps(made))


def _unpack(root: Path, package: Path) -> None:
    """Put a package's files there; it is not configured, because nothing of it is run."""
    subprocess.run(["dpkg-deb", "-x", package, root], check=True)


def _paths(root: Path) -> Iterator[str]:
    """All files, and the folders that have none."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        inside = folder.relative_to(root)
        folders[:] = [it for it in folders if str(inside / it) not in _LEFT_OUT]
        links = [it for it in folders if (folder / it).is_symlink()]
        yield from (str(inside / it) for it in (*files, *links))
        if not files and not folders:
            yield str(inside)


def _parts(root: Path, paths: Sequence[str], count: int) -> Iterator[list[str]]:
    """Files in their order, divided into parts of about the same size."""
    sizes = [(root / path).lstat().st_size for path in paths]
    share, taken, part = sum(sizes) / count, 0.0, 1
    files: list[str] = []
    for path, size in zip(paths, sizes, strict=True):
        files.append(path)
        taken += size
        if taken >= share * part and part < count:
            yield files
            files, part = [], part + 1
    yield files


def _pack(root: Path, paths: Iterable[str]) -> tuple[str, str, int]:
    """Make a layer of files; its digest, its diff ID, and its size."""
    listed = "\0".join(paths)
    command = [
        "tar",
        "-C",
        str(root),
        "--null",
        "--no-recursion",
        "--numeric-owner",
        "-T",
        "-",
        "-c",
    ]
    half = _CACHE / f"{hashlib.sha256(listed.encode()).hexdigest()}.half"
    plain, names = hashlib.sha256(), half.with_suffix(".names")
    names.write_text(listed)
    with (
        names.open("rb") as given,
        half.open("wb") as file,
        subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE) as tar,
        subprocess.Popen(["igzip", "-1"], stdin=subprocess.PIPE, stdout=file) as packer,
    ):
        assert tar.stdout is not None
        assert packer.stdin is not None
        while piece := tar.stdout.read(_PIECE):
            plain.update(piece)
            packer.stdin.write(piece)
        packer.stdin.close()
    if tar.returncode or packer.returncode:
        raise RuntimeError(f"tar ended with {tar.returncode}, igzip with {packer.returncode}")
    names.unlink()
    with half.open("rb") as written:
        packed = hashlib.file_digest(written, "sha256")
    digest = f"sha256:{packed.hexdigest()}"
    size = half.stat().st_size
    half.rename(_CACHE / digest)
    return digest, f"sha256:{plain.hexdigest()}", size
