"""The pause layer: an uncompressed tar, byte for byte the same on every machine.

The headers are made by hand, because `tarfile` pads differently from release to release, and
nothing is compressed, because no two builds of zlib agree: digest and diff ID are the same.

Formats: POSIX.1-2008 pax and ustar; image-spec v1.1.0 ``layer.md``; for Windows, what
hcsshim v0.12.9 imports (``pkg/ociwclayer``) and go-winio v0.6.2 reads (``backuptar``).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from cdimage.digest import Digest
from cdimage.errors import InvalidImageError

if TYPE_CHECKING:
    from cdimage.security_descriptor import SecurityDescriptor

LINUX_PAUSE_PATH: Final = "/.hpcc/pause"
WINDOWS_PAUSE_PATH: Final = "C:\\.hpcc\\pause.exe"

_BLOCK: Final = 512
_DIRECTORY: Final = b"5"
_FILE: Final = b"0"
_EXTENDED: Final = b"x"
# MS-FSCC 2.6.
_ATTRIBUTE_DIRECTORY: Final = 0x10
_ATTRIBUTE_ARCHIVE: Final = 0x20


@dataclass(frozen=True)
class PauseLayer:
    """A layer that holds the pause program and the directories that it needs, and nothing else."""

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

    Directories have entries of their own, before what is in them: whatever the base has at
    ``.hpcc``, a file or a link that leads elsewhere, is replaced by a real directory when the
    layer is unpacked.
    """
    entries = _windows_entries(program) if system == "windows" else _linux_entries(program)
    return PauseLayer(b"".join([*entries, bytes(2 * _BLOCK)]))


def read_pause_layer(layer: PauseLayer, system: str) -> bytes:
    """The program in a pause layer, which must hold nothing else.

    Raises:
        InvalidImageError: It is another layer than `pause_layer` makes.
    """
    last = len(pause_layer(b"", system).data) - 3 * _BLOCK
    size = layer.data[last + 124 : last + 135]
    if size.isdigit():
        program = layer.data[last + _BLOCK : last + _BLOCK + int(size, 8)]
        if pause_layer(program, system).data == layer.data:
            return program
    raise InvalidImageError(f"the layer {layer.digest} holds something else than a pause program")


def _linux_entries(program: bytes) -> list[bytes]:
    return [_entry(".hpcc/", _DIRECTORY), _entry(".hpcc/pause", _FILE, program)]


def _windows_entries(program: bytes) -> list[bytes]:
    """``Files`` is the drive, ``Hives`` the registry: Windows imports no layer without either."""
    from cdimage.security_descriptor import (  # noqa: PLC0415 - takes long to load
        PROGRAM_DIRECTORY,
        PROGRAM_FILE,
    )

    return [
        _entry("Hives/", _DIRECTORY),
        _entry("Files/", _DIRECTORY),
        _windows_metadata("Files/PaxHeaders.0/.hpcc", _ATTRIBUTE_DIRECTORY, PROGRAM_DIRECTORY),
        _entry("Files/.hpcc/", _DIRECTORY),
        _windows_metadata("Files/.hpcc/PaxHeaders.0/pause.exe", _ATTRIBUTE_ARCHIVE, PROGRAM_FILE),
        _entry("Files/.hpcc/pause.exe", _FILE, program),
    ]


def _windows_metadata(name: str, attributes: int, descriptor: SecurityDescriptor) -> bytes:
    """The extended header of the entry after it, with what lets an ordinary user execute it."""
    records = (
        _record(b"MSWINDOWS.fileattr", b"%d" % attributes),
        _record(b"MSWINDOWS.rawsd", base64.b64encode(bytes(descriptor))),
    )
    return _entry(name, _EXTENDED, b"".join(records))


def _record(key: bytes, value: bytes) -> bytes:
    """``<size> <key>=<value>`` and a line feed; the size, in bytes, counts its own digits."""
    rest = b" %s=%s\n" % (key, value)
    size = len(rest) + len(str(len(rest)))
    return b"%d" % (len(rest) + len(str(size))) + rest


def _entry(name: str, kind: bytes, data: bytes = b"") -> bytes:
    return _header(name, kind, len(data)) + data + bytes(-len(data) % _BLOCK)


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
