import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.documents import (
    PAUSE,
    config_json,
    make_config,
    make_image,
    make_manifest,
    manifest_json,
)

from cdimage.descriptor import MediaType, Platform
from cdimage.digest import Digest
from cdimage.errors import CdimageError, InvalidImageError, UnsupportedPlatformError
from cdimage.image import Config, Index, Manifest
from cdimage.pause import PauseProgram
from cdimage.prepare import LAYER_LIMIT, RECORD, original, prepare, prepare_index, recipe

PAUSE_PATH = "/.hpcc/pause"


def run_config(**changes: Any) -> dict[str, Any]:
    """What a prepared image runs, when the base's config has these fields."""
    manifest, config = make_image(config={"Env": ["A=b"], **changes})
    return prepare(manifest, config, PAUSE).config.execution


def test_the_pause_program_is_started_and_nothing_is_passed_to_it() -> None:
    execution = run_config(Entrypoint=["/app"], Cmd=["serve"])
    assert execution == {"Env": ["A=b"], "Entrypoint": [PAUSE_PATH]}


@pytest.mark.parametrize("docker", [False, True])
def test_the_layer_is_on_top_and_of_the_family_of_the_base(docker: bool) -> None:
    manifest, config = make_image(2, docker=docker)
    prepared = prepare(manifest, config, PAUSE)
    assert prepared.layer is not None
    top = prepared.manifest.layers[-1]
    assert prepared.manifest.layers[:-1] == manifest.layers
    assert top.media_type == (MediaType.DOCKER_LAYER if docker else MediaType.OCI_LAYER)
    assert (top.digest, top.size) == (prepared.layer.digest, len(prepared.layer.data))
    assert prepared.config.diff_ids == (*config.diff_ids, prepared.layer.digest)
    assert prepared.config.history == [*config.history, {"created_by": "hpcc: inject pause binary"}]
    assert prepared.manifest.config == prepared.config.descriptor
    assert prepared.manifest.media_type == manifest.media_type


def test_what_is_made_can_be_parsed_strictly_again() -> None:
    prepared = prepare(*make_image(3), PAUSE)
    Manifest.parse(prepared.manifest.data, prepared.manifest.media_type)
    Config.parse(prepared.config.data, prepared.config.media_type)


def test_the_original_can_be_read_back() -> None:
    manifest, config = make_image(
        config={
            "Entrypoint": ["/app"],
            "Cmd": ["x"],
            "User": "1000",
            "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["CMD", "true"]},
            "ArgsEscaped": True,
        }
    )
    prepared = prepare(manifest, config, PAUSE)
    found = original(prepared.config)
    assert found is not None
    assert (found.entrypoint, found.cmd, found.user, found.stop_signal) == (
        ["/app"],
        ["x"],
        "1000",
        "SIGQUIT",
    )
    assert found.base == manifest.digest
    kept = prepared.config.json[RECORD]["original"]
    assert kept["Healthcheck"] == {"Test": ["CMD", "true"]}
    assert kept["ArgsEscaped"] is True
    assert original(config) is None


def test_signals_and_health_checks_of_a_program_that_does_not_run_are_gone() -> None:
    execution = run_config(
        StopSignal="SIGQUIT", Healthcheck={"Test": ["CMD", "true"]}, ArgsEscaped=True, User="me"
    )
    assert execution == {
        "Env": ["A=b"],
        "Healthcheck": {"Test": ["NONE"]},
        "User": "me",
        "Entrypoint": [PAUSE_PATH],
    }


def test_unknown_fields_and_the_order_of_keys_stay() -> None:
    extras = {"zeta": {"b": 1, "a": 2}, "moby.buildkit.cache.v0": "x", "big": 2**70, "none": None}
    config = make_config({**extras, **config_json(config={"Shell": ["sh"], "OnBuild": ["RUN x"]})})
    manifest = make_manifest({**manifest_json(config), "extra": {"y": 1, "x": 2}})
    prepared = prepare(manifest, config, PAUSE)
    assert {key: prepared.config.json[key] for key in extras} == extras
    assert list(prepared.config.json) == [*config.json, RECORD]
    assert prepared.config.execution["Shell"] == ["sh"]
    assert prepared.config.execution["OnBuild"] == ["RUN x"]
    assert prepared.manifest.json["extra"] == {"y": 1, "x": 2}


def test_a_derived_image_is_nobodys_referrer() -> None:
    _, config = make_image()
    base = manifest_json(config, subject=manifest_json(config)["config"])
    base["artifactType"] = config.media_type
    prepared = prepare(make_manifest(base), config, PAUSE)
    assert not {"subject", "artifactType"} & set(prepared.manifest.json)


def test_embedded_data_is_refreshed() -> None:
    _, config = make_image()
    base = manifest_json(config)
    base["config"].update(data=base64.b64encode(config.data).decode(), annotations={"a": "b"})
    prepared = prepare(make_manifest(base), config, PAUSE)
    assert Manifest.parse(prepared.manifest.data, MediaType.OCI_MANIFEST).config.data == (
        prepared.config.data
    )
    assert prepared.manifest.json["config"]["annotations"] == {"a": "b"}


def test_the_base_is_recorded_unless_the_user_recorded_one() -> None:
    key = "org.opencontainers.image.base.digest"
    manifest, config = make_image()
    assert prepare(manifest, config, PAUSE).manifest.json["annotations"] == {
        key: str(manifest.digest)
    }
    own = make_manifest(manifest_json(config, annotations={key: "sha256:mine", "a": "b"}))
    assert prepare(own, config, PAUSE).manifest.json["annotations"] == {
        key: "sha256:mine",
        "a": "b",
    }
    docker = make_image(docker=True)
    prepared = prepare(*docker, PAUSE)
    assert "annotations" not in prepared.manifest.json
    assert prepared.config.json[RECORD]["base"] == str(docker[0].digest)


def test_an_image_without_layers_gets_its_first() -> None:
    config = make_config(config_json(0, rootfs=None, history=None, config=None))
    manifest = make_manifest(manifest_json(config, 0, layers=None))
    prepared = prepare(manifest, config, PAUSE)
    assert len(prepared.manifest.layers) == len(prepared.config.diff_ids) == 1
    assert prepared.config.json["rootfs"]["type"] == "layers"


def test_a_missing_history_still_has_an_entry_a_layer() -> None:
    manifest, config = make_image(2, history=None)
    assert prepare(manifest, config, PAUSE).config.history == [
        {},
        {},
        {"created_by": "hpcc: inject pause binary"},
    ]


def test_a_manifest_without_a_media_type_gets_one() -> None:
    _, config = make_image()
    base = manifest_json(config)
    del base["mediaType"]
    prepared = prepare(make_manifest(base), config, PAUSE)
    assert list(prepared.manifest.json)[:2] == ["schemaVersion", "mediaType"]


def test_preparing_twice_changes_nothing() -> None:
    once = prepare(*make_image(2), PAUSE)
    twice = prepare(once.manifest, once.config, PauseProgram(PAUSE.platform, b"another"))
    assert twice.layer is None
    assert (twice.manifest, twice.config) == (once.manifest, once.config)


def test_layers_and_diff_ids_must_agree() -> None:
    config = make_config(config_json(3))
    with pytest.raises(InvalidImageError, match="2 layers, but the config has 3 diff IDs"):
        prepare(make_manifest(manifest_json(config, 2)), config, PAUSE)


def test_an_image_that_nothing_could_start_is_not_made() -> None:
    prepare(*make_image(LAYER_LIMIT - 1), PAUSE)
    with pytest.raises(InvalidImageError, match="127"):
        prepare(*make_image(LAYER_LIMIT), PAUSE)


@pytest.mark.parametrize("volume", ["/", "/.hpcc", "/.hpcc/", "/.hpcc/pause"])
def test_a_volume_must_not_hide_the_pause_program(volume: str) -> None:
    with pytest.raises(InvalidImageError, match="would hide"):
        run_config(Volumes={volume: {}})
    assert run_config(Volumes={"/data": {}, "/.hpc": {}})["Volumes"] == {"/data": {}, "/.hpc": {}}


def test_a_pause_program_for_another_platform_is_refused() -> None:
    with pytest.raises(UnsupportedPlatformError, match=r"linux/amd64.*linux/arm64"):
        prepare(*make_image(), PauseProgram(Platform("linux", "arm64"), b"x"))


def test_a_windows_image_starts_the_program_where_windows_finds_it() -> None:
    changes: dict[str, Any] = {"os": "windows", "os.version": "10.0.20348.1"}
    manifest, config = make_image(**changes)
    prepared = prepare(manifest, config, PauseProgram(Platform("windows", "amd64"), b"x"))
    assert prepared.config.execution["Entrypoint"] == ["C:\\.hpcc\\pause.exe"]
    assert prepared.config.json["os.version"] == "10.0.20348.1"


@given(st.integers(0, 20), st.booleans(), st.dictionaries(st.text(), st.text()))
def test_the_same_input_gives_the_same_bytes(
    layers: int, docker: bool, extras: dict[str, str]
) -> None:
    unknown = {f"x {key}": value for key, value in extras.items()}
    manifest, config = make_image(layers, docker=docker, config=unknown)
    first, second = prepare(manifest, config, PAUSE), prepare(manifest, config, PAUSE)
    assert (first.manifest.data, first.config.data) == (second.manifest.data, second.config.data)


def test_another_pause_program_is_another_recipe() -> None:
    assert recipe(PAUSE) != recipe(PauseProgram(PAUSE.platform, b"another"))
    assert json.loads(recipe(PAUSE))[1] == str(Digest.of(PAUSE.data))


@pytest.mark.parametrize(
    "record",
    ["x", {"base": "x"}, {"base": 1}, {"base": None}, {"original": {}},
     {"base": "a" * 64, "original": []}, {"base": "a" * 64, "original": {"Cmd": "x"}},
     {"base": "a" * 64, "original": {"User": 1}}],
)  # fmt: skip
def test_a_record_that_somebody_made_up_is_refused(record: Any) -> None:
    config = make_config(config_json(**{RECORD: record}))
    with pytest.raises(InvalidImageError):
        original(config)


@given(
    st.sampled_from(["config", "rootfs", "history", "os", "variant", RECORD]),
    st.sampled_from(["layers", "annotations", "subject", "artifactType", "config", "x"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["Entrypoint", "Volumes", "Healthcheck", "diff_ids", "a"]), inner
        ),
    ),
)  # fmt: skip
def test_whatever_an_image_holds_it_is_prepared_or_refused(
    key: str, other: str, value: Any
) -> None:
    with suppress(CdimageError):
        config = make_config({**config_json(), key: value})
        manifest = make_manifest({**manifest_json(config), other: value})
        prepared = prepare(manifest, config, PAUSE)
        Manifest.parse(prepared.manifest.data, prepared.manifest.media_type)
        Config.parse(prepared.config.data, prepared.config.media_type)
        original(prepared.config)


@pytest.mark.parametrize("docker", [False, True])
def test_an_index_stays_itself_around_what_is_prepared(docker: bool) -> None:
    kind = MediaType.DOCKER_INDEX if docker else MediaType.OCI_INDEX
    images = [make_image(number, docker=docker) for number in (1, 2)]
    entries = [
        {
            "mediaType": manifest.media_type,
            "digest": str(manifest.digest),
            "size": len(manifest.data),
            "data": base64.b64encode(manifest.data).decode(),
            "platform": {"os": "linux", "architecture": "amd64", "variant": f"v{number}"},
            "annotations": {"a": str(number)},
            "x-unknown": number,
        }
        for number, (manifest, _) in enumerate(images)
    ]
    value = {
        "schemaVersion": 2, "mediaType": kind, "manifests": entries, "x-more": [None],
        "annotations": {"b": "c"}, "subject": entries[0],
    }  # fmt: skip
    index = Index.parse(json.dumps(value).encode(), kind)
    prepared = [prepare(manifest, config, PAUSE) for manifest, config in images]
    made = prepare_index(index, list(zip(index.entries, prepared, strict=True)))
    found = Index.parse(made.data, kind).json
    wanted = [
        {
            **{key: item for key, item in entry.items() if key != "data"},
            "digest": str(one.manifest.digest),
            "size": len(one.manifest.data),
        }
        for entry, one in zip(entries, prepared, strict=True)
    ]
    base = {} if docker else {"org.opencontainers.image.base.digest": str(index.digest)}
    assert found == {
        "schemaVersion": 2, "mediaType": kind, "manifests": wanted, "x-more": [None],
        "annotations": {"b": "c", **base},
    }  # fmt: skip
    assert [*found] == ["schemaVersion", "mediaType", "manifests", "x-more", "annotations"]
