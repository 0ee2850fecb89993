"""Docker's credential helpers: programs that keep secrets for other programs.

Protocol: docker/docker-credential-helpers v0.8.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from typing import Final

from cdimage.errors import PermissionDeniedError
from cdimage.registry.credentials import ANONYMOUS, Credentials, parse_config, text_in

_TOKEN_USER: Final = "<token>"  # noqa: S105 - a marker, not a secret
_NOT_FOUND: Final = b"credentials not found"
_SECONDS: Final = 30.0
_OUTPUT_LIMIT: Final = 64 << 10
_CHUNK: Final = 64 << 10
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


async def ask_helper(name: str, server: str) -> Credentials:
    """Ask ``docker-credential-<name> get``; `ANONYMOUS` when it knows nothing of the server."""
    process = await _start_helper(name)
    try:
        async with asyncio.timeout(_SECONDS):
            output, errors = await _converse(process, server.encode())
    except TimeoutError:
        raise PermissionDeniedError(
            f"the credential helper {name!r} did not answer in {_SECONDS:.0f} seconds: "
            f"try `docker-credential-{name} get` by hand"
        ) from None
    else:
        await process.wait()
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
    username, secret = text_in(answer, "Username"), text_in(answer, "Secret")
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)


async def _converse(process: asyncio.subprocess.Process, question: bytes) -> tuple[bytes, bytes]:
    """Ask, and read the beginning of the answer; more would not be one."""
    assert process.stdin is not None  # noqa: S101 - they are pipes
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(question)
        process.stdin.close()
    return await asyncio.gather(_beginning(process.stdout), _beginning(process.stderr))


async def _beginning(stream: asyncio.StreamReader) -> bytes:
    """The first bytes of what a program prints; the rest is read and forgotten."""
    kept = b""
    while chunk := await stream.read(_CHUNK):
        kept = (kept + chunk)[:_OUTPUT_LIMIT]
    return kept


async def _start_helper(name: str) -> asyncio.subprocess.Process:
    program = shutil.which(f"docker-credential-{name}") if set(name) <= _NAME else None
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
