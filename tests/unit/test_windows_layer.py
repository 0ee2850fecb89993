"""The Windows layer, read by others: Python's tarfile, and a reader of descriptors made here.

What BuildKit and ko write is known to be imported and executed by Windows, so their descriptors
are the vectors: `util/winlayers/differ.go` of moby/buildkit, `pkg/build/gobuild.go` of ko-build/ko.
Not verified: Windows itself.
"""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import tarfile
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdimage.layer import pause_layer, pause_path
from cdimage.security_descriptor import (
    ADMINISTRATORS,
    PROGRAM_DIRECTORY,
    PROGRAM_FILE,
    SYSTEM,
    USERS,
    Access,
    Allow,
    Inherit,
    SecurityDescriptor,
    Sid,
)

BUILDKIT_FILE = base64.b64decode(
    "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAA"
    "AAAFIAAAACACAAAAABQA/wEfAAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA=="
)
BUILDKIT_DIRECTORY_SHA256 = "c44f4c7ca0538731a0cceee5c3a674d55da0e28638cdc70bc62dac062893c8a2"
KO = base64.b64decode("AQAAgBQAAAAkAAAAAAAAAAAAAAABAgAAAAAABSAAAAAhAgAAAQIAAAAAAAUgAAAAIQIAAA==")

CREATOR_OWNER = Sid(3, (0,))
TRUSTEES = {"S-1-5-32-544": "BA", "S-1-5-18": "SY", "S-1-5-32-545": "BU", "S-1-3-0": "CO"}
RIGHTS = {0x1F01FF: "FA", 0x10000000: "GA", 0x4: "LC", 0x2: "DC"}
# Data, append, EA, delete child, attributes, delete, DACL, owner; and what stands for all of them.
WRITING = 0x2 | 0x4 | 0x10 | 0x40 | 0x100 | 0x10000 | 0x40000 | 0x80000 | 0x40000000 | 0x10000000

FILE = "Files/.hpcc/pause.exe"
DIRECTORY = "Files/.hpcc"


def members(program: bytes = b"pause") -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(pause_layer(program, "windows").data), mode="r:") as tar:
        return tar.getmembers()


def descriptor_of(name: str) -> bytes:
    (member,) = (member for member in members() if member.name == name)
    return base64.b64decode(member.pax_headers["MSWINDOWS.rawsd"], validate=True)


def read_sid(data: bytes, start: int) -> tuple[str, int]:
    revision, count, high, low = struct.unpack_from(">BBHI", data, start)
    assert revision == 1
    parts = struct.unpack_from(f"<{count}I", data, start + 8)
    text = "-".join(map(str, ("S", revision, high << 32 | low, *parts)))
    return TRUSTEES.get(text, text), start + 8 + 4 * count


def read_dacl(data: bytes, start: int) -> tuple[list[tuple[int, int, str]], int]:
    """Flags, mask and trustee of every entry; and where the list ends."""
    revision, zero, size, count, zeros = struct.unpack_from("<BBHHH", data, start)
    assert (revision, zero, zeros) == (2, 0, 0)
    entries, at = [], start + 8
    for _ in range(count):
        kind, flags, length, mask = struct.unpack_from("<BBHI", data, at)
        trustee, end = read_sid(data, at + 8)
        assert (kind, end) == (0, at + length)
        entries.append((flags, mask, trustee))
        at = end
    assert at == start + size
    return entries, at


def entries_of(data: bytes) -> list[tuple[int, int, str]]:
    return read_dacl(data, struct.unpack_from("<I", data, 16)[0])[0]


def sddl(data: bytes) -> str:
    """What Windows' ConvertSecurityDescriptorToStringSecurityDescriptor would print."""
    revision, zero, control, owner_at, group_at, sacl, dacl_at = struct.unpack_from(
        "<BBHIIII", data
    )
    assert (revision, zero, sacl, owner_at) == (1, 0, 0, 20)
    owner, owner_end = read_sid(data, owner_at)
    group, group_end = read_sid(data, group_at)
    assert (owner_end, control & ~0x1004) == (group_at, 0x8000)
    text = f"O:{owner}G:{group}"
    if not control & 0x0004:
        assert (dacl_at, group_end) == (0, len(data))
        return text
    entries, end = read_dacl(data, dacl_at)
    assert (dacl_at, end) == (group_end, len(data))
    return text + "D:" + "P" * bool(control & 0x1000) + "".join(map(entry_text, entries))


def entry_text(entry: tuple[int, int, str]) -> str:
    flags, mask, trustee = entry
    assert not flags & ~0x0B
    inherit = "".join(name for bit, name in ((1, "OI"), (2, "CI"), (8, "IO")) if flags & bit)
    return f"(A;{inherit};{RIGHTS.get(mask, hex(mask))};;;{trustee})"


def test_the_program_has_the_descriptor_that_buildkit_gives_to_files() -> None:
    assert bytes(PROGRAM_FILE) == BUILDKIT_FILE
    assert descriptor_of(FILE) == BUILDKIT_FILE
    assert sddl(BUILDKIT_FILE) == "O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)"


def test_the_directory_has_a_descriptor_that_keeps_users_out() -> None:
    assert descriptor_of(DIRECTORY) == bytes(PROGRAM_DIRECTORY)
    assert sddl(descriptor_of(DIRECTORY)) == (
        "O:BAG:SYD:P(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;BU)"
    )


def test_a_descriptor_without_a_list_is_the_one_that_ko_writes() -> None:
    data = bytes(SecurityDescriptor(owner=USERS, group=USERS))
    assert data == KO
    assert sddl(data) == "O:BUG:BU"


def test_buildkits_directory_descriptor_can_be_made_from_its_meaning() -> None:
    data = bytes(
        SecurityDescriptor(
            owner=ADMINISTRATORS,
            group=SYSTEM,
            dacl=(
                Allow(ADMINISTRATORS, Access.FULL, Inherit.ALL),
                Allow(SYSTEM, Access.FULL, Inherit.ALL),
                Allow(ADMINISTRATORS, Access.FULL),
                Allow(CREATOR_OWNER, Access.GENERIC_ALL, Inherit.ALL | Inherit.ONLY),
                Allow(USERS, Access.READ_AND_EXECUTE, Inherit.ALL),
                Allow(USERS, Access.APPEND_DATA, Inherit.DIRECTORIES),
                Allow(USERS, Access.WRITE_DATA, Inherit.DIRECTORIES),
            ),
        )
    )
    assert sddl(data) == (
        "O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;FA;;;BA)(A;OICIIO;GA;;;CO)"
        "(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)(A;CI;DC;;;BU)"
    )
    assert len(data) == 216
    assert hashlib.sha256(data).hexdigest() == BUILDKIT_DIRECTORY_SHA256


def test_a_list_that_allows_nothing_is_not_the_absence_of_a_list() -> None:
    data = bytes(SecurityDescriptor(owner=SYSTEM, group=SYSTEM, dacl=()))
    assert sddl(data) == "O:SYG:SYD:"


sids = st.builds(
    Sid,
    st.integers(0, 2**48 - 1),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=15).map(tuple),
)


def text_of(sid: Sid) -> str:
    return read_sid(bytes(sid), 0)[0]


@given(sids, sids, st.lists(sids, max_size=5), st.booleans())
def test_whoever_is_named_is_read_back(
    owner: Sid, group: Sid, named: list[Sid], protected: bool
) -> None:
    dacl = tuple(Allow(sid, Access.FULL) for sid in named)
    text = sddl(bytes(SecurityDescriptor(owner, group, dacl, protected)))
    assert text == (
        f"O:{text_of(owner)}G:{text_of(group)}D:{'P' if protected else ''}"
        + "".join(f"(A;;FA;;;{text_of(sid)})" for sid in named)
    )


@given(st.integers(0, 2**48 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=15))
def test_a_sid_is_its_numbers(authority: int, parts: list[int]) -> None:
    numbers = "-".join(map(str, (authority, *parts)))
    text, end = read_sid(bytes(Sid(authority, tuple(parts))), 0)
    assert text == TRUSTEES.get(f"S-1-{numbers}", f"S-1-{numbers}")
    assert end == 8 + 4 * len(parts)


@pytest.mark.parametrize("name", [FILE, DIRECTORY])
def test_users_may_read_and_execute_and_nobody_but_administrators_may_write(name: str) -> None:
    entries = entries_of(descriptor_of(name))
    (users,) = (mask for _, mask, trustee in entries if trustee == "BU")
    assert users & (0x1 | 0x20) == 0x1 | 0x20
    assert not users & WRITING
    assert {trustee for _, mask, trustee in entries if mask & WRITING} == {"BA", "SY"}


def test_what_is_put_into_the_directory_later_gets_the_same_rights() -> None:
    assert all(flags == 0x1 | 0x2 for flags, _, _ in entries_of(descriptor_of(DIRECTORY)))


def test_another_reader_finds_the_entries_and_their_metadata_in_order() -> None:
    found = [(m.name, m.type, m.mode, m.size, list(m.pax_headers)) for m in members()]
    metadata = ["MSWINDOWS.fileattr", "MSWINDOWS.rawsd"]
    assert found == [
        ("Hives", tarfile.DIRTYPE, 0o755, 0, []),
        ("Files", tarfile.DIRTYPE, 0o755, 0, []),
        (DIRECTORY, tarfile.DIRTYPE, 0o755, 0, metadata),
        (FILE, tarfile.REGTYPE, 0o755, 5, metadata),
    ]


def test_the_attributes_are_those_of_a_directory_and_of_a_file() -> None:
    attributes = {m.name: m.pax_headers.get("MSWINDOWS.fileattr") for m in members()}
    assert attributes == {"Hives": None, "Files": None, DIRECTORY: "16", FILE: "32"}


def test_directories_end_in_a_slash_and_extended_headers_come_right_before_their_entries() -> None:
    data = pause_layer(b"pause", "windows").data
    headers = [data[at : at + 512] for at in range(0, len(data), 512)]
    found = [
        (header[156:157], header[:100].rstrip(b"\0"))
        for header in headers
        if header[257:265] == b"ustar\00000"
    ]
    assert found == [
        (b"5", b"Hives/"),
        (b"5", b"Files/"),
        (b"x", b"Files/PaxHeaders.0/.hpcc"),
        (b"5", b"Files/.hpcc/"),
        (b"x", b"Files/.hpcc/PaxHeaders.0/pause.exe"),
        (b"0", b"Files/.hpcc/pause.exe"),
    ]


def test_directories_come_before_what_is_in_them() -> None:
    names = [PurePosixPath(member.name) for member in members()]
    for place, name in enumerate(names):
        assert set(name.parents) - {PurePosixPath()} <= set(names[:place])


def test_no_name_comes_twice_or_is_taken_for_a_stream_of_another_file() -> None:
    names = [member.name for member in members()]
    assert len({name.lower() for name in names}) == len(names)
    assert not any(":" in name for name in names)


def test_the_program_lies_below_files_where_the_entrypoint_looks_on_the_drive() -> None:
    path = PureWindowsPath(pause_path("windows"))
    assert path.drive == "C:"
    assert members()[-1].name == "Files/" + path.relative_to(path.anchor).as_posix()


@given(st.binary(max_size=2000))
def test_the_layer_is_whole_blocks_and_ends_in_two_of_zeros(program: bytes) -> None:
    data = pause_layer(program, "windows").data
    assert len(data) % 512 == 0
    assert data[-1024:] == bytes(1024)
    assert members(program)[-1].size == len(program)
