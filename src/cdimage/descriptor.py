"""Digests, platforms, media types and descriptors: the nouns of the image specification.

Specification: image-spec v1.1.0, ``descriptor.md`` and ``media-types.md``.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from cdimage.digest import Digest
from cdimage.errors import InvalidImageError, InvalidReferenceError

# Normal forms of github.com/containerd/platforms v1.0.0, database.go.
_OS: Final = {"macos": "darwin"}
_ARCHITECTURE: Final = {
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_VARIANT: Final = {
    ("386", "*"): "",
    ("amd64", "v1"): "",
    ("arm64", "8"): "",
    ("arm64", "v8"): "",
    ("arm64", "v8.0"): "",
    ("arm", ""): "v7",
    ("arm", "5"): "v5",
    ("arm", "6"): "v6",
    ("arm", "7"): "v7",
    ("arm", "8"): "v8",
}
_PLATFORM_PART: Final = re.compile(r"[A-Za-z0-9_.-]+")
_SYSTEM: Final = re.compile(
    r"(?P<os>[A-Za-z0-9_.-]+)(\((?P<version>[A-Za-z0-9_.-]*)(?P<features>(\+[A-Za-z0-9_.-]+)*)\))?"
)


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor, in normal form (``aarch64`` is ``arm64``).

    Matching is strict: no 32-bit fallbacks, because a pause program exists per architecture.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = field(default="")
    os_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        system, machine, variant = (
            part.lower() for part in (self.os, self.architecture, self.variant)
        )
        machine, implied = _ARCHITECTURE.get(machine, (machine, ""))
        variant = variant or implied
        variant = _VARIANT.get((machine, "*"), _VARIANT.get((machine, variant), variant))
        object.__setattr__(self, "os", _OS.get(system, system))
        object.__setattr__(self, "architecture", machine)
        object.__setattr__(self, "variant", variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``os[(version[+feature]…)]/architecture[/variant]``, as ``linux/arm64/v8``.

        Raises:
            InvalidReferenceError: It is not of that form.
        """
        first, *parts = text.split("/")
        system = _SYSTEM.fullmatch(first)
        if not system or len(parts) not in {1, 2} or not all(map(_PLATFORM_PART.fullmatch, parts)):
            raise InvalidReferenceError(
                f"{text!r} is not a platform: write os/architecture, as linux/amd64 "
                "or windows(10.0.20348)/amd64"
            )
        version, features = system["version"] or "", system["features"] or ""
        return cls(
            system["os"], parts[0], "".join(parts[1:]), version, tuple(features.split("+")[1:])
        )

    @classmethod
    def of_this_machine(cls) -> Platform:
        """Linux, on a machine like this one: what containers mostly are."""
        return cls("linux", platform.machine())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        """Read the platform of an index entry, or of a config, which has the same keys."""
        return cls(
            os=text_field(value, "os"),
            architecture=text_field(value, "architecture"),
            variant=text_field(value, "variant"),
            os_version=text_field(value, "os.version"),
            os_features=tuple(text_list(value, "os.features")),
        )

    def satisfies(self, wanted: Platform) -> bool:
        """Whether an image of this platform is what somebody who asks for ``wanted`` means.

        The system, the architecture and the variant must be equal; version and features only
        where the wish names them. ``10.0.20348`` means every ``10.0.20348.…``.
        """
        version = wanted.os_version
        return (
            (self.os, self.architecture) == (wanted.os, wanted.architecture)
            and self.variant == wanted.variant
            and (not version or f"{self.os_version}.".startswith(f"{version}."))
            and set(wanted.os_features) <= set(self.os_features)
        )

    def __str__(self) -> str:
        """As `parse` reads it; a version that it could not read is left out."""
        details = "+".join([self.os_version, *self.os_features])
        system = f"{self.os}({details})"
        if not details or not _SYSTEM.fullmatch(system):
            system = self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)


class MediaType:
    """Media types of the two families, and what can be asked of one.

    Sources: image-spec v1.1.0 ``media-types.md``; distribution v2.8 ``manifest-v2-2.md``.
    """

    OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
    OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
    OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
    OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
    DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"

    INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
    MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
    CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})

    _LAYER: Final = re.compile(
        r"application/vnd\.(oci\.image\.layer\.(v1|nondistributable\.v1)\.tar(\+(gzip|zstd))?"
        r"|docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.(gzip|zstd))?)"
    )

    @classmethod
    def is_layer(cls, media_type: str) -> bool:
        """Whether it names a file-system layer that containerd can unpack."""
        return cls._LAYER.fullmatch(media_type) is not None

    @staticmethod
    def is_foreign(media_type: str) -> bool:
        """Whether it names a layer that its registry does not hold (fetched from ``urls``)."""
        return ".nondistributable." in media_type or ".foreign." in media_type


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What is needed to fetch a blob and to know that it is the right one.

    Attributes:
        media_type: As the referrer states it; parameters removed.
        digest: Of the bytes as stored.
        size: In bytes.
        platform: Of a manifest inside an index, where stated.
        urls: Where a foreign layer can be had.
        annotations: Read-only.
        data: The bytes themselves, where the referrer embeds them (already checked).
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), hash=False, compare=False
    )
    data: bytes | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, media_type: str, data: bytes) -> Descriptor:
        """The descriptor of these bytes."""
        return cls(media_type, Digest.of(data), len(data))


def text_field(value: Mapping[str, Any], key: str) -> str:
    """A string that may be absent or null ("" then).

    Raises:
        InvalidImageError: It is something else.
    """
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidImageError(f"{key!r} must be a string, and is {_kind(found)}")
    return found


def text_list(value: Mapping[str, Any], key: str) -> list[str]:
    """A list of strings that may be absent or null ([] then).

    Raises:
        InvalidImageError: It is something else.
    """
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidImageError(f"{key!r} must be a list of strings, and is {_kind(found)}")
    return found


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
