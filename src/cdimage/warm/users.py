"""Whom a job runs as: what an image says of its user, looked up in its own files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cdimage.errors import InvalidReferenceError

_HIGHEST: Final = (1 << 31) - 1  # of runc (v1.1, libcontainer/user)


@dataclass(frozen=True, slots=True)
class User:
    """A user, as the kernel knows him.

    Attributes:
        uid: The user's number.
        gid: His group's.
        groups: More of his groups'.
        home: His directory.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def find_user(text: str, passwd: str, group: str) -> User:
    """Look up a user (image-spec v1.1, config.md, User).

    Args:
        text: ``user``, ``uid``, ``user:group``, ``uid:gid``, ``uid:group``, ``user:gid``, or "" for
            root.
        passwd: The image's ``/etc/passwd``; "" where it has none.
        group: The image's ``/etc/group``; "" where it has none.

    Raises:
        InvalidReferenceError: There is no such user or group in the image.
    """
    who, _, of = text.partition(":")
    found = _find_entry(who or "0", _entries(passwd, 7))
    if found is not None:
        name, uid, gid, home = found[0], int(found[2]), int(found[3]), found[5] or "/"
    else:
        name, uid, gid, home = "", _number(who or "0", "user", text), 0, "/"
    groups = list(_entries(group, 4))
    if of:
        entry = _find_entry(of, iter(groups))
        return User(uid, int(entry[2]) if entry else _number(of, "group", text), (), home)
    member_of = (int(entry[2]) for entry in groups if name and name in entry[3].split(","))
    return User(uid, gid, tuple(it for it in dict.fromkeys(member_of) if it != gid), home)


def _entries(text: str, fields: int) -> Iterator[list[str]]:
    """The lines that make sense, as lists of so many fields."""
    for line in text.splitlines():
        if ":" not in line:
            continue
        entry = line.strip().split(":")
        entry += [""] * (fields - len(entry))
        numbers = entry[2:4] if fields == 7 else entry[2:3]
        if all(_is_number(number) for number in numbers):
            yield entry


def _find_entry(who: str, entries: Iterator[list[str]]) -> list[str] | None:
    """The entry of a name, or else the first of a number."""
    by_number = None
    for entry in entries:
        if entry[0] == who:
            return entry
        if by_number is None and _is_number(who) and int(entry[2]) == int(who):
            by_number = entry
    return by_number


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _HIGHEST


def _number(text: str, kind: str, whole: str) -> int:
    if not _is_number(text):
        raise InvalidReferenceError(
            f"the image has no {kind} {text!r}, that {whole!r} asks for: name one of its own, or "
            "give a number"
        )
    return int(text)
