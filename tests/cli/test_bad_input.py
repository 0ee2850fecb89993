"""Mistakes, as people make them: one clear sentence, the right exit code, nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.cli.program import Said, cdimage
from tests.daemons import Registry
from tests.fake_registry import FakeRegistry
from tests.images import Pushed, Pusher, busybox_tar, digest_of, image_of, layer_of, tar_of
from tests.node import Node

WRONG = "sha256:" + "0" * 64
# Root may open every socket, as long as it has this capability.
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def check_refused(said: Said, code: int, *words: str) -> None:
    """One sentence, no traceback, nothing on standard output."""
    sentence = said.error.strip().splitlines()[-1]
    assert "Traceback" not in said.error
    assert sentence.startswith("cdimage: ")
    for word in words:
        assert word in sentence
    assert (said.code, said.out) == (code, "")


@pytest.fixture
def busybox(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(image_of([layer_of(busybox_tar())]), new_repository())


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    async with registry.serving():
        yield registry


def test_a_wrong_digest_is_said_before_any_layer_is_asked_for(
    node: Node, busybox: Pushed, registry: Registry
) -> None:
    before, files = len(registry.requests()), node.files()
    said = cdimage(node, "pull", busybox.reference, "--digest", WRONG)
    check_refused(said, 3, busybox.digest, WRONG)
    assert [r.path for r in registry.requests()[before:] if "/blobs/" in r.path] == []
    assert node.is_empty()
    assert node.files() == files


def test_a_wrong_digest_in_the_reference_is_said_as_well(node: Node, busybox: Pushed) -> None:
    bare = busybox.reference.rpartition(":")[0]
    check_refused(cdimage(node, "pull", f"{bare}@{WRONG}"), 6, WRONG)
    said = cdimage(node, "pull", f"{bare}@{busybox.digest}", "--digest", WRONG)
    check_refused(said, 3, WRONG)
    assert node.is_empty()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pull", "UPPER case"], 2, ["is not an image reference"]),
        (["pull", "127.0.0.1:1/app"], 8, ["127.0.0.1:1", "cannot be reached"]),
        (["pull", "127.0.0.1:1/app", "--digest", "sha256:abc"], 2, ["is not a digest"]),
        (["pull", "127.0.0.1:1/app", "--platform", "amd64"], 2, ["is not a platform"]),
        (["pull", "127.0.0.1:1/app", "--pause", "/x"], 2, ["--pause needs --platform"]),
        (["pull", "a/b", "--platform", "linux/s390x", "--pause", "/bin/true"], 5, ["s390x"]),
        (["inspect", "latest"], 2, ["is not a digest"]),
        (["inspect", WRONG], 6, ["is not prepared here"]),
        (["untag", "latest"], 2, ["is not a digest"]),
        (["name", ""], 2, ["is not a digest"]),
        (["ls", "--address", "ftp://x"], 2, ["is not an address of containerd"]),
        (["ls", "--address", "tcp://192.0.2.1:1"], 2, ["TLS certificates"]),
        (["ls", "--address", "/nowhere/c.sock"], 8, ["no containerd answers at /nowhere/c.sock"]),
        (["ls", "--address", "tcp://127.0.0.1:1"], 8, ["no containerd answers at tcp://"]),
        (["ls", "--namespace", "a/b"], 9, ["namespace"]),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    node: Node, arguments: list[str], code: int, words: list[str]
) -> None:
    check_refused(cdimage(node, *arguments), code, *words)
    assert node.is_empty()


def test_an_image_that_is_not_there_is_not_found(
    node: Node, registry: Registry, busybox: Pushed
) -> None:
    check_refused(cdimage(node, "pull", f"{registry.host}/no/such"), 6, "no/such", "not there")
    check_refused(cdimage(node, "pull", f"{busybox.reference}x"), 6, "not there")
    assert node.is_empty()


def test_a_socket_that_may_not_be_opened_is_said_to_be_so(node: Node) -> None:
    socket = Path(node.address)
    mode = socket.stat().st_mode
    socket.chmod(0)
    try:
        said = cdimage(node, "ls", before=WITHOUT_RIGHTS)
    finally:
        socket.chmod(mode)
    check_refused(said, 7, node.address, "may not be opened by this user")


def test_a_snapshotter_that_is_not_there_is_named_with_those_that_are(
    node: Node, busybox: Pushed
) -> None:
    said = cdimage(node, "pull", busybox.reference, "--snapshotter", "nosuch")
    check_refused(said, 6, "'nosuch'", "native, overlayfs")
    assert node.is_empty()


def test_a_platform_that_the_image_is_not_for_is_refused(
    node: Node, busybox: Pushed, registry: Registry
) -> None:
    before = len(registry.requests())
    for platform, code in (("linux/arm64", 5), ("plan9/amd64", 5), ("linux/riscv64", 5)):
        said = cdimage(node, "pull", busybox.reference, "--platform", platform)
        check_refused(said, code, platform)
    paths = [request.path for request in registry.requests()[before:]]
    assert not [path for path in paths if busybox.layers[0] in path]
    assert node.is_empty()


def test_a_platform_without_a_pause_program_is_refused_before_anything_is_downloaded(
    node: Node, pusher: Pusher, registry: Registry, new_repository: Callable[[], str]
) -> None:
    image = image_of([layer_of(tar_of({"a": b"x"}))], platform="linux/s390x")
    pushed = pusher.push(image, new_repository())
    before = len(registry.requests())
    said = cdimage(node, "pull", pushed.reference)
    check_refused(said, 5, "no pause program for linux/s390x", "linux/amd64, linux/arm64")
    assert not [r for r in registry.requests()[before:] if pushed.layers[0] in r.path]
    assert node.is_empty()


async def test_a_manifest_that_is_not_json_is_refused(node: Node, fake: FakeRegistry) -> None:
    fake.add_manifest("latest", b"<html>Welcome to our portal</html>")
    said = await asyncio.to_thread(cdimage, node, "pull", f"{fake.host}/app")
    check_refused(said, 4, "manifest is not valid JSON")
    assert node.is_empty()


def test_a_layer_whose_bytes_do_not_match_is_refused(
    node: Node, pusher: Pusher, registry: Registry, new_repository: Callable[[], str]
) -> None:
    # A layer of its own: the registry shares blobs between repositories.
    tar = tar_of({"marker": new_repository().encode()})
    pushed = pusher.push(image_of([layer_of(tar, "none")]), new_repository())
    file = registry.blob_path(pushed.layers[0])
    file.write_bytes(bytes(len(file.read_bytes())))
    files = node.files()
    check_refused(cdimage(node, "pull", pushed.reference), 3, pushed.layers[0], "have the digest")
    assert node.is_empty()
    assert node.files() == files


def test_a_config_that_lies_about_its_diff_ids_is_refused(
    node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    layer, lie = layer_of(busybox_tar()), digest_of(b"a lie")
    pushed = pusher.push(image_of([layer], diff_ids=[lie]), new_repository())
    files = node.files()
    said = cdimage(node, "pull", pushed.reference)
    check_refused(said, 4, layer.blob.digest, layer.diff_id, lie)
    assert node.is_empty()
    assert node.files() == files


def test_a_config_with_too_few_diff_ids_is_refused(
    node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    pushed = pusher.push(image_of([layer_of(busybox_tar())], diff_ids=[]), new_repository())
    check_refused(cdimage(node, "pull", pushed.reference), 4, "1 layers", "0 diff IDs")
    assert node.is_empty()


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "is empty"), (b"#!/bin/sh\n", "not an ELF file"), (None, "is not there")],
)
def test_a_pause_program_that_could_not_run_is_refused(
    node: Node, busybox: Pushed, tmp_path: Path, content: bytes | None, why: str
) -> None:
    program = tmp_path / "pause"
    if content is not None:
        program.write_bytes(content)
    said = cdimage(
        node, "pull", busybox.reference, "--platform", "linux/amd64", "--pause", str(program)
    )
    check_refused(said, 2, str(program), why)
    assert node.is_empty()


def test_the_image_id_is_not_the_digest_and_the_error_says_so(
    node: Node, pusher: Pusher, new_repository: Callable[[], str]
) -> None:
    image = image_of([layer_of(busybox_tar())])
    pushed = pusher.push(image, new_repository())
    said = cdimage(node, "pull", pushed.reference, "--digest", image.config.digest)
    check_refused(said, 3, "image ID")
    # The same where containerd has a blob of that digest: it is no image either.
    node.ctr("images", "pull", "--plain-http", pushed.reference)
    for digest in (image.config.digest, *pushed.layers):
        said = cdimage(node, "pull", pushed.reference, "--digest", digest)
        check_refused(said, 3, pushed.digest, digest)
