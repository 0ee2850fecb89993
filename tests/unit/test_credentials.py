from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdimage.errors import PermissionDeniedError
from cdimage.registry.challenge import Challenge, parse_challenges
from cdimage.registry.credentials import ANONYMOUS, Credentials, find_credentials

SECRET = "hunter2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def write(folder: Path, value: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(value))


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str = "test") -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\nread -r server\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


async def test_without_a_configuration_everybody_is_anonymous(folder: Path) -> None:
    assert await find_credentials("registry.example") == ANONYMOUS


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("registry.example", "registry.example"),
        ("registry.example:5000", "registry.example:5000"),
        ("https://registry.example", "registry.example"),
        ("https://registry.example/v1/", "registry.example"),
        ("https://index.docker.io/v1/", "docker.io"),
    ],
)
async def test_every_form_of_a_key_is_found(folder: Path, key: str, registry: str) -> None:
    auth = base64.b64encode(f"me:{SECRET}\0\0".encode()).decode()
    write(folder, {"auths": {"other.example": {"auth": "eDp5"}, key: {"auth": auth}}})
    assert await find_credentials(registry) == Credentials("me", SECRET)
    assert await find_credentials("third.example") == ANONYMOUS


async def test_a_helper_for_the_registry_goes_before_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(
        folder, monkeypatch, f'echo "{{\\"Username\\":\\"$server\\",\\"Secret\\":\\"{SECRET}\\"}}"'
    )
    write(
        folder,
        {
            "credHelpers": {"registry.example": "test"},
            "auths": {"registry.example": {"username": "file", "password": "file"}},
        },
    )
    assert await find_credentials("registry.example") == Credentials("registry.example", SECRET)


async def test_a_helper_that_knows_nothing_leaves_it_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(folder, monkeypatch, "echo credentials not found in native keychain; exit 1")
    write(
        folder,
        {"credsStore": "test", "auths": {"registry.example": {"username": "u", "password": "p"}}},
    )
    assert await find_credentials("registry.example") == Credentials("u", "p")


async def test_a_helpers_token_is_an_identity_token(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(folder, monkeypatch, f'echo \'{{"Username":"<token>","Secret":"{SECRET}"}}\'')
    write(folder, {"credsStore": "test"})
    assert await find_credentials("registry.example") == Credentials(identity_token=SECRET)


@pytest.mark.parametrize(
    ("config", "script", "why"),
    [
        ("{", "", "not valid JSON"),
        ("[]", "", "not valid JSON"),
        ('{"auths":{"r.example":{"auth":"%%%"}}}', "", "log in"),
        ('{"credsStore":"missing"}', "", "no docker-credential-missing"),
        ('{"credsStore":"../evil"}', "", "no docker-credential-"),
        ('{"credsStore":"test"}', f"echo {SECRET}; exit 3", "failed for r.example"),
        ('{"credsStore":"test"}', f"echo {SECRET}", "not valid JSON"),
    ],
)
async def test_what_cannot_be_understood_is_an_error_without_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: str, script: str, why: str
) -> None:
    helper(folder, monkeypatch, script)
    (folder / "config.json").write_text(config)
    with pytest.raises(PermissionDeniedError, match=why) as caught:
        await find_credentials("r.example")
    assert SECRET not in str(caught.value)


def test_credentials_do_not_show_their_secrets() -> None:
    shown = repr(Credentials("me", SECRET, SECRET, SECRET))
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="x"'], [Challenge("basic", {"realm": "x"})]),
        (
            ['bEaReR Realm="https://a/t?x=1,2",service=s , scope="repository:a:pull,push"'],
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://a/t?x=1,2",
                        "service": "s",
                        "scope": "repository:a:pull,push",
                    },
                )
            ],
        ),
        (
            ['Basic realm="a\\"b", Bearer realm="c"'],
            [Challenge("basic", {"realm": 'a"b'}), Challenge("bearer", {"realm": "c"})],
        ),
        (
            ["Negotiate", "Basic realm=x"],
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})],
        ),
        ([""], []),
        (['"'], []),
    ],
)
def test_challenges_are_read_as_servers_write_them(
    headers: list[str], expected: list[Challenge]
) -> None:
    assert parse_challenges(headers) == expected


@given(st.lists(st.text() | st.from_regex(r'[A-Za-z]* *([a-z]+="?[a-z,"\\]*"?,?)*'), max_size=3))
def test_no_challenge_raises_anything(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()
