import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.documents import (
    config_json,
    descriptor_json,
    make_config,
    make_image,
    make_manifest,
    manifest_json,
)

from cdimage.descriptor import MediaType
from cdimage.digest import Digest
from cdimage.errors import InvalidImageError
from cdimage.image import (
    DOCUMENT_LIMIT,
    Config,
    Index,
    Manifest,
    chain_ids,
    dump_json,
    parse_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=15,
)


def changed(key: str, value: Any) -> bytes:
    manifest, _ = make_image()
    return json.dumps({**manifest.json, key: value}).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a":1,"a":2}', "a key is there twice"),
        (b'{"a":NaN}', "NaN is not a number"),
        (b'{"a":1e999}', "not valid JSON"),
        (b'{"a":"\\ud800"}', "not UTF-8"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),
        (b" " * (DOCUMENT_LIMIT + 1), "larger than 8 MiB"),
    ],
)
def test_what_is_not_a_strict_json_object_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidImageError, match=why):
        parse_json(data, "config")


@given(st.dictionaries(st.text(), JSON))
def test_what_is_parsed_and_written_again_is_the_same_with_keys_in_order(
    value: dict[str, Any],
) -> None:
    again = parse_json(dump_json(value), "config")
    assert again == value
    assert list(again) == list(value)


@given(st.binary() | st.dictionaries(st.text(), JSON).map(lambda v: json.dumps(v).encode()))
def test_no_bytes_raise_anything_but_ours(data: bytes) -> None:
    for parse in (Index.parse, Manifest.parse, Config.parse):
        with suppress(InvalidImageError):
            parse(data, MediaType.OCI_MANIFEST)


_FIELDS = st.sampled_from(
    [
        "config",
        "layers",
        "manifests",
        "mediaType",
        "digest",
        "size",
        "platform",
        "annotations",
        "urls",
        "data",
        "schemaVersion",
        "rootfs",
        "history",
        "os",
        "architecture",
        "diff_ids",
    ]
)


@given(st.lists(st.tuples(_FIELDS, JSON), max_size=4), _FIELDS, JSON)
def test_no_mutation_of_an_image_raises_anything_but_ours(
    changes: list[tuple[str, Any]], inner: str, value: Any
) -> None:
    manifest, config = make_image(2)
    for document, parse in ((manifest, Manifest.parse), (config, Config.parse)):
        mutated = json.loads(document.data)
        mutated.update(changes)
        layers = mutated.get("layers")
        for part in (mutated.get("config"), *(layers if isinstance(layers, list) else [])):
            if isinstance(part, dict):
                part[inner] = value
        try:
            parsed = parse(json.dumps(mutated).encode(), document.media_type)
        except InvalidImageError:
            continue
        assert parsed.digest.matches(parsed.data)


def test_null_is_as_good_as_absent_for_every_optional_field() -> None:
    config = make_config(
        config_json(0, config=None, history=None, rootfs={"type": "layers", "diff_ids": None})
    )
    assert config.execution == {}
    assert config.history == []
    assert config.diff_ids == ()
    manifest = make_manifest(manifest_json(config, 0, layers=None, annotations=None))
    assert manifest.layers == ()
    assert make_config(config_json(0, rootfs=None)).diff_ids == ()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("mediaType", MediaType.OCI_INDEX, "calls itself"),
        ("manifests", [{}], "must not have"),
        ("fsLayers", [], "schema 1"),
        ("schemaVersion", 1, "schema 1"),
        ("config", None, "has no 'config'"),
        ("config", [], "must be an object"),
        ("layers", {}, "list of objects"),
        ("layers", [{}], "has the size"),
        ("layers", [{"size": -1}], "has the size"),
        ("layers", [{"size": True}], "has the size"),
        ("layers", [{"size": 1.5}], "has the size"),
        ("layers", [{"size": 1, "digest": "abc"}], "is not a digest"),
        ("layers", [{"size": 1, "digest": "a" * 64}], "is not a digest"),
        ("annotations", 1, None),
    ],
)
def test_a_broken_manifest_is_refused(key: str, value: Any, why: str | None) -> None:
    if why is None:
        Manifest.parse(changed(key, value), MediaType.OCI_MANIFEST)
        return
    with pytest.raises(InvalidImageError, match=why):
        Manifest.parse(changed(key, value), MediaType.OCI_MANIFEST)


@pytest.mark.parametrize(
    ("config_type", "layer_type", "why"),
    [
        ("application/vnd.cncf.helm.config.v1+json", None, "artifact"),
        ("application/vnd.oci.empty.v1+json", None, "artifact"),
        (None, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "is encrypted"),
        (None, "application/vnd.in-toto+json", "not a file-system layer"),
    ],
)
def test_what_is_not_an_image_is_refused(
    config_type: str | None, layer_type: str | None, why: str
) -> None:
    _, config = make_image()
    value = manifest_json(config)
    value["config"]["mediaType"] = config_type or value["config"]["mediaType"]
    value["layers"][0]["mediaType"] = layer_type or value["layers"][0]["mediaType"]
    with pytest.raises(InvalidImageError, match=why):
        make_manifest(value)


def test_embedded_data_must_be_what_its_digest_says() -> None:
    _, config = make_image()
    value = manifest_json(config)
    value["config"]["data"] = base64.b64encode(config.data).decode()
    assert make_manifest(value).config.data == config.data
    for wrong in (base64.b64encode(config.data + b" ").decode(), "?", "ü"):
        value["config"]["data"] = wrong
        with pytest.raises(InvalidImageError, match="embedded"):
            make_manifest(value)


def test_an_index_leaves_out_attestations_and_unknown_platforms() -> None:
    manifest, _ = make_image()
    entry = descriptor_json(manifest.descriptor)
    value = {
        "schemaVersion": 2,
        "manifests": [
            {**entry, "platform": {"os": "unknown", "architecture": "unknown"}},
            {**entry, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
            {**entry, "platform": {"os": "linux", "architecture": "aarch64"}},
            entry,
        ],
    }
    index = Index.parse(json.dumps(value).encode(), MediaType.OCI_INDEX)
    assert [str(found.platform) for found in index.manifests] == ["linux/arm64", "None"]


def test_an_index_that_could_be_read_as_a_manifest_is_refused() -> None:
    manifest, _ = make_image()
    value = {"schemaVersion": 2, "manifests": [], "config": manifest.json["config"]}
    with pytest.raises(InvalidImageError, match="must not have"):
        Index.parse(json.dumps(value).encode(), MediaType.OCI_INDEX)


def test_a_config_must_say_what_it_runs_on() -> None:
    for key in ("os", "architecture"):
        with pytest.raises(InvalidImageError, match="no operating system or no architecture"):
            make_config(config_json(1, **{key: ""}))


def test_chain_ids_are_those_of_the_specification() -> None:
    # image-spec v1.1.0, config.md: ChainID(A|B) = Digest(ChainID(A) + " " + DiffID(B)).
    a, b = Digest.of(b"a"), Digest.of(b"b")
    assert chain_ids((a, b)) == (a, Digest.of(f"{a} {b}".encode()))
    assert chain_ids(()) == ()
