"""The command line on other stores than containerd, and between stores."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.program import Said, cdimage
from tests.daemons import Registry
from tests.images import Pushed, Pusher, busybox_tar, image_of, index_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_archive
from tests.node import Node
from tests.tools import ROOT


@pytest.fixture
def busybox(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(image_of([layer_of(busybox_tar())], {"Cmd": ["sh"]}), new_repository())


@pytest.fixture(autouse=True)
def no_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CDIMAGE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_every_command_works_on_a_directory(busybox: Pushed, tmp_path: Path) -> None:
    store = ["--store", f"oci:{tmp_path / 'layout'}"]
    digest = busybox.digest
    said = cdimage(None, "pull", busybox.reference, *store)
    assert (said.code, f"oci:{tmp_path / 'layout'}:{digest[7:]}" in said.out) == (0, True)
    (listed,) = json.loads(cdimage(None, "ls", "--format", "json", *store).out)
    assert (listed["user_digest"], listed["platforms"]) == (digest, ["linux/amd64"])
    assert "['sh']" in cdimage(None, "inspect", digest, *store).out
    assert cdimage(None, "verify", *store).out.startswith(f"ok     {digest}")
    archive = tmp_path / "image.tar"
    assert cdimage(None, "export", digest, str(archive), *store).code == 0
    with tarfile.open(archive) as opened:
        assert opened.getnames()[:2] == ["oci-layout", "index.json"]
    assert cdimage(None, "doctor", *store).code == 0
    assert cdimage(None, "untag", digest, *store).code == 0
    assert cdimage(None, "ls", "--format", "json", *store).out == "[]\n"


def test_every_command_works_on_a_registry(busybox: Pushed, registry: Registry) -> None:
    store = ["--store", f"registry:{registry.host}/cli/{busybox.digest[7:19]}"]
    digest = busybox.digest
    for command in (
        ["pull", busybox.reference], ["ls"], ["inspect", digest], ["verify", digest], ["doctor"],
        ["untag", digest],
    ):  # fmt: skip
        said = cdimage(None, *command, *store)
        assert said.code == 0, (command, said.error)
    assert json.loads(cdimage(None, "ls", "--format", "json", *store).out) == []


def test_images_are_copied_from_store_to_store(
    node: Node, registry: Registry, busybox: Pushed, tmp_path: Path
) -> None:
    digest = busybox.digest
    stores = [f"oci:{tmp_path / 'a'}", f"registry:{registry.host}/copies", "containerd"]
    assert cdimage(node, "pull", busybox.reference, "--store", stores[0]).code == 0
    for ours, theirs in itertools.pairwise(stores):
        said = cdimage(node, "copy", digest, "--store", ours, "--to", theirs)
        assert (said.code, said.error) == (0, "")
        assert said.out.startswith(f"copied {digest} to ")
        assert cdimage(node, "verify", digest, "--store", theirs).code == 0
    container = node.run(digest)
    container.terminate()
    container.remove()
    assert cdimage(node, "untag", digest, "--store", "registry:" + stores[1][9:]).code == 0


def test_all_platforms_are_prepared_at_once(
    pusher: Pusher, new_repository: Callable[[], str], tmp_path: Path
) -> None:
    images = {
        name: image_of([layer_of(tar_of({"f": name.encode()}))], platform=name)
        for name in ("linux/amd64", "linux/arm64", "windows/amd64")
    }
    pushed = pusher.push_index(index_of(images), [*images.values()], new_repository())
    store = ["--store", f"oci:{tmp_path}", "--format", "json"]
    said = cdimage(None, "pull", pushed.reference, "--platform", "all", *store)
    assert json.loads(said.out)["platforms"] == [*images]
    said = cdimage(
        None, "pull", pushed.reference, "--platform", "linux/amd64", "--platform", "all", *store
    )
    assert (said.code, "name no other" in said.error) == (2, True)


def test_an_alias_is_the_users_own_manifest(busybox: Pushed, tmp_path: Path) -> None:
    store = ["--store", f"oci:{tmp_path}", "--format", "json"]
    said = cdimage(None, "pull", busybox.reference, "--inject", "alias", *store)
    assert json.loads(said.out)["manifest"]["digest"] == busybox.digest
    assert cdimage(None, "verify", *store).code == 0


def test_a_worker_looks_where_the_fleet_has_prepared(
    busybox: Pushed, registry: Registry, tmp_path: Path
) -> None:
    fleet = f"{registry.host}/fleet"
    assert cdimage(None, "pull", busybox.reference, "--store", f"registry:{fleet}").code == 0
    before = len(registry.requests())
    store = ["--store", f"oci:{tmp_path}", "--prepared-registry", fleet]
    said = cdimage(None, "pull", busybox.reference, "--digest", busybox.digest, *store)
    assert said.code == 0
    asked = registry.requests()[before:]
    assert asked
    assert all("/v2/fleet/" in request.path for request in asked)


def test_an_archive_needs_no_network(busybox: Pushed, tmp_path: Path) -> None:
    image = image_of([layer_of(busybox_tar())])
    files = layout_files([("x", image.manifest)], blobs_of(image)[1:])
    archive = write_archive(tmp_path / "image.tar", files)
    store = ["--store", f"oci:{tmp_path / 'layout'}"]
    assert cdimage(None, "pull", f"oci-archive:{archive}", *store).code == 0
    assert cdimage(None, "pull", f"docker-archive:{archive}:x", *store).code == 0
    assert cdimage(None, "verify", *store).out.count("ok ") == 1


def test_what_a_containerd_holds_needs_no_network(node: Node, busybox: Pushed) -> None:
    node.ctr("images", "pull", "--plain-http", busybox.reference)
    said = cdimage(node, "pull", f"containerd:{busybox.reference}")
    assert said.code == 0
    assert cdimage(node, "pull", "containerd:no/such").code == 6


def in_a_machine_without_containerd(*arguments: str) -> Said:
    """Run the program where nothing is in ``/run/containerd``."""
    script = 'mkdir -p /run/containerd && mount -t tmpfs none /run/containerd && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "x", sys.executable, "-m", "cdimage",
         *arguments],
        env=dict(os.environ), capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


def test_without_a_containerd_the_users_directory_is_used_and_one_line_says_so(
    busybox: Pushed, tmp_path: Path
) -> None:
    said = in_a_machine_without_containerd("pull", busybox.reference, "--quiet")
    place = tmp_path / "data" / "cdimage" / "images"
    assert said.code == 0
    assert said.error == (
        "cdimage: there is no containerd at /run/containerd/containerd.sock: "
        f"using the image layout {place}\n"
    ) + f"{busybox.reference} is {busybox.digest}\n" * ("is sha256" in said.error)
    assert (place / "index.json").is_file()
    named = in_a_machine_without_containerd("ls", "--store", "containerd")
    assert (named.code, "no containerd answers" in named.error) == (8, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ls", "--store", "podman"], 2, "is not a store: write containerd, oci:DIR or"),
        (["ls", "--store", "registry:"], 2, "is not a store"),
        (["ls", "--store", "registry:x/y:tag"], 2, "without tag or digest"),
        (["ls", "--store", "registry:127.0.0.1:1/x"], 8, "nothing listens there"),
        (["ls", "--store", "oci:/etc"], 4, "it has no file oci-layout"),
        (["ls", "--store", "oci:/etc/passwd"], 4, "is not a directory"),
        (["verify", "f" * 64, "--store", "oci:{}"], 6, "is not prepared here"),
        (["export", "f" * 64, "{}/x.tar", "--store", "oci:{}/new"], 6, "is not prepared here"),
        (["copy", "f" * 64, "--store", "oci:{}/new", "--to", "x"], 2, "is not a store"),
        (["pull", "oci:{}/nowhere", "--store", "oci:{}/new"], 6, "there is no image layout"),
        (["pull", "oci-archive:{}/nowhere", "--store", "oci:{}/new"], 6, "there is no file"),
        (["pull", "oci-archive:", "--store", "oci:{}/new"], 2, "is followed by no name"),
        (["pull", "x", "--inject", "magic", "--store", "oci:{}/new"], 2, "'magic' is not one of"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    said = cdimage(None, *(word.replace("{}", str(tmp_path)) for word in arguments))
    assert (said.code, said.out) == (code, "")
    assert words in said.error
    assert "Traceback" not in said.error
    assert [*tmp_path.rglob("*.tar*")] == []


def test_a_broken_image_is_told(busybox: Pushed, tmp_path: Path) -> None:
    store = ["--store", f"oci:{tmp_path}"]
    cdimage(None, "pull", busybox.reference, *store)
    layer = tmp_path / "blobs" / "sha256" / busybox.layers[0][7:]
    layer.write_bytes(layer.read_bytes()[:-1] + b"x")
    said = cdimage(None, "verify", busybox.digest, *store)
    assert (said.code, said.out.startswith("WRONG")) == (4, True)
    (found,) = json.loads(cdimage(None, "verify", *store, "--format", "json").out)
    assert found["disagreements"]
    layer.unlink()
    assert "linux/amd64 layer 0" in cdimage(None, "verify", busybox.digest, *store).out
    archive = tmp_path.parent / "broken.tar"
    said = cdimage(None, "export", busybox.digest, str(archive), *store)
    assert said.code == 6
    assert not archive.exists()
