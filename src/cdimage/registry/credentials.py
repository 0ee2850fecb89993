"""Credentials as Docker's tools keep them: ``config.json`` and the helper programs.

Format: docker/cli v27, ``cli/config/configfile``; docker/docker-credential-helpers v0.8.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cdimage.errors import PermissionDeniedError
from cdimage.reference import DEFAULT_REGISTRY

_LEGACY_KEY: Final = "https://index.docker.io/v1/"
_TOKEN_USER: Final = "<token>"  # noqa: S105 - the helpers' protocol, not a secret
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
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    path = Path(folder) / "config.json"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ANONYMOUS
    except OSError as error:
        raise PermissionDeniedError(f"{path} cannot be read: {error.strerror}") from None
    config = _parse(data, str(path))
    for key in _keys(registry):
        helper = _object(config, "credHelpers").get(key) or config.get("credsStore")
        if isinstance(helper, str) and helper:
            found = await _ask_helper(helper, key)
            if found:
                return found
    return _from_auths(_object(config, "auths"), registry, str(path))


def _keys(registry: str) -> list[str]:
    """The names under which credentials for a registry are kept."""
    legacy = [_LEGACY_KEY] if registry == DEFAULT_REGISTRY else []
    return [*legacy, registry]


def _from_auths(auths: Mapping[str, Any], registry: str, path: str) -> Credentials:
    for key, entry in auths.items():
        host = key.partition("://")[2] or key
        is_legacy = registry == DEFAULT_REGISTRY and key == _LEGACY_KEY
        if (is_legacy or host.split("/")[0] == registry) and isinstance(entry, dict):
            return _from_entry(entry, f"the entry {key!r} of {path}")
    return ANONYMOUS


def _from_entry(entry: Mapping[str, Any], where: str) -> Credentials:
    username, password = _text(entry, "username"), _text(entry, "password")
    if encoded := _text(entry, "auth"):
        try:
            decoded = base64.b64decode(encoded, validate=True).decode().rstrip("\0")
        except (binascii.Error, ValueError):
            raise PermissionDeniedError(
                f"{where} is not valid: log in to the registry again"
            ) from None
        username, _, password = decoded.partition(":")
    return Credentials(
        username, password, _text(entry, "identitytoken"), _text(entry, "registrytoken")
    )


async def _ask_helper(name: str, server: str) -> Credentials:
    program = shutil.which(f"docker-credential-{name}") if set(name) <= _HELPER_NAME else None
    if program is None:
        raise PermissionDeniedError(
            f"Docker's configuration names the credential helper {name!r}, "
            f"but there is no docker-credential-{name} on the PATH"
        )
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            output, errors = await process.communicate(server.encode())
    except TimeoutError:
        raise PermissionDeniedError(
            f"the credential helper {name!r} did not answer in {_HELPER_SECONDS:.0f} seconds"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        if _NOT_FOUND in output + errors:
            return ANONYMOUS
        raise PermissionDeniedError(f"the credential helper {name!r} failed for {server}")
    return _from_helper(_parse(output, f"the answer of the credential helper {name!r}"))


def _from_helper(answer: Mapping[str, Any]) -> Credentials:
    username, secret = _text(answer, "Username"), _text(answer, "Secret")
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)


def _parse(data: bytes, what: str) -> dict[str, Any]:
    """An object, or an error that shows none of it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PermissionDeniedError(f"{what} is not valid JSON, so no credentials can be read")
    return value


def _object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""
