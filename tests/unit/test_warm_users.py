"""Whom a job runs as, by the image's own files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cdimage
from cdimage.warm.users import User, find_user

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1::/usr/sbin
broken line
bad:x:many:1::/:
worker:x:1234:1000:A Worker:/home/worker:/bin/sh
7:x:70:71::/seven:
worker:x:9:9::/second:
"""
GROUP = """\
root:x:0:
daemon:x:1:worker,other
staff:x:1000:
extra:x:2000:other,worker
bad:x:many:worker
"""


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("root", User(0, 0, (), "/root")),
        ("worker", User(1234, 1000, (1, 2000), "/home/worker")),
        ("1234", User(1234, 1000, (1, 2000), "/home/worker")),
        ("worker:staff", User(1234, 1000, (), "/home/worker")),
        ("worker:extra", User(1234, 2000, (), "/home/worker")),
        ("worker:77", User(1234, 77, (), "/home/worker")),
        ("5555", User(5555, 0, (), "/")),
        ("5555:6666", User(5555, 6666, (), "/")),
        ("5555:extra", User(5555, 2000, (), "/")),
        ("7", User(70, 71, (), "/seven")),  # a name, before it is a number
        ("daemon", User(1, 1, (), "/usr/sbin")),
    ],
)
def test_users_are_found(text: str, user: User) -> None:
    assert find_user(text, PASSWD, GROUP) == user


@pytest.mark.parametrize("text", ["nobody", "worker:none", "-1", "0x1", "99999999999", "a b", "٣"])
def test_who_is_not_there_is_named(text: str) -> None:
    with pytest.raises(cdimage.InvalidReferenceError, match=r"the image has no (user|group)"):
        find_user(text, PASSWD, GROUP)


def test_an_image_without_files_knows_numbers() -> None:
    assert find_user("", "", "") == User(0, 0)
    assert find_user("5:6", "", "") == User(5, 6)


@given(st.text(max_size=20), st.text(max_size=200), st.text(max_size=200))
def test_no_files_are_a_surprise(text: str, passwd: str, group: str) -> None:
    try:
        user = find_user(text, passwd, group)
    except cdimage.InvalidReferenceError:
        return
    assert 0 <= user.uid < 1 << 31
    assert all(0 <= number < 1 << 31 for number in (user.gid, *user.groups))
