import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError
from cdimage.prepared_name import prepared_image_name
from cdimage.reference import TRANSPORTS, Reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian"),
        ("debian:12", "docker.io/library/debian:12"),
        ("library/debian", "docker.io/library/debian"),
        ("org/app:v1", "docker.io/org/app:v1"),
        ("index.docker.io/debian", "docker.io/library/debian"),
        ("docker.io/debian", "docker.io/library/debian"),
        ("ghcr.io/org/app", "ghcr.io/org/app"),
        ("localhost/app", "localhost/app"),
        ("localhost:5000/app", "localhost:5000/app"),
        ("localhost:5000/a/b/c:tag", "localhost:5000/a/b/c:tag"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app"),
        ("[::1]:5000/app:x", "[::1]:5000/app:x"),
        ("Upper/app", "Upper/app"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}"),
        (f"r.example:80/a__b/c-d.e:T_g-1.x@{DIGEST}", f"r.example:80/a__b/c-d.e:T_g-1.x@{DIGEST}"),
        ("a--b/c", "docker.io/a--b/c"),
    ],
)
def test_short_forms_are_completed(text: str, full: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert Reference.parse(full) == reference


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the repository is empty"),
        ("Debian", "lower case"),
        ("debian:", "the tag after ':' is empty"),
        ("debian:12:13", "is not"),
        ("debian:-x", "is not a tag"),
        (f"debian:{'x' * 129}", "is not a tag"),
        ("a//b", "is not a repository"),
        ("-a/b", "is not a repository"),
        ("host.example/", "the repository is empty"),
        ("http://host.example/app", "is not"),
        ("https://host.example/app", "is not"),
        ("debian@sha256:abc", "is not a digest"),
        ("debian@", "is not a digest"),
        (f"debian@{DIGEST.upper()}", "is not a digest"),
        ("debian 12", "is not a repository"),
        ("a/" * 130 + "b", "longer than 255"),
        ("host.example:123456/app", "is not a registry's host"),
        ("host.example:65536/app", "is not a registry's host"),
        ("[:::]/app", "is not a registry's host"),
        ("a.-b/c", "is not"),
    ],
)
def test_what_is_not_a_reference_is_refused_with_the_part_that_is_wrong(
    text: str, why: str
) -> None:
    with pytest.raises(InvalidReferenceError, match=why):
        Reference.parse(text)


@given(st.text(max_size=300))
def test_reading_a_reference_raises_nothing_but_ours_and_is_stable(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReferenceError:
        return
    assert Reference.parse(str(reference)) == reference


def test_the_prepared_name_follows_from_the_digest_alone() -> None:
    name = f"prepared.hpcc.local/img:{HEX}"
    assert prepared_image_name(DIGEST) == name
    assert prepared_image_name(HEX) == name
    assert Reference.parse(name).tag == HEX


def test_a_sha512_digest_gives_a_tag_of_the_greatest_length() -> None:
    digest = str(Digest.of(b"", "sha512"))
    assert len(Reference.parse(prepared_image_name(digest)).tag or "") == 128


def test_no_prepared_name_is_made_of_something_else_than_a_digest() -> None:
    with pytest.raises(InvalidReferenceError):
        prepared_image_name("")


@pytest.mark.parametrize(
    ("text", "transport", "path", "tag"),
    [
        ("oci:/a/b", "oci", "/a/b", None),
        ("oci:dir:x", "oci", "dir", "x"),
        ("oci-archive:a.tar:v1.0", "oci-archive", "a.tar", "v1.0"),
        ("docker-archive:a.tar:debian:12", "docker-archive", "a.tar", "debian:12"),
        (
            "containerd:docker.io/library/debian:12",
            "containerd",
            "docker.io/library/debian:12",
            None,
        ),
        ("oci:C:\\images\\a:x", "oci", "C:\\images\\a", "x"),
    ],
)
def test_images_in_no_registry_are_named_by_their_transport(
    text: str, transport: str, path: str, tag: str | None
) -> None:
    for digest in ("", f"@sha256:{'a' * 64}"):
        found = Reference.parse(text + digest)
        assert (found.transport, found.repository, found.tag) == (transport, path, tag)
        assert str(found) == text + digest
        assert found.registry == ""
        assert Reference.parse(str(found)) == found


@pytest.mark.parametrize("text", ["oci:", "oci-archive::x", "oci:dir:", "containerd:", "oci:a\0b"])
def test_a_transport_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        Reference.parse(text)


@given(st.text())
def test_any_text_after_a_transport_is_parsed_or_refused(text: str) -> None:
    for transport in TRANSPORTS:
        try:
            found = Reference.parse(f"{transport}:{text}")
        except InvalidReferenceError:
            continue
        assert Reference.parse(str(found)) == found
