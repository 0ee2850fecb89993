"""Whether a program's headers say that its platform can execute it, alone in an empty image.

Formats: System V ABI, ELF-64 object files; Microsoft PE format, PE32+ images.
"""

from __future__ import annotations

import struct
from typing import Final

from cdimage.descriptor import Platform
from cdimage.errors import InvalidPauseProgramError

_ELF_MACHINE: Final = {"amd64": 62, "arm64": 183}
_EXECUTABLE, _SHARED = 2, 3
_PT_LOAD, _PT_INTERP = 1, 3
_PROGRAM_HEADER: Final = 56

_PE_MACHINE: Final = {"amd64": 0x8664}
_PE_EXECUTABLE, _PE_DLL = 0x0002, 0x2000
_PE32_PLUS: Final = 0x20B
_CONSOLE: Final = 3
_SECTION_HEADER: Final = 40

_CUT_SHORT: Final = "it is cut short"


def check_program(data: bytes, platform: Platform, name: str) -> None:
    """Refuse a program that could not be started as the only file of an image.

    Total: any bytes either pass or are refused.

    Args:
        data: The program.
        platform: What it must run on: linux/amd64, linux/arm64 or windows/amd64.
        name: What to call it in the message.

    Raises:
        InvalidPauseProgramError: It is empty, cut short, of another format or processor, or needs
            a loader that an image may not have.
    """
    check = _pe_problem if platform.os == "windows" else _elf_problem
    try:
        problem = check(data, platform.architecture) if data else "it is empty"
    # The second is what an offset beyond 2**63 gives.
    except (struct.error, OverflowError):
        problem = _CUT_SHORT
    if problem:
        raise InvalidPauseProgramError(
            f"the pause program {name} cannot run on {platform}: {problem}; "
            "give a static executable for that platform"
        )


def _elf_problem(data: bytes, architecture: str) -> str:
    if data[:4] != b"\x7fELF":
        return "it is not an ELF file"
    if data[4:6] != b"\x02\x01":
        return "it is not a 64-bit little-endian ELF file"
    kind, machine, _, entry, table = struct.unpack_from("<HHIQQ", data, 16)
    if machine != _ELF_MACHINE[architecture]:
        return f"its machine is {machine}, and {architecture} is {_ELF_MACHINE[architecture]}"
    if kind not in {_EXECUTABLE, _SHARED} or not entry:
        return "it is a library or an object, not an executable"
    size, count = struct.unpack_from("<HH", data, 54)
    if size != _PROGRAM_HEADER:
        return "it has no program headers"
    return _segment_problem(data, [table + n * size for n in range(count)])


def _segment_problem(data: bytes, headers: list[int]) -> str:
    segments = [struct.unpack_from("<I4xQ16xQ", data, header) for header in headers]
    kinds = {kind for kind, _, _ in segments}
    if _PT_INTERP in kinds:
        return "it is linked dynamically, and its loader is not in every image"
    if _PT_LOAD not in kinds:
        return "nothing of it is loaded"
    loaded = [start + size for kind, start, size in segments if kind == _PT_LOAD]
    return _CUT_SHORT if max(loaded) > len(data) else ""


def _pe_problem(data: bytes, architecture: str) -> str:
    if data[:2] != b"MZ":
        return "it is not a PE file"
    (start,) = struct.unpack_from("<I", data, 0x3C)
    if data[start : start + 4] != b"PE\0\0":
        return "it is not a PE file"
    machine, sections, optional, flags, magic = struct.unpack_from("<HH12xHHH", data, start + 4)
    if (machine, magic) != (_PE_MACHINE[architecture], _PE32_PLUS):
        return f"its machine is {machine:#x} and its format {magic:#x}, which is not {architecture}"
    if not flags & _PE_EXECUTABLE or flags & _PE_DLL:
        return "it is a library or an object, not an executable"
    (subsystem,) = struct.unpack_from("<H", data, start + 24 + 68)
    if subsystem != _CONSOLE:
        return "it is not a console program, and would not be told when to end"
    table = start + 24 + optional
    return _section_problem(data, [table + n * _SECTION_HEADER for n in range(sections)])


def _section_problem(data: bytes, headers: list[int]) -> str:
    # The size in the file, and where it starts.
    ends = [sum(struct.unpack_from("<II", data, header + 16)) for header in headers]
    if not ends:
        return "nothing of it is loaded"
    return _CUT_SHORT if max(ends) > len(data) else ""
