"""Docker's own form of an archive: ``manifest.json``, configs, and layers as tars.

Specification: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from cdimage.archive.files import Files
from cdimage.archive.listing import Member
from cdimage.compression import sniff
from cdimage.descriptor import Descriptor, MediaType, text_field, text_list
from cdimage.digest import Digest
from cdimage.errors import InvalidImageError, InvalidReferenceError, NotFoundError
from cdimage.image import Config, dump_json
from cdimage.named import choose_one
from cdimage.reference import Reference

_IMAGES: Final = 1000
_PIECE: Final = 1 << 20
_SUFFIX: Final = {"none": "", "gzip": ".gzip", "zstd": ".zstd"}


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer as it lies in the archive."""

    digest: Digest
    size: int
    kind: str


class DockerImages:
    """The images of an archive, with manifests made for them. Blocks.

    Attributes:
        blobs: What the manifests refer to, and the manifests: bytes, or where they are.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._entries = _entries(files.read("manifest.json"))
        self._layers: dict[Member, _Layer] = {}
        self.blobs: dict[Digest, bytes | Member] = {}

    def find(self, reference: Reference, archive: str) -> Descriptor:
        """The manifest of the image that a reference names, or of the only one.

        Raises:
            NotFoundError: There is no such image.
            InvalidReferenceError: There are several, and none is named.
        """
        if reference.digest is not None:
            for entry in self._entries:
                found = self._manifest(entry)
                if found.digest == reference.digest:
                    return found
            raise NotFoundError(f"{reference.digest} is not in {archive}")
        wanted = reference.tag and full_name(reference.tag)
        chosen = [
            entry
            for entry in self._entries
            if wanted is None or wanted in map(full_name, text_list(entry, "RepoTags"))
        ]
        names = [name for entry in self._entries for name in text_list(entry, "RepoTags")]
        return self._manifest(choose_one(chosen, reference.tag, archive, names))

    def _manifest(self, entry: dict[str, Any]) -> Descriptor:
        """Make the manifest of an image: its bytes follow from the image alone."""
        config = Config.parse(
            self._files.read(text_field(entry, "Config")), MediaType.DOCKER_CONFIG
        )
        layers = [self._layer(path) for path in text_list(entry, "Layers")]
        if len(layers) != len(config.diff_ids):
            raise InvalidImageError(
                f"{text_field(entry, 'Config')!r} has {len(config.diff_ids)} diff IDs "
                f"for {len(layers)} layers"
            )
        for layer, diff_id in zip(layers, config.diff_ids, strict=True):
            if layer.kind == "none" and layer.digest != diff_id:
                raise InvalidImageError(f"a layer is {layer.digest}, and not {diff_id}")
        value = {
            "schemaVersion": 2,
            "mediaType": MediaType.DOCKER_MANIFEST,
            "config": _entry(MediaType.DOCKER_CONFIG, len(config.data), config.digest),
            "layers": [
                _entry(MediaType.DOCKER_LAYER + _SUFFIX[layer.kind], layer.size, layer.digest)
                for layer in layers
            ],
        }
        data = dump_json(value)
        found = Descriptor(MediaType.DOCKER_MANIFEST, Digest.of(data), len(data), data=data)
        self.blobs.update({found.digest: data, config.digest: config.data})
        return found

    def _layer(self, path: str) -> _Layer:
        """Hash a layer, once."""
        member = self._files.find(path)
        if member not in self._layers:
            self._layers[member] = found = self._hash(member)
            self.blobs[found.digest] = member
        return self._layers[member]

    def _hash(self, member: Member) -> _Layer:
        reading, digest, head = self._files.open(member), hashlib.sha256(), b""
        try:
            while part := reading.read(_PIECE):
                head = head or part[:4]
                digest.update(part)
        finally:
            reading.close()
        return _Layer(Digest("sha256", digest.hexdigest()), member.size, sniff(head))


def full_name(name: str) -> str:
    """A name with registry and tag, as ``docker.io/library/debian:latest``; or as it is."""
    try:
        parsed = Reference.parse(name)
    except InvalidReferenceError:
        return name
    return str(parsed) if parsed.tag or parsed.digest else f"{parsed}:latest"


def _entries(data: bytes) -> list[dict[str, Any]]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidImageError("its manifest.json is not JSON") from None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InvalidImageError("its manifest.json is not a list of images")
    if len(value) > _IMAGES:
        raise InvalidImageError(f"it holds more than {_IMAGES} images")
    return value


def _entry(media_type: str, size: int, digest: Digest) -> dict[str, Any]:
    return {"mediaType": media_type, "size": size, "digest": str(digest)}
