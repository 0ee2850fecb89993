"""What a containerd unpacks gzip layers with: its own code, or a program that is quicker."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TRUE: Final = {"1", "t", "T", "true", "True", "TRUE"}
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Gunzip:
    """A program that containerd starts if it is in its PATH, unless a variable forbids it.

    Attributes:
        program: Its name.
        package: What has it, in Debian and Ubuntu.
        since: The first version, of those supported, that looks for it: major and minor.
        disabled_by: The variable.
    """

    program: str
    package: str
    since: tuple[int, int]
    disabled_by: str


# In containerd's order (v2.1.0, pkg/archive/compression/compression.go).
GUNZIPS: Final = (
    Gunzip("igzip", "isal", (2, 0), "CONTAINERD_DISABLE_IGZIP"),
    Gunzip("unpigz", "pigz", (1, 6), "CONTAINERD_DISABLE_PIGZ"),
)


def best_gunzip(version: tuple[int, int]) -> Gunzip:
    """The one that a containerd of that version likes best."""
    return next((it for it in GUNZIPS if version >= it.since), GUNZIPS[-1])


def find_gunzip(address: str, version: tuple[int, int]) -> Path | None:
    """The one that the daemon behind a socket finds; None when it finds none.

    Raises:
        OSError: Nobody can tell: the daemon is on another machine, in another container or
            another user's, or this system does not say which process is behind a socket.
    """
    process = Path("/proc", str(_process_behind(address)))
    environment = _environment(process / "environ")
    folders = environment.get("PATH", "").split(os.pathsep)
    for gunzip in GUNZIPS:
        if version < gunzip.since or environment.get(gunzip.disabled_by) in _TRUE:
            continue
        for folder in filter(None, folders):
            path = Path(folder, gunzip.program)
            if os.access(f"{process}/root/{path}", os.X_OK):
                return path
    return None


def _process_behind(address: str) -> int:
    """The process that listens at a path, or at ``unix:///path``."""
    with suppress(AttributeError), closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.connect(address.removeprefix("unix://"))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if pid := int(_CREDENTIALS.unpack(credentials)[0]):
            return pid
    raise ProcessLookupError(f"no process that can be seen here is behind {address}")


def _environment(file: Path) -> dict[str, str]:
    entries = os.fsdecode(file.read_bytes()).split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
