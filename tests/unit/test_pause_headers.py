from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdimage.descriptor import Platform
from cdimage.errors import InvalidPauseProgramError, UnsupportedPlatformError
from cdimage.pause import PauseBinaries
from cdimage.pause.headers import check_program

PLATFORMS = [Platform.parse(text) for text in ("linux/amd64", "linux/arm64", "windows/amd64")]
FOLDER = Path(str(PauseBinaries.bundled().linux_amd64)).parent


@pytest.mark.parametrize("platform", PLATFORMS, ids=str)
def test_the_bundled_programs_fit_their_platforms_and_are_small(platform: Platform) -> None:
    program = PauseBinaries.bundled().read(platform)
    assert program.platform == platform
    assert 0 < len(program.data) <= 4096


def test_the_bundled_programs_are_those_of_the_committed_digests() -> None:
    lines = (FOLDER / "SHA256SUMS").read_text().split("\n")[:-1]
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FOLDER.iterdir()
        if path.name != "SHA256SUMS"
    }
    assert [f"{found[name]}  {name}" for name in sorted(found)] == sorted(
        lines, key=lambda line: line.split()[1]
    )


@pytest.mark.parametrize("platform", PLATFORMS, ids=str)
@pytest.mark.parametrize("other", PLATFORMS, ids=str)
def test_a_program_for_another_platform_is_refused(platform: Platform, other: Platform) -> None:
    data = PauseBinaries.bundled().read(other).data
    if platform == other:
        check_program(data, platform, "x")
        return
    with pytest.raises(InvalidPauseProgramError, match=f"x is not for {platform}"):
        check_program(data, platform, "x")


def test_a_platform_without_a_program_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(UnsupportedPlatformError, match="only for linux/amd64"):
        PauseBinaries(linux_amd64="x").read(Platform("linux", "arm64"))
    with pytest.raises(UnsupportedPlatformError, match="no platform"):
        PauseBinaries().read(Platform("linux", "amd64"))
    with pytest.raises(UnsupportedPlatformError, match="linux/riscv64"):
        PauseBinaries.bundled().read(Platform("linux", "riscv64"))


def test_a_variant_uses_the_program_of_its_architecture() -> None:
    assert PauseBinaries.bundled().read(Platform("linux", "arm64", "v9")).data


def test_a_program_that_needs_a_loader_is_refused() -> None:
    shell = Path("/bin/sh").read_bytes()
    with pytest.raises(InvalidPauseProgramError, match="dynamically"):
        check_program(shell, Platform("linux", "amd64"), "sh")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"\x7fELF", "64-bit"),
        (b"\x7fELF\x02\x01", "ends in the middle"),
        (b"\x7fELF\x01\x01" + bytes(100), "64-bit"),
        (b"\x7fELF\x02\x01" + bytes(100), "made for the ELF machine 0"),
        (b"#!/bin/sh\n", "not an ELF file"),
    ],
)
def test_what_is_not_a_program_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidPauseProgramError, match=why):
        check_program(data, Platform("linux", "amd64"), "x")


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (4, 0x14C, "PE machine"),
        (22, 0x2022, "not an executable"),
        (24, 0x10B, "not a 64-bit PE"),
        (24 + 68, 2, "not a console program"),
    ],
)
def test_a_windows_program_of_another_kind_is_refused(offset: int, value: int, why: str) -> None:
    windows = PLATFORMS[2]
    data = bytearray(PauseBinaries.bundled().read(windows).data)
    (start,) = struct.unpack_from("<I", data, 0x3C)
    struct.pack_into("<H", data, start + offset, value)
    with pytest.raises(InvalidPauseProgramError, match=why):
        check_program(bytes(data), windows, "x")


@given(st.binary(max_size=400), st.sampled_from(PLATFORMS), st.integers(0, 300))
def test_no_bytes_raise_anything_but_ours(noise: bytes, platform: Platform, at: int) -> None:
    real = bytearray(PauseBinaries.bundled().read(platform).data)
    real[at : at + len(noise)] = noise
    for data in (noise, bytes(real)):
        try:
            check_program(data, platform, "x")
        except InvalidPauseProgramError:
            continue
