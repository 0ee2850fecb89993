"""What is taken for a pause program, what is refused and why; and that what we ship is sound."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdimage.descriptor import Platform
from cdimage.digest import Digest
from cdimage.errors import InvalidPauseProgramError, UnsupportedPlatformError
from cdimage.pause import PauseBinaries
from cdimage.pause.headers import check_program

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
WINDOWS = Platform("windows", "amd64")
FILES = {AMD64: "linux_amd64", ARM64: "linux_arm64", WINDOWS: "windows_amd64.exe"}

platforms = pytest.mark.parametrize("platform", FILES, ids=str)
linux = pytest.mark.parametrize("platform", [AMD64, ARM64], ids=str)


def bundled(platform: Platform) -> bytes:
    return PauseBinaries.bundled().read(platform).data


def changed(platform: Platform, offset: int, value: bytes) -> bytes:
    data = bytearray(bundled(platform))
    data[offset : offset + len(value)] = value
    return bytes(data)


def refusal(data: bytes, platform: Platform) -> str:
    with pytest.raises(InvalidPauseProgramError) as caught:
        check_program(data, platform, "/opt/pause")
    text = str(caught.value)
    assert text.startswith("the pause program /opt/pause cannot run on ")
    assert "\n" not in text
    return text


def segments(platform: Platform) -> list[tuple[int, ...]]:
    """Type, flags, offset, address, (physical), size in the file, in memory, alignment."""
    data = bundled(platform)
    (table,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    return [struct.unpack_from("<IIQQQQQQ", data, table + 56 * n) for n in range(count)]


def pe_start() -> int:
    (start,) = struct.unpack_from("<I", bundled(WINDOWS), 0x3C)
    assert isinstance(start, int)
    return start


@platforms
def test_each_bundled_program_passes_and_is_at_most_four_kibibytes(platform: Platform) -> None:
    program = PauseBinaries.bundled().read(platform)
    assert program.platform == platform
    assert program.digest == Digest.of(program.data)
    assert len(program.data) <= 4096
    assert b"cdimage-pause " in program.data


@platforms
def test_no_bundled_program_names_a_path_or_a_source(platform: Platform) -> None:
    assert not any(word in bundled(platform) for word in (b"/", b"pause_", b".pdb", b"zig"))


@platforms
def test_the_sums_that_ship_are_those_of_the_programs(platform: Platform) -> None:
    path = PauseBinaries.bundled().linux_amd64
    assert path is not None
    folder = Path(path).parent
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert f"{hashlib.sha256(bundled(platform)).hexdigest()}  {FILES[platform]}" in lines
    assert len(lines) == len(FILES)
    assert {path.name for path in folder.iterdir()} == {"SHA256SUMS", *FILES.values()}


@linux
def test_no_memory_of_the_linux_programs_is_both_writable_and_executable(
    platform: Platform,
) -> None:
    executable, writable, stack = 1, 2, 0x6474E551
    flags = {kind: flag for kind, flag, *_ in segments(platform)}
    assert not any(flag & executable and flag & writable for _, flag, *_ in segments(platform))
    assert flags[stack] & executable == 0


@linux
def test_the_linux_programs_can_be_mapped_by_kernels_with_pages_of_64_kibibytes(
    platform: Platform,
) -> None:
    page = 65536
    loaded = [segment for segment in segments(platform) if segment[0] == 1]
    pages = [range(address // page, (address + size) // page + 1)
             for _, _, _, address, _, _, size, _ in loaded]  # fmt: skip
    assert all(offset % page == address % page for _, _, offset, address, *_ in loaded)
    assert len({page for span in pages for page in span}) == sum(map(len, pages))


def test_the_windows_program_is_relocatable_and_its_data_is_not_executable() -> None:
    (characteristics,) = struct.unpack_from("<H", bundled(WINDOWS), pe_start() + 24 + 70)
    high_entropy, dynamic_base, no_execute = 0x20, 0x40, 0x100
    assert characteristics & 0x160 == high_entropy | dynamic_base | no_execute


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x7fELF\x02\x01", b"MZ"]),
       st.sampled_from(list(FILES)))  # fmt: skip
def test_any_bytes_are_refused_in_one_sentence(
    data: bytes, start: bytes, platform: Platform
) -> None:
    assert refusal(start + data, platform).endswith("give a static executable for that platform")


@given(st.sampled_from(list(FILES)), st.integers(0, 500), st.binary(min_size=1, max_size=12))
def test_a_program_with_any_bytes_changed_passes_or_is_refused(
    platform: Platform, offset: int, value: bytes
) -> None:
    with contextlib.suppress(InvalidPauseProgramError):
        check_program(changed(platform, offset, value), platform, "/opt/pause")


@platforms
def test_a_program_that_is_cut_short_anywhere_is_refused(platform: Platform) -> None:
    data = bundled(platform)
    needed = len(data)
    if platform != WINDOWS:  # what follows the segments of an ELF file is not loaded
        needed = max(offset + size for _, _, offset, _, _, size, _, _ in segments(platform))
    for size in range(needed):
        refusal(data[:size], platform)
    check_program(data[:needed], platform, "/opt/pause")


@pytest.mark.parametrize("other", FILES, ids=str)
@platforms
def test_a_program_passes_for_its_own_platform_only(platform: Platform, other: Platform) -> None:
    if platform == other:
        check_program(bundled(platform), other, "/opt/pause")
    else:
        assert f"cannot run on {other}: " in refusal(bundled(platform), other)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"#!/b", "it is not an ELF file"),
        (4, b"\x01", "not a 64-bit little-endian"),
        (5, b"\x02", "not a 64-bit little-endian"),
        (16, b"\x01\x00", "a library or an object"),
        (18, b"\xb7\x00", "its machine is 183, and amd64 is 62"),
        (24, bytes(8), "a library or an object"),
        (32, b"\xff" * 8, "cut short"),
        (54, b"\x20\x00", "no program headers"),
        (56, b"\x00\x00", "nothing of it is loaded"),
        (56, b"\xff\xff", "cut short"),
        (64, b"\x03", "linked dynamically"),
        (64 + 56 + 32, b"\xff" * 8, "cut short"),
    ],
)
def test_an_elf_that_cannot_run_is_refused_with_the_reason(
    offset: int, value: bytes, reason: str
) -> None:
    assert reason in refusal(changed(AMD64, offset, value), AMD64)


def test_a_position_independent_static_executable_passes() -> None:
    check_program(changed(AMD64, 16, b"\x03\x00"), AMD64, "/opt/pause")


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"NE", "not a PE file"),
        (4, b"\x64\xaa", "its machine is 0xaa64"),
        (6, b"\x00\x00", "nothing of it is loaded"),
        (6, b"\xff\xff", "cut short"),
        (22, b"\x20\x00", "a library or an object"),
        (22, b"\x22\x20", "a library or an object"),
        (24, b"\x0b\x01", "its format 0x10b"),
        (24 + 68, b"\x02\x00", "not a console program"),
    ],
)
def test_a_pe_that_cannot_run_is_refused_with_the_reason(
    offset: int, value: bytes, reason: str
) -> None:
    assert reason in refusal(changed(WINDOWS, pe_start() + offset, value), WINDOWS)


def test_a_pe_whose_header_lies_far_outside_is_refused() -> None:
    assert "not a PE file" in refusal(changed(WINDOWS, 0x3C, b"\xff" * 4), WINDOWS)


def test_a_dos_program_is_refused() -> None:
    assert "not a PE file" in refusal(changed(WINDOWS, 0, b"ZM"), WINDOWS)


@pytest.mark.parametrize("unset", [None, ""])
def test_a_platform_without_a_program_is_refused_with_those_that_have_one(
    unset: str | None,
) -> None:
    programs = PauseBinaries(linux_amd64=unset, linux_arm64="/opt/arm", windows_amd64="/opt/win")
    with pytest.raises(UnsupportedPlatformError) as caught:
        programs.read(AMD64)
    assert str(caught.value) == (
        "there is no pause program for linux/amd64, only for linux/arm64, windows/amd64"
    )
    with pytest.raises(UnsupportedPlatformError, match="linux/s390x, only for linux/amd64, linux"):
        PauseBinaries.bundled().read(Platform("linux", "s390x"))


def test_the_variant_of_a_platform_does_not_matter() -> None:
    assert PauseBinaries.bundled().read(Platform("linux", "arm64", "v9")).platform == ARM64


def test_a_program_that_cannot_be_read_is_refused_with_its_path(tmp_path: Path) -> None:
    for path, reason in {
        str(tmp_path / "none"): "No such file or directory",
        str(tmp_path): "Is a directory",
        "a\0b": "embedded null byte",
    }.items():
        with pytest.raises(InvalidPauseProgramError, match=reason) as caught:
            PauseBinaries(linux_amd64=path).read(AMD64)
        assert repr(path) in str(caught.value)


def test_an_empty_program_and_one_of_more_than_8_mib_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pause"
    path.touch()
    with pytest.raises(InvalidPauseProgramError, match="it is empty"):
        PauseBinaries(linux_amd64=path).read(AMD64)
    size = 8 << 20
    path.write_bytes(bundled(AMD64).ljust(size, b"\0"))
    assert len(PauseBinaries(linux_amd64=path).read(AMD64).data) == size
    path.write_bytes(bundled(AMD64).ljust(size + 1, b"\0"))
    with pytest.raises(InvalidPauseProgramError, match="larger than 8 MiB"):
        PauseBinaries(linux_amd64=path).read(AMD64)
