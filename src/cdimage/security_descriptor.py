"""Windows security descriptors: who may do what with a file, as the bytes that Windows stores.

Everything is little-endian, but for a SID's authority, and a multiple of four bytes long.

Format: MS-DTYP 2.4.6 ``SECURITY_DESCRIPTOR`` in its self-relative form, with what it is made of:
2.4.2 ``SID``, 2.4.4 ``ACE``, 2.4.5 ``ACL``. Rights: MS-DTYP 2.4.3; for files, MS-SMB2 2.2.13.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

_SELF_RELATIVE, _DACL_PRESENT, _DACL_PROTECTED = 0x8000, 0x0004, 0x1000


class Access(IntFlag):
    """Rights to a file; what they are for a directory stands beside them (MS-DTYP 2.4.3)."""

    READ_DATA = 0x0001  # list
    WRITE_DATA = 0x0002  # add a file
    APPEND_DATA = 0x0004  # add a directory
    READ_EA = 0x0008
    WRITE_EA = 0x0010
    EXECUTE = 0x0020  # traverse
    DELETE_CHILD = 0x0040
    READ_ATTRIBUTES = 0x0080
    WRITE_ATTRIBUTES = 0x0100
    DELETE = 0x0001_0000
    READ_CONTROL = 0x0002_0000
    WRITE_DAC = 0x0004_0000
    WRITE_OWNER = 0x0008_0000
    SYNCHRONIZE = 0x0010_0000
    GENERIC_ALL = 0x1000_0000
    READ_AND_EXECUTE = READ_DATA | READ_EA | EXECUTE | READ_ATTRIBUTES | READ_CONTROL | SYNCHRONIZE
    FULL = 0x001F_01FF
    """Every right above but `GENERIC_ALL`, which each kind of object takes for all of its own."""


class Inherit(IntFlag):
    """Which new children of a directory get an entry of its list as well (MS-DTYP 2.4.4.1)."""

    NO = 0x00
    FILES = 0x01
    DIRECTORIES = 0x02
    ALL = FILES | DIRECTORIES
    ONLY = 0x08
    """The entry says nothing about the directory itself."""


@dataclass(frozen=True, slots=True)
class Sid:
    """A user or a group: ``S-1-<authority>-<part>-<part>...`` (MS-DTYP 2.4.2.2)."""

    authority: int
    parts: tuple[int, ...]

    def __bytes__(self) -> bytes:
        authority = self.authority.to_bytes(6, "big")
        return struct.pack(f"<BB6s{len(self.parts)}I", 1, len(self.parts), authority, *self.parts)


SYSTEM: Final = Sid(5, (18,))
"""The operating system itself; this and the next two: MS-DTYP 2.4.2.4."""
ADMINISTRATORS: Final = Sid(5, (32, 544))
"""``BUILTIN\\Administrators``; ``ContainerAdministrator`` is one."""
USERS: Final = Sid(5, (32, 545))
"""``BUILTIN\\Users``; ``ContainerUser``, whom Nano Server runs programs as, is one."""


@dataclass(frozen=True, slots=True)
class Allow:
    """An entry that gives rights: ``ACCESS_ALLOWED_ACE`` (MS-DTYP 2.4.4.2)."""

    who: Sid
    access: Access
    inherit: Inherit = Inherit.NO

    def __bytes__(self) -> bytes:
        sid = bytes(self.who)
        return struct.pack("<BBHI", 0, self.inherit, 8 + len(sid), self.access) + sid


@dataclass(frozen=True, slots=True)
class SecurityDescriptor:
    """Who owns a file and who has rights to it (MS-DTYP 2.4.6).

    Attributes:
        owner: May always change `dacl`.
        group: The primary group, which only POSIX programs look at.
        dacl: What no entry allows is denied, so an empty list denies everything. None is the
            absence of a list, and says nothing about who may do what.
        protected: Whether `dacl` is kept from what the directories above give to their children.
    """

    owner: Sid
    group: Sid
    dacl: tuple[Allow, ...] | None = None
    protected: bool = False

    def __bytes__(self) -> bytes:
        owner, group, dacl = bytes(self.owner), bytes(self.group), self._dacl_bytes()
        group_at = 20 + len(owner)
        dacl_at = group_at + len(group) if dacl else 0
        header = struct.pack("<BxHIIII", 1, self._control(), 20, group_at, 0, dacl_at)
        return header + owner + group + dacl

    def _control(self) -> int:
        present = 0 if self.dacl is None else _DACL_PRESENT
        return _SELF_RELATIVE | present | (_DACL_PROTECTED if self.protected else 0)

    def _dacl_bytes(self) -> bytes:
        """The list in its order (MS-DTYP 2.4.5); nothing where there is none."""
        if self.dacl is None:
            return b""
        entries = b"".join(map(bytes, self.dacl))
        return struct.pack("<BxHHxx", 2, 8 + len(entries), len(self.dacl)) + entries


PROGRAM_FILE: Final = SecurityDescriptor(
    owner=ADMINISTRATORS,
    group=SYSTEM,
    dacl=(
        Allow(ADMINISTRATORS, Access.FULL),
        Allow(SYSTEM, Access.FULL),
        Allow(USERS, Access.READ_AND_EXECUTE),
    ),
)
"""A program that every user may execute and only administrators may change."""

# Protected: C:\ gives users the right to add to what is below it, and tools pass such rights on.
PROGRAM_DIRECTORY: Final = SecurityDescriptor(
    owner=ADMINISTRATORS,
    group=SYSTEM,
    dacl=(
        Allow(ADMINISTRATORS, Access.FULL, Inherit.ALL),
        Allow(SYSTEM, Access.FULL, Inherit.ALL),
        Allow(USERS, Access.READ_AND_EXECUTE, Inherit.ALL),
    ),
    protected=True,
)
"""A directory of such programs, to which only administrators may add anything."""
