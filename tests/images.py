"""Real images, made on the spot and pushed to a registry; the standard library is enough."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import ssl
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tools import ROOT, tool, tool_env

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def digest_of(data: bytes) -> str:
    """The sha256 digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Blob:
    """Bytes and what they are."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """Its name."""
        return digest_of(self.data)

    @property
    def descriptor(self) -> dict[str, Any]:
        """What names it in a document."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True)
class Layer:
    """A layer, packed, with the digest of what it unpacks to."""

    blob: Blob
    diff_id: str


@dataclass(frozen=True)
class Image:
    """An image's documents and layers, base first."""

    manifest: Blob
    config: Blob
    layers: Sequence[Layer] = field(default=())

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return self.manifest.digest


@dataclass(frozen=True)
class Pushed:
    """An image in a registry.

    Attributes:
        reference: With a tag, to be pulled by.
        digest: Of its manifest or index.
        layers: Digests of its layers.
    """

    reference: str
    digest: str
    layers: tuple[str, ...] = ()


def tar_of(files: Mapping[str, bytes | str], *, owner: int = 0) -> bytes:
    """A tar of executables (bytes) and links (str), in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.mode, member.uid, member.gid = 0o755, owner, owner
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            elif path.endswith("/"):
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def layer_of(tar: bytes, packing: str = "gzip", *, docker: bool = False) -> Layer:
    """Pack a tar: ``gzip``, ``zstd`` or ``none``."""
    base = DOCKER_LAYER if docker else OCI_LAYER
    joint = "." if docker else "+"
    if packing == "none":
        return Layer(Blob(base, tar), digest_of(tar))
    if packing == "gzip":
        packed = gzip.compress(tar, compresslevel=1, mtime=0)
    else:
        packed = subprocess.run(
            [tool("zstd"), "-q", "-c"], input=tar, capture_output=True, check=True, env=tool_env()
        ).stdout
    return Layer(Blob(f"{base}{joint}{packing}", packed), digest_of(tar))


def image_of(
    layers: Sequence[Layer],
    execution: Mapping[str, Any] | None = None,
    *,
    docker: bool = False,
    platform: str = "linux/amd64",
    diff_ids: Sequence[str] | None = None,
) -> Image:
    """An image of layers, that runs what ``execution`` says."""
    system, machine = platform.split("/")
    if diff_ids is None:
        diff_ids = [layer.diff_id for layer in layers]
    config = {
        "architecture": machine,
        "os": system,
        "config": {"Env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"], **(execution or {})},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created_by": f"layer {n}"} for n in range(len(layers))],
    }
    config_blob = Blob(DOCKER_CONFIG if docker else OCI_CONFIG, json.dumps(config).encode())
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config_blob.descriptor,
        "layers": [layer.blob.descriptor for layer in layers],
    }
    return Image(Blob(media_type, json.dumps(manifest).encode()), config_blob, layers)


def index_of(images: Mapping[str, Image]) -> Blob:
    """An index of images by platform, with a build tool's attestation among them."""
    entries = []
    for platform, image in images.items():
        system, machine = platform.split("/")
        wanted = {"os": system, "architecture": machine}
        entries.append({**image.manifest.descriptor, "platform": wanted})
    attestation = attestation_image().manifest.descriptor
    attestation["platform"] = {"os": "unknown", "architecture": "unknown"}
    attestation["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [attestation, *entries]}
    return Blob(OCI_INDEX, json.dumps(value).encode())


def attestation_image() -> Image:
    """What build tools put beside an image: a statement about it, in the form of an image."""
    return image_of([Layer(Blob("application/vnd.in-toto+json", b"{}"), digest_of(b"{}"))])


def busybox_tar(**extra: bytes | str) -> bytes:
    """A root file system with the real busybox and links for its commands."""
    program = Path(tool("busybox")).read_bytes()
    names = (
        "cat",
        "echo",
        "ls",
        "ps",
        "sh",
        "sleep",
        "true",
        "false",
        "id",
        "kill",
        "touch",
        "env",
    )
    links = {f"bin/{name}": "busybox" for name in names}
    folders = {f"{name}/": b"" for name in ("bin", "proc", "tmp", "etc")}
    users = {"etc/passwd": b"root:x:0:0::/:/bin/sh\nworker:x:1234:1234::/tmp:/bin/sh\n"}
    return tar_of({**folders, "bin/busybox": program, **links, **users, **extra})


def debian_layer() -> Layer:
    """Debian's minimal system, made by debootstrap once and kept in ``.images``."""
    cached = ROOT / ".images" / "debian.tar.gz"
    if not cached.exists():
        _make_debian(cached)
    packed = cached.read_bytes()
    return Layer(Blob(f"{OCI_LAYER}+gzip", packed), digest_of(gzip.decompress(packed)))


def _make_debian(target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    root = target.parent / "debian.root"
    debootstrap(root)
    half = target.with_suffix(".half")
    skipped = ["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*"]
    packing = ["--sort=name", "--numeric-owner", "--use-compress-program=gzip -1"]
    subprocess.run(["tar", "-C", root, *skipped, *packing, "-cf", half, "."], check=True)
    half.rename(target)
    subprocess.run(["rm", "-rf", str(root)], check=True)


def debootstrap(root: Path, *packages: str, foreign: bool = False) -> None:
    """Make Debian's minimal system, and packages, in a folder of its own.

    Foreign, nothing of it is run: what is not required lies in ``var/cache/apt/archives``.
    """
    subprocess.run(["rm", "-rf", str(root)], check=True)
    program = Path(tool("debootstrap"))
    env = {**tool_env(), "DEBOOTSTRAP_DIR": str(program.parent.parent / "share/debootstrap")}
    more = [f"--include={','.join(packages)}"] if packages else []
    more += ["--foreign"] if foreign else []
    subprocess.run(
        [program, "--variant=minbase", *more, "bookworm", root, _mirror()],
        check=True, env=env, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def _mirror() -> str:
    """Where this system's own packages come from."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for line in listing.splitlines():
        uri, codename, component = line.split()
        if codename == "bookworm" and component == "main":
            return uri
    raise LookupError("this system has no apt source for Debian 12's main packages")


class Pusher:
    """Pushes to a registry, as far as these tests need it; in TLS when told whom to trust."""

    def __init__(
        self, host: str, authorization: str = "", trust: ssl.SSLContext | None = None
    ) -> None:
        self._host = host
        self._url = f"{'https' if trust else 'http'}://{host}/v2"
        self._headers = {"Authorization": authorization} if authorization else {}
        self._trust = trust

    def push(self, image: Image, repository: str, tag: str = "latest") -> Pushed:
        """Push an image with all that it refers to."""
        for blob in (image.config, *(layer.blob for layer in image.layers)):
            self.push_blob(repository, blob.data)
        return self.push_manifest(
            repository, tag, image.manifest, tuple(layer.blob.digest for layer in image.layers)
        )

    def push_index(self, index: Blob, images: Sequence[Image], repository: str) -> Pushed:
        """Push an index with its images."""
        layers: tuple[str, ...] = ()
        for image in (*images, attestation_image()):
            layers += self.push(image, repository, image.digest[7:20]).layers
        return self.push_manifest(repository, "latest", index, layers)

    def push_blob(self, repository: str, data: bytes) -> None:
        """Push a blob that is not there."""
        base = f"{self._url}/{repository}/blobs"
        try:
            self._ask("HEAD", f"{base}/{digest_of(data)}")
            return
        except urllib.error.HTTPError:
            pass
        location = self._ask("POST", f"{base}/uploads/").headers["Location"]
        joint = "&" if "?" in location else "?"
        self._ask("PUT", f"{location}{joint}digest={digest_of(data)}", data)

    def push_manifest(
        self, repository: str, tag: str, manifest: Blob, layers: tuple[str, ...] = ()
    ) -> Pushed:
        """Push a manifest or an index."""
        url = f"{self._url}/{repository}/manifests/{tag}"
        self._ask("PUT", url, manifest.data, manifest.media_type)
        return Pushed(f"{self._host}/{repository}:{tag}", manifest.digest, layers)

    def _ask(self, method: str, url: str, data: bytes | None = None, media_type: str = "") -> Any:
        headers = {"Content-Type": media_type or "application/octet-stream", **self._headers}
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=60, context=self._trust) as answer:
            answer.read()
            return answer
