"""The pause layer: an uncompressed tar, byte for byte the same on every machine.

The headers are made by hand, because `tarfile` pads differently from release to release, and
nothing is compressed, because no two builds of zlib agree: digest and diff ID are the same.

Formats: POSIX.1-2008 ustar; image-spec v1.1.0 ``layer.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cdimage.descriptor import Digest

LINUX_PAUSE_PATH: Final = "/.hpcc/pause"
WINDOWS_PAUSE_PATH: Final = "C:\\.hpcc\\pause.exe"

_BLOCK: Final = 512
_DIRECTORY: Final = b"5"
_FILE: Final = b"0"


@dataclass(frozen=True)
class PauseLayer:
    """A layer that holds the pause program and the directories above it, and nothing else."""

    data: bytes

    @cached_property
    def digest(self) -> Digest:
        """The layer's digest, which is its diff ID as well."""
        return Digest.of(self.data)


def pause_path(system: str) -> str:
    """Where the pause program lies in an image for this operating system."""
    return WINDOWS_PAUSE_PATH if system == "windows" else LINUX_PAUSE_PATH


def pause_layer(program: bytes, system: str) -> PauseLayer:
    """Make the layer that puts ``program`` at `pause_path`.

    Directories have entries of their own: whatever the base has at ``/.hpcc``, a file or a
    link that leads elsewhere, is replaced by a real directory when the layer is unpacked.
    """
    *parents, name = _tar_path(system).split("/")
    directories = ["/".join(parents[: depth + 1]) + "/" for depth in range(len(parents))]
    entries = [_header(directory, _DIRECTORY, 0) for directory in directories]
    entries.append(_header("/".join([*parents, name]), _FILE, len(program)))
    padding = bytes(-len(program) % _BLOCK)
    return PauseLayer(b"".join([*entries, program, padding, bytes(2 * _BLOCK)]))


def _tar_path(system: str) -> str:
    if system == "windows":
        return "Files/.hpcc/pause.exe"
    return LINUX_PAUSE_PATH.lstrip("/")


def _header(name: str, kind: bytes, size: int) -> bytes:
    """One ustar header: mode 0755, owner 0:0, modified at the epoch."""
    fields = (
        (name.encode(), 100),
        (b"0000755\0", 8),
        (b"0000000\0", 8),
        (b"0000000\0", 8),
        (b"%011o\0" % size, 12),
        (b"%011o\0" % 0, 12),
        (b" " * 8, 8),
        (kind, 1),
        (b"", 100),
        (b"ustar\00000", 8),
        (b"", 32),
        (b"", 32),
        (b"0000000\0", 8),
        (b"0000000\0", 8),
        (b"", 155),
        (b"", 12),
    )
    header = b"".join(value.ljust(width, b"\0") for value, width in fields)
    checksum = b"%06o\0 " % sum(header)
    return header[:148] + checksum + header[156:]
