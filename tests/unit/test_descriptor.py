from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdimage.descriptor import MediaType, Platform
from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError

HEX = "a" * 64


@pytest.mark.parametrize("text", [HEX, f"sha256:{HEX}", f"sha512:{'0' * 128}"])
def test_a_digest_is_read_and_written_again(text: str) -> None:
    assert str(Digest.parse(text)).endswith(text)


def test_a_digest_without_an_algorithm_is_sha256() -> None:
    assert Digest.parse(HEX) == Digest("sha256", HEX)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:abc",
        f"sha256:{HEX.upper()}",
        f"md5:{HEX[:32]}",
        f"sha512:{HEX}",
        f"sha256:{HEX}\n",
        f":{HEX}",
        f"sha256:sha256:{HEX}",
        f" {HEX}",
        "latest",
    ],
)
def test_what_is_not_a_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError, match="is not a digest"):
        Digest.parse(text)


@given(st.text())
def test_reading_a_digest_raises_nothing_but_ours(text: str) -> None:
    with suppress(InvalidReferenceError):
        assert str(Digest.parse(text)).endswith(text)


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_bytes_match_their_own_digest_and_no_other(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.matches(data)
    assert not digest.matches(data + b"\0")


# Rows of the platforms project's own normal forms (containerd/platforms v1.0.0, database.go).
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/X86-64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("linux/i386", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platforms_have_a_normal_form(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "*"])
def test_what_is_not_a_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError, match="is not a platform"):
        Platform.parse(text)


def test_a_32_bit_image_does_not_satisfy_a_64_bit_wish() -> None:
    assert not Platform("linux", "386").satisfies(Platform("linux", "amd64"))
    assert not Platform("linux", "arm", "v7").satisfies(Platform("linux", "arm64"))


def test_version_and_features_count_only_where_they_are_asked_for() -> None:
    image = Platform("windows", "amd64", os_version="10.0.20348.1", os_features=("win32k",))
    assert image.satisfies(Platform("windows", "amd64"))
    assert image.satisfies(Platform("windows", "amd64", os_features=("win32k",)))
    assert not image.satisfies(Platform("windows", "amd64", os_version="10.0.17763.1"))


@pytest.mark.parametrize(
    ("media_type", "is_layer"),
    [
        ("application/vnd.oci.image.layer.v1.tar", True),
        ("application/vnd.oci.image.layer.v1.tar+zstd", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", False),
        ("application/vnd.in-toto+json", False),
        ("application/vnd.oci.image.config.v1+json", False),
    ],
)
def test_layers_are_told_from_other_blobs(media_type: str, is_layer: bool) -> None:
    assert MediaType.is_layer(media_type) is is_layer


@given(
    st.builds(
        Platform,
        st.sampled_from(["linux", "windows"]),
        st.sampled_from(["amd64", "arm64", "arm"]),
        st.sampled_from(["", "v7"]),
        st.from_regex(r"[A-Za-z0-9_.-]*", fullmatch=True),
        st.lists(st.from_regex(r"[a-z0-9]+", fullmatch=True), max_size=2).map(tuple),
    )
)
def test_a_platform_is_read_as_it_is_written(platform: Platform) -> None:
    assert Platform.parse(str(platform)) == platform


@given(st.text(), st.lists(st.text()))
def test_a_version_that_cannot_be_written_is_left_out(version: str, features: list[str]) -> None:
    platform = Platform("windows", "amd64", "", version, tuple(features))
    assert Platform.parse(str(platform)).os == "windows"
