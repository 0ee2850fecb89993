"""Credentials as Docker's tools keep them: ``config.json`` and the helper programs.

Format: docker/cli v27, ``cli/config/configfile``; docker/docker-credential-helpers v0.8.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cdimage.errors import PermissionDeniedError
from cdimage.reference import DEFAULT_REGISTRY

_LEGACY_KEY: Final = f"https://index.{DEFAULT_REGISTRY}/v1/"
_TOKEN_USER: Final = "<token>"  # noqa: S105 - a marker, not a secret
_NOT_FOUND: Final = b"credentials not found"
_HELPER_SECONDS: Final = 30.0
_HELPER_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry is told about who asks. Its text never shows a secret.

    Attributes:
        username: Or "".
        password: Or "".
        identity_token: A refresh token, which is exchanged for access; or "".
        registry_token: A bearer token, which is sent as it is; or "".
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)


ANONYMOUS: Final = Credentials()


async def find_credentials(registry: str) -> Credentials:
    """The user's credentials for a registry; `ANONYMOUS` where there are none.

    A helper for the registry goes before the helper for all, and that before the file itself.

    Raises:
        PermissionDeniedError: The file is there but cannot be understood, or a helper fails.
    """
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(_home(), ".docker")  # noqa: PTH118
    path = Path(folder) / "config.json"
    config = _load(path)
    helper, server = helper_for(config, registry)
    found = await _ask_helper(helper, server) if helper else ANONYMOUS
    return found or credentials_in(config, registry, str(path))


def helper_for(config: Mapping[str, Any], registry: str) -> tuple[str, str]:
    """The helper to ask, and by which name of the registry; the helper is "" for none."""
    keys = [registry, _LEGACY_KEY] if registry == DEFAULT_REGISTRY else [registry]
    own = _object(config, "credHelpers")
    for key in keys:
        if helper := _text(own, key):
            return helper, key
    return _text(config, "credsStore"), keys[-1]


def credentials_in(config: Mapping[str, Any], registry: str, where: str) -> Credentials:
    """The credentials in the file itself: under the host, or under an address of it.

    Args:
        config: The file's object.
        registry: As references name it.
        where: The file, for messages.

    Raises:
        PermissionDeniedError: The entry for the registry cannot be understood.
    """
    auths = _object(config, "auths")
    for key in _keys(registry):
        entry = auths.get(key)
        if isinstance(entry, dict) and entry:
            return _from_entry(entry, f"the entry {key!r} of {where}")
    return ANONYMOUS


def parse_config(data: bytes, what: str) -> dict[str, Any]:
    """Read an object, or raise an error that shows none of it.

    Raises:
        PermissionDeniedError: It is not a JSON object.
    """
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()  # refuses what no header can hold
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PermissionDeniedError(
            f"{what} is not valid JSON, so no credentials can be read: correct it"
        )
    return value


def _home() -> str:
    return os.path.expanduser("~")  # noqa: PTH111 - Path's raises where there is no home


def _load(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise PermissionDeniedError(
            f"{path} cannot be read, so there are no credentials: {error.strerror}"
        ) from None
    return parse_config(data, str(path))


def _keys(registry: str) -> list[str]:
    """The names under which credentials for a registry are kept, the usual one first."""
    names = [registry]
    if registry == DEFAULT_REGISTRY:
        names.append(f"index.{DEFAULT_REGISTRY}")
    forms = ("{}", "https://{}", "https://{}/", "https://{}/v1/", "https://{}/v1",
             "https://{}/v2/", "https://{}/v2", "http://{}", "http://{}/")  # fmt: skip
    keys = [form.format(name) for name in names for form in forms]
    return [_LEGACY_KEY, *keys] if registry == DEFAULT_REGISTRY else keys


def _from_entry(entry: Mapping[str, Any], where: str) -> Credentials:
    username, password = _text(entry, "username"), _text(entry, "password")
    if encoded := _text(entry, "auth"):
        try:
            decoded = base64.b64decode(encoded, validate=True).decode().rstrip("\0")
        except ValueError:
            decoded = ""
        username, colon, password = decoded.partition(":")
        if not colon:
            raise PermissionDeniedError(f"{where} is not valid: log in to the registry again")
    return Credentials(
        username,
        password,
        _text(entry, "identitytoken"),
        _header_text(_text(entry, "registrytoken"), where),
    )


def _header_text(text: str, where: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise PermissionDeniedError(f"{where} is not valid: log in to the registry again")
    return text


async def _ask_helper(name: str, server: str) -> Credentials:
    """Ask ``docker-credential-<name> get``; `ANONYMOUS` when it knows nothing of the server."""
    process = await _start_helper(name)
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            output, errors = await process.communicate(server.encode())
    except TimeoutError:
        raise PermissionDeniedError(
            f"the credential helper {name!r} did not answer in {_HELPER_SECONDS:.0f} seconds: "
            f"try `docker-credential-{name} get` by hand"
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        if _NOT_FOUND in output + errors:
            return ANONYMOUS
        raise PermissionDeniedError(
            f"the credential helper {name!r} failed for {server}: "
            f"try `docker-credential-{name} get` by hand"
        )
    answer = parse_config(output, f"the answer of the credential helper {name!r}")
    username, secret = _text(answer, "Username"), _text(answer, "Secret")
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)


async def _start_helper(name: str) -> asyncio.subprocess.Process:
    program = shutil.which(f"docker-credential-{name}") if set(name) <= _HELPER_NAME else None
    if program is None:
        raise PermissionDeniedError(
            f"Docker's configuration names the credential helper {name!r}, "
            f"but there is no docker-credential-{name} on the PATH: install it, or log in again"
        )
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            program, "get", stdin=pipe, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise PermissionDeniedError(
            f"the credential helper {program} cannot be started: {error.strerror}"
        ) from None


def _object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""
