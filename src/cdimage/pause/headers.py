"""Whether a program's header says that its platform can execute it, alone in an empty image.

Formats: System V ABI, ELF-64; Microsoft PE/COFF specification, PE32+.
"""

from __future__ import annotations

import struct
from typing import Final

from cdimage.descriptor import Platform
from cdimage.errors import InvalidPauseProgramError

_ELF_MACHINE: Final = {"amd64": 62, "arm64": 183}
_EXECUTABLE, _SHARED = 2, 3
_PT_INTERP: Final = 3
_PROGRAM_HEADER: Final = 56

_PE_MACHINE: Final = {"amd64": 0x8664}
_PE_EXECUTABLE, _PE_DLL = 0x0002, 0x2000
_PE32_PLUS: Final = 0x20B
_CONSOLE: Final = 3


def check_program(data: bytes, platform: Platform, name: str) -> None:
    """Refuse a program that could not be started as the only file of an image.

    Args:
        data: The program.
        platform: What it must run on.
        name: What to call it in the message.

    Raises:
        InvalidPauseProgramError: It is empty, of another format or processor, or needs a
            loader or libraries that an image may not have.
    """
    if not data:
        raise InvalidPauseProgramError(f"the pause program {name} is empty")
    check = _check_pe if platform.os == "windows" else _check_elf
    try:
        problem = check(data, platform.architecture)
    except struct.error:
        problem = "it ends in the middle of its header"
    if problem:
        raise InvalidPauseProgramError(f"the pause program {name} is not for {platform}: {problem}")


def _check_elf(data: bytes, architecture: str) -> str:
    if data[:4] != b"\x7fELF":
        return "it is not an ELF file"
    if data[4:6] != b"\x02\x01":
        return "it is not a 64-bit little-endian ELF file"
    kind, machine = struct.unpack_from("<HH", data, 16)
    if machine != _ELF_MACHINE[architecture]:
        return f"it is made for the ELF machine {machine}, not for {_ELF_MACHINE[architecture]}"
    if kind not in {_EXECUTABLE, _SHARED}:
        return "it is not an executable"
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    if size != _PROGRAM_HEADER or not count:
        return "it has no program headers"
    kinds = [struct.unpack_from("<I", data, offset + n * size)[0] for n in range(count)]
    return "it is linked dynamically: link it statically" if _PT_INTERP in kinds else ""


def _check_pe(data: bytes, architecture: str) -> str:
    if data[:2] != b"MZ":
        return "it is not a PE file"
    (start,) = struct.unpack_from("<I", data, 0x3C)
    if data[start : start + 4] != b"PE\0\0":
        return "it is not a PE file"
    (machine,) = struct.unpack_from("<H", data, start + 4)
    if machine != _PE_MACHINE[architecture]:
        return f"it is made for the PE machine {machine:#x}, not for {_PE_MACHINE[architecture]:#x}"
    (flags, magic) = struct.unpack_from("<HH", data, start + 22)
    if not flags & _PE_EXECUTABLE or flags & _PE_DLL:
        return "it is not an executable"
    if magic != _PE32_PLUS:
        return "it is not a 64-bit PE file"
    (subsystem,) = struct.unpack_from("<H", data, start + 24 + 68)
    return "" if subsystem == _CONSOLE else "it is not a console program"
