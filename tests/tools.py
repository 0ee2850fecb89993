"""Where the real programs are that the tests, the demonstration and the benchmarks start.

`scripts/fetch_tools.py` unpacks Debian's packages into `.tools/<suite>`; nothing is installed, so
whoever starts one passes `tool_env()`, which lets it find its libraries and friends.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"
CONTAINERD_SUITE = "CDIMAGE_CONTAINERD_SUITE"
"""The variable that names another Debian suite, whose containerd is started."""

_PEERS = "forky-peers"  # what only the benchmarks start, and Debian 12 does not have
_PROGRAM_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin")
_LIBRARY_FOLDERS = ("usr/lib/{triplet}", "lib/{triplet}", "usr/lib", "lib")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/wine"


class ToolMissingError(Exception):
    """A real program is not on this machine; the message says what to run."""


def tool(name: str) -> str:
    """Return the absolute path of a program: the project's own copy, else the one on `PATH`.

    Raises:
        ToolMissingError: There is neither.
    """
    folders = [str(folder) for folder in _folders(_PROGRAM_FOLDERS)]
    found = shutil.which(name, path=os.pathsep.join(folders)) if folders else None
    found = found or shutil.which(name, path=_inherited_path())
    if found is None:
        raise ToolMissingError(
            f"{name} is not on this machine: run `python3 scripts/fetch_tools.py --for test`"
        )
    return str(Path(found).absolute())


def tool_env() -> dict[str, str]:
    """Return this process's environment with what the unpacked programs need on top."""
    env = dict(os.environ)
    programs = [str(folder) for folder in _folders(_PROGRAM_FOLDERS)]
    env["PATH"] = os.pathsep.join([*programs, _inherited_path()])
    libraries = [str(folder) for folder in _folders(_LIBRARY_FOLDERS)]
    if inherited := env.get("LD_LIBRARY_PATH"):
        libraries.append(inherited)
    if libraries:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    return env


def _inherited_path() -> str:
    """`PATH`, and the folders of system programs that a user's `PATH` leaves out."""
    return os.pathsep.join([os.environ.get("PATH", ""), _SYSTEM_PATH]).lstrip(os.pathsep)


def _folders(names: Sequence[str]) -> list[Path]:
    """Where the unpacked programs or libraries are; those of another suite, if any, go first."""
    suites = dict.fromkeys([os.environ.get(CONTAINERD_SUITE) or SUITE, SUITE, _PEERS])
    triplet = f"{os.uname().machine}-linux-gnu"
    folders = [
        ROOT / ".tools" / suite / name.format(triplet=triplet) for suite in suites for name in names
    ]
    return [folder for folder in folders if folder.is_dir()]
