"""Indexes, manifests and configs: frozen views over the bytes that arrived.

The bytes are kept as received, because their digest is their name. A view reads only what
cdimage needs, tolerates ``null`` wherever a field is optional, and never drops a field.

Specification: image-spec v1.1.0, ``manifest.md``, ``image-index.md`` and ``config.md``;
distribution v2.8, ``manifest-v2-2.md``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NoReturn

from cdimage.descriptor import Descriptor, MediaType, Platform, text_field, text_list
from cdimage.digest import Digest
from cdimage.errors import InvalidImageError, InvalidReferenceError

DOCUMENT_LIMIT: Final = 8 << 20
"""The most bytes that an index, a manifest or a config may have."""

_ATTESTATION: Final = "vnd.docker.reference.type"


def dump_json(value: Mapping[str, Any]) -> bytes:
    """Serialise compactly, in the order of the keys, without escapes that nobody needs."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object strictly: no duplicate keys, no NaN, no lone surrogates.

    Raises:
        InvalidImageError: It is something else, or larger than `DOCUMENT_LIMIT`.
    """
    if len(data) > DOCUMENT_LIMIT:
        raise InvalidImageError(f"the {what} is larger than {DOCUMENT_LIMIT >> 20} MiB")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        # What cannot be written again cannot be edited: a lone surrogate, a number like 1e999.
        dump_json({"": value})
    except (ValueError, RecursionError) as error:
        raise InvalidImageError(f"the {what} is not valid JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise InvalidImageError(f"the {what} is not a JSON object")
    return value


@dataclass(frozen=True)
class _Document:
    """Raw bytes and, read from them once, the JSON object."""

    data: bytes
    media_type: str

    @cached_property
    def digest(self) -> Digest:
        """The sha256 digest of the bytes."""
        return Digest.of(self.data)

    @property
    def descriptor(self) -> Descriptor:
        """What names these bytes."""
        return Descriptor(self.media_type, self.digest, len(self.data))


@dataclass(frozen=True)
class Index(_Document):
    """An index (or manifest list): one image for several platforms."""

    @cached_property
    def json(self) -> dict[str, Any]:
        """The parsed object; not to be changed."""
        return parse_json(self.data, "index")

    @cached_property
    def manifests(self) -> tuple[Descriptor, ...]:
        """Images and nested indexes, in the order of the document.

        Attestations, and entries for an unknown platform, are left out.
        """
        return tuple(_descriptor(entry) for entry in self.entries)

    @cached_property
    def entries(self) -> tuple[dict[str, Any], ...]:
        """The JSON objects of `manifests`, with all their fields; not to be changed."""
        return tuple(filter(_is_image, _objects(self.json, "manifests", "index")))

    @property
    def is_docker(self) -> bool:
        """Whether it belongs to Docker's family of media types."""
        return self.media_type == MediaType.DOCKER_INDEX

    @classmethod
    def parse(cls, data: bytes, media_type: str) -> Index:
        """Read and check an index.

        Raises:
            InvalidImageError: It is not a well-formed index.
        """
        index = cls(data, media_type)
        _check_document(index.json, media_type, "index", forbidden=("config", "layers", "fsLayers"))
        _ = index.manifests
        return index


@dataclass(frozen=True)
class Manifest(_Document):
    """A manifest: one config and the layers, base first."""

    @cached_property
    def json(self) -> dict[str, Any]:
        """The parsed object; not to be changed."""
        return parse_json(self.data, "manifest")

    @cached_property
    def config(self) -> Descriptor:
        """The descriptor of the config."""
        return _descriptor(_object(self.json, "config", "manifest"))

    @cached_property
    def layers(self) -> tuple[Descriptor, ...]:
        """The descriptors of the layers, base first, top last."""
        return tuple(_descriptor(entry) for entry in _objects(self.json, "layers", "manifest"))

    @property
    def is_docker(self) -> bool:
        """Whether it belongs to Docker's family of media types."""
        return self.media_type == MediaType.DOCKER_MANIFEST

    @classmethod
    def parse(cls, data: bytes, media_type: str) -> Manifest:
        """Read and check the manifest of a container image.

        Raises:
            InvalidImageError: It is malformed, or describes something that is not an image
                that can be unpacked: an artifact, schema 1, encrypted layers.
        """
        manifest = cls(data, media_type)
        if "fsLayers" in manifest.json or manifest.json.get("schemaVersion") == 1:
            raise InvalidImageError(
                "the manifest is of Docker's schema 1, which no current runtime reads: "
                "push the image again with a current tool"
            )
        _check_document(manifest.json, media_type, "manifest", forbidden=("manifests",))
        _check_is_image(manifest)
        return manifest


@dataclass(frozen=True)
class Config(_Document):
    """An image's config: how to run it, and what its layers hold when unpacked."""

    @cached_property
    def json(self) -> dict[str, Any]:
        """The parsed object; not to be changed."""
        return parse_json(self.data, "config")

    @cached_property
    def platform(self) -> Platform:
        """What the image runs on."""
        platform = Platform.from_json(self.json)
        if not platform.os or not platform.architecture:
            raise InvalidImageError("the config names no operating system or no architecture")
        return platform

    @cached_property
    def diff_ids(self) -> tuple[Digest, ...]:
        """Digests of the uncompressed layers, base first."""
        rootfs = optional_object(self.json, "rootfs")
        if text_field(rootfs, "type") not in {"", "layers"}:
            raise InvalidImageError(f"the config's rootfs has the unknown type {rootfs['type']!r}")
        return tuple(map(_digest, text_list(rootfs, "diff_ids")))

    @property
    def execution(self) -> dict[str, Any]:
        """The part named ``config``: entrypoint, command, user and so on."""
        return optional_object(self.json, "config")

    @property
    def history(self) -> list[dict[str, Any]]:
        """How the layers came to be, base first; empty where the image does not say."""
        return _objects(self.json, "history", "config")

    @classmethod
    def parse(cls, data: bytes, media_type: str) -> Config:
        """Read and check a config.

        Raises:
            InvalidImageError: It is not a well-formed config.
        """
        config = cls(data, media_type)
        _ = config.platform, config.diff_ids, config.execution, config.history
        return config


def document_type(data: bytes) -> str:
    """The media type that a document states, or the one that its fields imply; "" for none."""
    try:
        value = parse_json(data, "manifest")
    except InvalidImageError:
        return ""
    stated = value.get("mediaType")
    if isinstance(stated, str) and stated:
        return media_type_of(stated)
    if "schemaVersion" not in value:  # a config has none, and that is what an image ID names
        return ""
    return MediaType.OCI_INDEX if "manifests" in value else MediaType.OCI_MANIFEST


def chain_ids(diff_ids: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """The names of the stacks of layers: entry n covers layers 0 to n.

    Specification: image-spec v1.1.0, ``config.md``, "Layer ChainID".
    """
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def optional_object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object that may be absent or null ({} then).

    Raises:
        InvalidImageError: It is something else.
    """
    found = value.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidImageError(f"{key!r} must be an object")
    return found


def _check_document(
    value: Mapping[str, Any], media_type: str, what: str, forbidden: tuple[str, ...]
) -> None:
    """Refuse what one reader could take for an index and another for a manifest."""
    stated = text_field(value, "mediaType")
    if stated and stated != media_type:
        raise InvalidImageError(
            f"the {what} calls itself {stated!r}, but was announced as {media_type!r}"
        )
    for key in forbidden:
        if value.get(key):
            raise InvalidImageError(f"the {what} has the field {key!r}, which it must not have")


def _check_is_image(manifest: Manifest) -> None:
    kind = manifest.config.media_type
    if kind not in MediaType.CONFIGS:
        raise InvalidImageError(
            f"the manifest is an artifact of type {kind!r}, not a container image"
        )
    if manifest.config.size > DOCUMENT_LIMIT:
        raise InvalidImageError(f"the config is larger than {DOCUMENT_LIMIT >> 20} MiB")
    for layer in manifest.layers:
        if layer.media_type.endswith("+encrypted"):
            raise InvalidImageError(f"layer {layer.digest} is encrypted: decrypt the image first")
        if not MediaType.is_layer(layer.media_type):
            raise InvalidImageError(
                f"layer {layer.digest} has the type {layer.media_type!r}, "
                "which is not a file-system layer"
            )


def _is_image(entry: Mapping[str, Any]) -> bool:
    platform = optional_object(entry, "platform")
    unknown = platform.get("os") == platform.get("architecture") == "unknown"
    return not unknown and _ATTESTATION not in optional_object(entry, "annotations")


def _descriptor(entry: Mapping[str, Any]) -> Descriptor:
    size = entry.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise InvalidImageError(f"a descriptor has the size {str(size)[:40]!r}, which is not one")
    digest = _digest(text_field(entry, "digest"))
    platform = optional_object(entry, "platform")
    annotations = optional_object(entry, "annotations")
    return Descriptor(
        media_type=media_type_of(text_field(entry, "mediaType")),
        digest=digest,
        size=size,
        platform=Platform.from_json(platform) if platform else None,
        urls=tuple(text_list(entry, "urls")),
        annotations={key: text_field(annotations, key) for key in annotations},
        data=_embedded(entry, digest, size),
    )


def media_type_of(text: str) -> str:
    """A media type without its parameters."""
    return text.partition(";")[0].strip()


def _embedded(entry: Mapping[str, Any], digest: Digest, size: int) -> bytes | None:
    text = text_field(entry, "data")
    if not text:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != size or not digest.matches(data):
        raise InvalidImageError(f"the data embedded for {digest} does not match that digest")
    return data


def _digest(text: str) -> Digest:
    try:
        if ":" in text:
            return Digest.parse(text)
    except InvalidReferenceError as error:
        raise InvalidImageError(str(error)) from None
    raise InvalidImageError(f"{text[:140]!r} is not a digest")


def _object(value: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    found = optional_object(value, key)
    if not found:
        raise InvalidImageError(f"the {what} has no {key!r}")
    return found


def _objects(value: Mapping[str, Any], key: str, what: str) -> list[dict[str, Any]]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InvalidImageError(f"the {what}'s {key!r} must be a list of objects")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    return str(error)
