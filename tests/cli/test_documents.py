"""What the documents say is true: examples run, tables agree with the program."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.cli.program import cdimage, environment
from tests.daemons import Registry
from tests.images import Pushed, Pusher, busybox_tar, image_of, layer_of
from tests.layouts import blobs_of, layout_files, write_archive
from tests.node import Node
from tests.tools import ROOT

import cdimage as library
from cdimage import errors
from cdimage.cli.main import INTERRUPTED, cli
from cdimage.registry.hosts import find_hosts

README = (ROOT / "README.md").read_text()


@pytest.fixture
def busybox(pusher: Pusher, new_repository: Callable[[], str]) -> Pushed:
    return pusher.push(image_of([layer_of(busybox_tar())]), new_repository())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_runs(node: Node, busybox: Pushed) -> None:
    (example,) = blocks("python")
    program = example.replace("debian:12", busybox.reference)
    assert program != example
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(node), capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed, result = done.stdout.splitlines()
    assert listed == f"['{busybox.digest}']"
    assert result == "0 b'hello\\n'"
    assert node.is_empty()


def test_the_shell_examples_run(
    node: Node, registry: Registry, busybox: Pushed, tmp_path: Path
) -> None:
    (example,) = blocks("console")
    lines = [
        line.removeprefix("$ ").replace("BOX=$(", "").replace(")", "").partition(" #")[0].strip()
        for line in example.splitlines()
    ]
    commands = [line.split() for line in lines if line.startswith("cdimage ")]
    assert len(commands) == 16
    box = ""
    (tmp_path / "images.txt").write_text(f"{busybox.reference}\n")
    image = image_of([layer_of(busybox_tar())])
    files = layout_files([("x", image.manifest)], blobs_of(image)[1:])
    write_archive(tmp_path / "image.tar", files)
    for command in commands:
        real = [
            word.replace("ghcr.io/org/app:1.2", busybox.reference)
            .replace("sha256:…", busybox.digest)
            .replace("images.txt", str(tmp_path / "images.txt"))
            .replace("image.tar", str(tmp_path / "image.tar"))
            .replace("box.tar", str(tmp_path / "box.tar"))
            .replace("registry.example/prepared", f"{registry.host}/documents")
            .replace("$BOX", box)
            for word in command[1:]
        ]
        done = cdimage(node, *real)
        assert done.code == 0, real
        box = done.out.strip() if real[0] == "start" else box
    cdimage(node, "untag", image.digest)
    assert node.is_empty()


async def test_the_examples_for_registries_run(
    node: Node, client: library.Client, busybox: Pushed, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "registries.md").read_text()
    names = {
        "cdimage": library,
        "store": library.Store(client),
        "reference": busybox.reference,
        "digest": busybox.digest,
    }
    program = "".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    compiled = compile(program, "registries.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(compiled, names)
    assert node.images() == {library.prepared_image_name(busybox.digest)}
    (settings,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    folder = tmp_path / "docker.io"
    folder.mkdir()
    (folder / "hosts.toml").write_text(settings)
    (folder / "mirror.crt").touch()
    hosts = find_hosts([tmp_path], "docker.io")
    assert [host.url for host in hosts] == [
        "https://mirror.example/v2", "https://registry-1.docker.io/v2",
    ]  # fmt: skip


async def test_the_examples_for_stores_run(
    registry: Registry, busybox: Pushed, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "stores.md").read_text()
    names = {
        "cdimage": library,
        "folder": tmp_path,
        "prefix": f"{registry.host}/examples",
        "reference": busybox.reference,
        "digest": busybox.digest,
    }
    program = "".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    compiled = compile(program, "stores.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(compiled, names)
    for store in (library.LayoutStore(tmp_path), library.LayoutStore(tmp_path / "worker")):
        assert await store.get_existing_images() == [busybox.digest]


async def test_the_example_for_warm_containers_runs(
    node: Node, client: library.Client, busybox: Pushed, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "warm.md").read_text()
    store = library.Store(client)
    await store.pull_image(busybox.reference, busybox.digest)
    names = {"client": client, "store": store, "digest": busybox.digest, "folder": tmp_path}
    program = "".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    compiled = compile(program, "warm.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(compiled, names)
    assert node.ctr("containers", "ls", "-q") == ""


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert blocks("sh") == ["make run\n", "make test\n"]
    assert re.search(r"^run:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_first_command_shows_the_whole_job_without_root_too() -> None:
    program = (
        "import os, sys; os.geteuid = lambda: 1000; sys.argv[1:] = []\n"
        "from scripts.demo import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    for step in ("a directory takes its place", "cdimage pull", "cdimage verify", "ok  ",
                 "cdimage export", "untagged", "0 blobs are left"):  # fmt: skip
        assert step in done.stdout


def exit_codes() -> set[int]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = [kind for kind in kinds if issubclass(kind, errors.CdimageError)]
    return {0, INTERRUPTED, *(kind.exit_code for kind in ours)}


def test_every_exit_code_is_documented() -> None:
    table = {int(code) for code in re.findall(r"\| (\d+) \|", README)}
    epilog = cli.epilog or ""
    said = {int(code) for code in re.findall(r"(\d+) [a-z]", epilog)}
    assert table == said == exit_codes()


def test_every_command_explains_itself() -> None:
    for name, command in cli.commands.items():
        shown = CliRunner().invoke(cli, [name, "--help"])
        assert shown.exit_code == 0
        assert command.help
        assert f"cdimage {name}" in README
