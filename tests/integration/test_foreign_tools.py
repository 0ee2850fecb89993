"""What comes out of a layout store, in the hands of other tools."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.images import Pushed, Pusher, busybox_tar, image_of, layer_of
from tests.node import Container, Node
from tests.podman import Podman
from tests.tools import tool, tool_env

import cdimage


@pytest.fixture
def busybox(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    image = image_of([layer_of(busybox_tar())], {"Entrypoint": ["/bin/false"], "User": "worker"})
    return pusher.push(image, new_repository())


@pytest.fixture
async def layout(busybox: Pushed, tmp_path: Path) -> Path:
    """A layout with the prepared image, and its archive beside it."""
    store = cdimage.LayoutStore(tmp_path / "layout")
    await store.pull_image(busybox.reference, busybox.digest)
    with (tmp_path / "image.tar").open("wb") as file:
        await cdimage.export_image(store, busybox.digest, file)
    return tmp_path / "layout"


def run(*command: str) -> str:
    env = {key: value for key, value in tool_env().items() if key != "DOCKER_CONFIG"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctr_imports_the_archive_and_starts_it(node: Node, layout: Path, busybox: Pushed) -> None:
    # containerd 2.1 imports through a service that unpacks into its own default only.
    local = ["--local"] if "--local" in node.ctr("images", "import", "--help") else []
    archive = str(layout.parent / "image.tar")
    node.ctr("images", "import", *local, "--snapshotter", node.snapshotter, archive)
    name = cdimage.prepared_image_name(busybox.digest)
    assert node.images() == {name}
    container: Container = node.run(busybox.digest)
    assert container.first_process() == (1, b"/.hpcc/pause\0")
    assert container.exec("/bin/echo", "hello") == "hello\n"
    assert container.terminate() < 1
    container.remove()


def test_skopeo_copies_it(layout: Path, busybox: Pushed, tmp_path: Path) -> None:
    source = f"oci:{layout}:{busybox.digest[7:]}"
    run(tool("skopeo"), "--insecure-policy", "copy", source, f"dir:{tmp_path / 'copy'}")
    config = json.loads(run(tool("skopeo"), "inspect", "--config", source))
    assert config["config"]["Entrypoint"] == ["/.hpcc/pause"]
    assert config["config"]["User"] == "worker"


def test_umoci_unpacks_it(layout: Path, busybox: Pushed, tmp_path: Path) -> None:
    image = f"{layout}:{busybox.digest[7:]}"
    run(tool("umoci"), "unpack", "--rootless", "--image", image, str(tmp_path / "bundle"))
    assert (tmp_path / "bundle" / "rootfs" / ".hpcc" / "pause").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bundle" / "rootfs" / "bin" / "busybox").is_file()


@pytest.fixture
def podman() -> Iterator[Podman]:
    with Podman() as podman:
        yield podman


def test_podman_runs_it(layout: Path, busybox: Pushed, podman: Podman) -> None:
    image = f"oci:{layout}:{busybox.digest[7:]}"
    podman("run", "--detach", "--name", "box", image)
    assert podman("exec", "box", "/bin/id", "-u") == "1234\n"
    assert podman("top", "box", "args").split() == ["COMMAND", "/.hpcc/pause"]
    podman("stop", "--time", "60", "box")
    assert podman("inspect", "--format", "{{.State.ExitCode}}", "box") == "0\n"
