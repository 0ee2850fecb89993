"""Credentials as Docker's and Podman's tools keep them: ``config.json`` and ``auth.json``.

Formats: docker/cli v27, ``cli/config/configfile``; containers/image v5.32,
``docs/containers-auth.json.5.md``.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cdimage.errors import PermissionDeniedError
from cdimage.reference import DEFAULT_REGISTRY

_LEGACY_KEY: Final = f"https://index.{DEFAULT_REGISTRY}/v1/"


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


def basic_header(credentials: Credentials) -> str:
    """The header of Basic authentication (RFC 7617)."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


async def find_credentials(registry: str, repository: str = "") -> Credentials:
    """The user's credentials for a repository; `ANONYMOUS` where there are none.

    The first of `credential_files` that has any decides. In a file, a helper for the registry
    goes before the helper for all, and that before the file's own entries, of which the one for
    the longest part of the name is taken.

    Args:
        registry: As references name it.
        repository: On it; "" for credentials of the whole registry.

    Raises:
        PermissionDeniedError: A file is there but cannot be understood, or a helper fails.
    """
    from cdimage.registry.credential_helper import ask_helper  # noqa: PLC0415 - rarely needed

    for path in credential_files():
        config = _load(path)
        helper, server = helper_for(config, registry)
        found = await ask_helper(helper, server) if helper else ANONYMOUS
        found = found or credentials_in(config, registry, repository, str(path))
        if found:
            return found
    return ANONYMOUS


def credential_files() -> tuple[Path, ...]:
    """Where people keep credentials: what the environment names first, then the usual places.

    ``$DOCKER_CONFIG/config.json`` and ``$REGISTRY_AUTH_FILE``, in place of
    ``~/.docker/config.json`` and Podman's ``auth.json``.
    """
    docker, podman = os.environ.get("DOCKER_CONFIG"), os.environ.get("REGISTRY_AUTH_FILE")
    named = [Path(docker) / "config.json"] if docker else []
    named += [Path(podman)] if podman else []
    home = Path(_home())
    usual = [] if docker else [home / ".docker" / "config.json"]
    if not podman:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        config = os.environ.get("XDG_CONFIG_HOME")
        usual += [Path(runtime) / "containers" / "auth.json"] if runtime else []
        usual.append((Path(config) if config else home / ".config") / "containers" / "auth.json")
    return (*named, *usual)


def helper_for(config: Mapping[str, Any], registry: str) -> tuple[str, str]:
    """The helper to ask, and by which name of the registry; the helper is "" for none."""
    keys = [registry, _LEGACY_KEY] if registry == DEFAULT_REGISTRY else [registry]
    own = object_in(config, "credHelpers")
    for key in keys:
        if helper := text_in(own, key):
            return helper, key
    return text_in(config, "credsStore"), keys[-1]


def credentials_in(
    config: Mapping[str, Any], registry: str, repository: str, where: str
) -> Credentials:
    """The credentials in the file itself: under a part of the name, or an address of the host.

    Args:
        config: The file's object.
        registry: As references name it.
        repository: On it, or "".
        where: The file, for messages.

    Raises:
        PermissionDeniedError: The entry for the registry cannot be understood.
    """
    auths = object_in(config, "auths")
    for key in (*_namespaces(registry, repository), *_keys(registry)):
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


def _namespaces(registry: str, repository: str) -> list[str]:
    """The repository and the folders that it lies in, the longest first."""
    parts = repository.split("/") if repository else []
    return ["/".join([registry, *parts[:length]]) for length in range(len(parts), 0, -1)]


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
    username, password = text_in(entry, "username"), text_in(entry, "password")
    if encoded := text_in(entry, "auth"):
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
        text_in(entry, "identitytoken"),
        _header_text(text_in(entry, "registrytoken"), where),
    )


def _header_text(text: str, where: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise PermissionDeniedError(f"{where} is not valid: log in to the registry again")
    return text


def object_in(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; empty where there is none."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def text_in(value: Mapping[str, Any], key: str) -> str:
    """The text under a key; "" where there is none."""
    found = value.get(key)
    return found if isinstance(found, str) else ""
