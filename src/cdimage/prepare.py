"""Preparing an image, as a pure function: no I/O, no clock, no randomness.

The same base and the same pause program give the same bytes on every machine.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cdimage.descriptor import MediaType, text_field, text_list
from cdimage.digest import Digest
from cdimage.errors import (
    InvalidImageError,
    InvalidReferenceError,
    UnsupportedPlatformError,
)
from cdimage.image import Config, Index, Manifest, dump_json, optional_object
from cdimage.layer import PauseLayer, pause_layer, pause_path
from cdimage.pause import PauseProgram

HISTORY: Final = "hpcc: inject pause binary"
RECORD: Final = "hpcc.dev/prepared"
"""The key of a prepared config under which `Original` and the base's digest are kept."""
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"
ALIAS: Final = "alias"
"""The recipe of an image that is the user's own, without a pause layer."""
LAYER_LIMIT: Final = 127
"""Docker's and Linux's drivers start no container with more layers than this in all."""

_REPLACED: Final = ("Entrypoint", "Cmd", "User", "StopSignal", "Healthcheck", "ArgsEscaped")
_BASE_NAME: Final = "org.opencontainers.image.base.name"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared image: what has to be stored on top of the base.

    Attributes:
        manifest: Names the base's layers and, as its last, the pause layer.
        config: Starts the pause program.
        layer: None when the base was prepared already and is returned as it is.
    """

    manifest: Manifest
    config: Config
    layer: PauseLayer | None


@dataclass(frozen=True, slots=True)
class Original:
    """What the user's image would have run; None where it did not say."""

    base: Digest
    entrypoint: list[str] | None
    cmd: list[str] | None
    user: str | None
    stop_signal: str | None


def prepare(manifest: Manifest, config: Config, pause: PauseProgram) -> Prepared:
    """Put the pause program on top of an image and make it the entrypoint.

    The layer's media type is of the base's family. Fields that cdimage does not know stay, in
    their order. The entrypoint, command, user, stop signal and health check that it replaces
    can be read back with `original`. An image that is prepared already is returned as it is.

    Raises:
        InvalidImageError: Layers and diff IDs do not agree, there would be more than
            `LAYER_LIMIT` layers, or a volume would hide the pause program.
        UnsupportedPlatformError: The pause program is for another platform than the image.
    """
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidImageError(
            f"the manifest lists {len(manifest.layers)} layers, "
            f"but the config has {len(config.diff_ids)} diff IDs"
        )
    if is_prepared(config):
        return Prepared(manifest, config, None)
    _check(manifest, config, pause)
    layer = pause_layer(pause.data, config.platform.os)
    new_config = _edit_config(manifest, config, pause, layer)
    return Prepared(_edit_manifest(manifest, new_config, layer), new_config, layer)


def prepare_index(index: Index, entries: Sequence[tuple[Mapping[str, Any], Prepared]]) -> Index:
    """Put prepared images in the place of an index's own.

    The index's fields and annotations stay, and those of its entries, in their order.

    Args:
        index: The user's; nested ones are flattened into it.
        entries: Of the user's index, each with what was made of the image that it names.
    """
    value = {
        "schemaVersion": index.json.get("schemaVersion", 2),
        "mediaType": index.media_type,
        **index.json,
        "manifests": [_edit_entry(entry, prepared.manifest) for entry, prepared in entries],
    }
    value.pop("subject", None)
    if not index.is_docker:
        _note_base(value, index)
    return Index(dump_json(value), index.media_type)


def _edit_entry(entry: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    value = {
        **entry,
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.data),
    }
    value.pop("data", None)
    return value


def is_prepared(config: Config) -> bool:
    """Whether the image has a pause layer on top already."""
    top = config.history[-1] if config.history else {}
    entrypoint = config.execution.get("Entrypoint")
    return top.get("created_by") == HISTORY and entrypoint == [pause_path(config.platform.os)]


def original(config: Config) -> Original | None:
    """Read back what `prepare` replaced; None where the image was not prepared by cdimage.

    Raises:
        InvalidImageError: The record in the config is malformed.
    """
    record = optional_object(config.json, RECORD)
    if not record:
        return None
    kept = optional_object(record, "original")
    try:
        base = Digest.parse(text_field(record, "base"))
    except InvalidReferenceError as error:
        raise InvalidImageError(f"the config's {RECORD!r} is malformed: {error}") from None
    return Original(
        base=base,
        entrypoint=text_list(kept, "Entrypoint") if "Entrypoint" in kept else None,
        cmd=text_list(kept, "Cmd") if "Cmd" in kept else None,
        user=text_field(kept, "User") if "User" in kept else None,
        stop_signal=text_field(kept, "StopSignal") if "StopSignal" in kept else None,
    )


def _check(manifest: Manifest, config: Config, pause: PauseProgram) -> None:
    platform = config.platform
    if (platform.os, platform.architecture) != (pause.platform.os, pause.platform.architecture):
        raise UnsupportedPlatformError(
            f"the image is for {platform}, the pause program for {pause.platform}"
        )
    if len(manifest.layers) >= LAYER_LIMIT:
        raise InvalidImageError(
            f"the image has {len(manifest.layers)} layers, and with the pause layer it would have "
            f"more than the {LAYER_LIMIT} that a container can be started from: squash it first"
        )
    path = pause_path(platform.os)
    for volume in optional_object(config.execution, "Volumes"):
        prefix = volume.rstrip("/\\") + ("\\" if platform.os == "windows" else "/")
        if f"{path}/".startswith(prefix):
            raise InvalidImageError(f"the image's volume {volume!r} would hide {path}")


def _edit_config(
    manifest: Manifest, config: Config, pause: PauseProgram, layer: PauseLayer
) -> Config:
    execution = config.execution
    kept = {key: execution[key] for key in _REPLACED if execution.get(key) is not None}
    value = {
        **config.json,
        "config": _edit_execution(execution, pause_path(config.platform.os)),
        "rootfs": {
            "type": "layers",
            **optional_object(config.json, "rootfs"),
            "diff_ids": [*map(str, config.diff_ids), str(layer.digest)],
        },
        "history": [*_full_history(config), {"created_by": HISTORY}],
        RECORD: {
            "base": str(manifest.digest),
            "pause": str(pause.digest),
            "original": kept,
        },
    }
    return Config(dump_json(value), config.media_type)


def _edit_execution(execution: dict[str, Any], path: str) -> dict[str, Any]:
    """The pause program runs, as the image's user, and SIGTERM stops it.

    The image's own stop signal may be one that the pause program ignores; its health check
    would ask a program that does not run; ``ArgsEscaped`` describes the old entrypoint.
    """
    value = {
        key: item
        for key, item in execution.items()
        if key not in {"Cmd", "StopSignal", "ArgsEscaped"}
    }
    if execution.get("Healthcheck") is not None:
        value["Healthcheck"] = {"Test": ["NONE"]}
    value["Entrypoint"] = [path]
    return value


def _full_history(config: Config) -> list[dict[str, Any]]:
    """The base's history; where it has none, one empty entry a layer keeps the count right."""
    return config.history or [{} for _ in config.diff_ids]


def _edit_manifest(manifest: Manifest, config: Config, layer: PauseLayer) -> Manifest:
    source = manifest.json
    top = {
        "mediaType": MediaType.DOCKER_LAYER if manifest.is_docker else MediaType.OCI_LAYER,
        "digest": str(layer.digest),
        "size": len(layer.data),
    }
    value = {
        "schemaVersion": source.get("schemaVersion", 2),
        "mediaType": manifest.media_type,
        **source,
        "config": _edit_config_descriptor(source["config"], config),
        "layers": [*(source.get("layers") or []), top],
    }
    # A derived image refers to nothing; keeping the subject would list it as a referrer.
    value.pop("subject", None)
    if value.get("artifactType") == config.media_type:
        del value["artifactType"]
    if not manifest.is_docker:
        _note_base(value, manifest)
    return Manifest(dump_json(value), manifest.media_type)


def _note_base(value: dict[str, Any], base: Index | Manifest) -> None:
    """Annotate a document with what it was made of, where the user says nothing of the kind."""
    annotations = optional_object(value, "annotations")
    if not annotations.keys() & {BASE_DIGEST, _BASE_NAME}:
        value["annotations"] = {**annotations, BASE_DIGEST: str(base.digest)}


def _edit_config_descriptor(source: dict[str, Any], config: Config) -> dict[str, Any]:
    value = {**source, "digest": str(config.digest), "size": len(config.data)}
    if value.get("data"):
        value["data"] = base64.b64encode(config.data).decode()
    return value


def recipe(*pauses: PauseProgram) -> str:
    """What decides, beside the base, the bytes of a prepared image.

    A record with another recipe is out of date. The number counts versions of this module's
    output: whoever changes a byte of it adds one.

    Args:
        pauses: Of each platform, in the order of the image's.
    """
    digests = dict.fromkeys(str(pause.digest) for pause in pauses)
    return json.dumps([2, *digests], separators=(",", ":"))
