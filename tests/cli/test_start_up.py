"""What is loaded to start: how long that takes depends on the machine, what it is does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.cli.program import environment
from tests.images import image_of, layer_of, tar_of
from tests.layouts import blobs_of, layout_files, write_layout
from tests.node import Node
from tests.tools import ROOT

_DIGEST = "sha256:" + "0" * 64

# By way of a file of its own, and not of `-m`, so that what was loaded can be told at the end.
_PROGRAM = """
import json, sys
from cdimage.__main__ import main
sys.argv[0] = "cdimage"
code = main()
sys.stderr.write("\\n" + json.dumps([code, *sys.modules]))
"""

_HEAVY = {
    "aiohttp", "asyncio", "click", "dataclasses", "email", "google", "grpc", "hashlib", "http",
    "inspect", "logging", "multidict", "pathlib", "rich", "ssl", "subprocess", "tarfile", "yarl",
}  # fmt: skip
"""Those that take more than a millisecond, or that load such."""

_CLICK = {"click", "inspect"}
_GRPC = {"asyncio", "google", "grpc", "logging", "ssl", "subprocess"}


def loaded_by(node: Node | None, *arguments: str) -> tuple[int, list[str]]:
    """The exit code of a command, and the modules that it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=environment(node), capture_output=True, text=True, timeout=60, cwd=ROOT, check=True,
    )  # fmt: skip
    code, *modules = json.loads(done.stderr.splitlines()[-1])
    return code, modules


def heavy(modules: Sequence[str]) -> set[str]:
    """Of modules, those that take long."""
    return _HEAVY & {module.partition(".")[0] for module in modules}


def own(modules: Sequence[str]) -> list[str]:
    """Of modules, those of cdimage that are not generated."""
    found = [module for module in modules if module.partition(".")[0] == "cdimage"]
    return [module for module in found if not module.startswith("cdimage.containerd.api")]


def test_importing_it_loads_nothing() -> None:
    script = "import sys, cdimage; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert heavy(loaded) == set()
    assert "typing" not in loaded
    assert own(loaded) == ["cdimage"]


@pytest.mark.parametrize(
    ("line", "code", "more"),
    [
        ("--help", 0, set()),
        ("--version", 0, set()),
        ("pull --help", 0, set()),
        ("completion bash", 0, set()),
        ("completion zsh", 0, set()),
        ("nosuch", 2, set()),
        ("ls --nosuch", 2, set()),
        ("untag", 2, set()),
        (f"name {_DIGEST}", 0, {"dataclasses"}),
        ("name nosuch", 2, {"dataclasses"}),
    ],
)
def test_a_command_that_needs_nobody_loads_click_and_next_to_nothing(
    line: str, code: int, more: set[str]
) -> None:
    ended, modules = loaded_by(None, *line.split())
    assert ended == code
    assert heavy(modules) <= _CLICK | more
    assert len(own(modules)) <= 7


@pytest.mark.parametrize(("command", "most", "more"), [("ls", 22, set()), ("ps", 24, {"pathlib"})])
def test_listing_loads_grpc_and_neither_http_nor_what_prepares(
    node: Node, command: str, most: int, more: set[str]
) -> None:
    code, modules = loaded_by(node, command)
    assert code == 0
    assert heavy(modules) <= _CLICK | _GRPC | {"dataclasses"} | more
    assert len(own(modules)) <= most


def test_listing_a_layout_loads_no_grpc(tmp_path: Path) -> None:
    code, modules = loaded_by(None, "ls", "--store", f"oci:{tmp_path}")
    assert code == 0
    assert not heavy(modules) & {"aiohttp", "google", "grpc", "rich"}
    assert not [module for module in own(modules) if module.startswith("cdimage.registry")]


def test_looking_at_an_image_and_dropping_it_loads_no_registries_and_no_bars(node: Node) -> None:
    for command in ("inspect", "untag"):
        _, modules = loaded_by(node, command, _DIGEST)
        assert not heavy(modules) & {"aiohttp", "rich"}
        assert not [module for module in own(modules) if module.startswith("cdimage.registry")]


def test_an_image_of_a_layout_is_prepared_there_without_grpc_and_http(tmp_path: Path) -> None:
    image = image_of([layer_of(tar_of({"file": b"content"}))])
    layout = f"oci:{write_layout(tmp_path, layout_files(image.manifest, blobs_of(image)))}"
    line = ("pull", layout, "--digest", image.digest, "--store", layout, "--quiet")
    code, modules = loaded_by(None, *line)
    assert code == 0
    assert not heavy(modules) & {"aiohttp", "google", "grpc", "rich"}
    assert not [module for module in own(modules) if module.startswith("cdimage.registry")]
    assert "cdimage.security_descriptor" not in modules  # is of Windows' layer
