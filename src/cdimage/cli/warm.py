"""What the commands do that run jobs."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from cdimage import warm
from cdimage.cli.output import show_json
from cdimage.cli.progress import showing_progress
from cdimage.cli.settings import Settings
from cdimage.cli.terminal import is_interactive, pass_through
from cdimage.containerd.client import Client
from cdimage.containerd.store import Store
from cdimage.digest import Digest
from cdimage.errors import CdimageError, InvalidReferenceError, NotFoundError
from cdimage.reference import Reference
from cdimage.registry import Registry

OWN_FAILURE = 125
"""What `run` and `exec` return when cdimage failed, and not the job."""

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class BoxOptions:
    """What the command line says of a container."""

    memory: str | None = None
    cpus: float | None = None
    pids: int | None = None
    read_only: bool = False
    network: str | None = None
    mounts: tuple[str, ...] = ()
    lifetime: float | None = None


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the command line says of a job."""

    env: tuple[str, ...] = ()
    cwd: str | None = None
    user: str | None = None
    terminal: bool | None = None
    stdin: bool = True
    timeout: float | None = None
    command: Sequence[str] = field(default=())


async def run(settings: Settings, image: str, box: BoxOptions, job: JobOptions) -> int:
    """Prepare an image if need be, start it, run a job in it, and stop it."""
    try:
        async with settings.connect() as client:
            digest = await _prepare(client, settings, image)
            started = await _launch(client, settings, digest, box)
            async with started:
                return await _exec(started, job)
    except BrokenPipeError:
        raise
    except (CdimageError, OSError) as error:
        return _say(error)


async def start(settings: Settings, image: str, box: BoxOptions) -> None:
    """Prepare an image if need be, and start it; prints the container's id."""
    async with settings.connect() as client:
        digest = await _prepare(client, settings, image)
        started = await _launch(client, settings, digest, box)
        started.let_go()
        if settings.is_json:
            show_json({"id": started.id, "user_digest": started.user_digest})
        else:
            click.echo(started.id)


async def execute(settings: Settings, container: str, job: JobOptions) -> int:
    """Run a job in a container that runs."""
    try:
        async with settings.connect() as client, _attached(client, container) as box:
            return await _exec(box, job)
    except BrokenPipeError:
        raise
    except (CdimageError, OSError) as error:
        return _say(error)


async def stop(settings: Settings, containers: Sequence[str]) -> None:
    """Stop containers, and remove all that they had."""
    async with settings.connect() as client:
        for container in containers:
            await warm.stop(client, container)
            click.echo(f"stopped {container}")


def read_size(text: str) -> int:
    """A number of bytes, as 512m.

    Raises:
        InvalidReferenceError: It is none.
    """
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if not number[-1:].isdigit() else ""
    try:
        return int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise InvalidReferenceError(
            f"{text!r} is not a number of bytes: write 512m, or 2g"
        ) from None


def read_mount(text: str) -> warm.Mount:
    """A mount, as ``/source:/target[:ro]``, or ``tmpfs:/target``.

    Raises:
        InvalidReferenceError: It is none.
    """
    parts = text.split(":")
    if len(parts) == 2 and parts[0] == "tmpfs":
        return warm.Mount(parts[1])
    if len(parts) == 2 or (len(parts) == 3 and parts[2] in ("ro", "rw")):
        return warm.Mount(parts[1], str(Path(parts[0]).absolute()), read_only=parts[-1] == "ro")
    raise InvalidReferenceError(
        f"{text!r} is not a mount: write /source:/target, /source:/target:ro or tmpfs:/target"
    )


async def _prepare(client: Client, settings: Settings, image: str) -> str:
    """The user digest of an image that is prepared afterwards."""
    digest = _digest(image)
    async with Registry(insecure=settings.plain_http) as registry:
        store = Store(client, snapshotter=settings.snapshotter, open_source=registry.open)
        if digest is None:
            digest = await store.resolve_image(image)
        elif image == digest or Reference.parse(image).digest is None:
            return digest
        with showing_progress(quiet=not sys.stderr.isatty(), many=False) as display:
            await store.pull_image(image, digest, progress=display.image(image))
            display.end(image, "prepared")
    return digest


def _digest(image: str) -> str | None:
    """What an image is asked for by; None for a reference without a digest."""
    try:
        return str(Digest.parse(image))
    except InvalidReferenceError:
        found = Reference.parse(image).digest
        return str(found) if found else None


async def _launch(client: Client, settings: Settings, digest: str, options: BoxOptions) -> warm.Box:
    memory = read_size(options.memory) if options.memory else None
    default = warm.Limits()
    return await warm.launch(
        client,
        digest,
        limits=warm.Limits(memory, options.cpus, options.pids or default.pids),
        read_only=options.read_only,
        grants=warm.Grants(network=options.network),
        mounts=[read_mount(text) for text in options.mounts],
        lifetime=options.lifetime,
        snapshotter=settings.snapshotter,
    )


@asynccontextmanager
async def _attached(client: Client, container: str) -> AsyncIterator[warm.Box]:
    """A container by its id, or the beginning of it."""
    found = [it.id for it in await warm.list(client) if it.id.startswith(container)]
    named = found[0] if len(found) == 1 else container
    if len(found) > 1 and container not in found:
        raise NotFoundError(
            f"{container!r} is the beginning of {len(found)} containers: write more"
        )
    box = await warm.attach(client, named)
    try:
        yield box
    finally:
        box.let_go()


async def _exec(box: warm.Box, options: JobOptions) -> int:
    env = {}
    for entry in options.env:
        name, separator, value = entry.partition("=")
        if not name:
            raise InvalidReferenceError(f"{entry!r} is no variable: write NAME=VALUE, or NAME")
        env[name] = value if separator else os.environ.get(name, "")
    terminal = is_interactive() if options.terminal is None else options.terminal
    job = box.spawn(
        list(options.command),
        stdin=options.stdin,
        terminal=terminal,
        env=env,
        cwd=options.cwd,
        user=options.user,
    )
    end = await pass_through(job, terminal=terminal, seconds=options.timeout)
    if end.message:
        click.echo(f"cdimage: {end.message}", err=True)
    elif end.out_of_memory:
        click.echo("cdimage: the job was killed for want of memory", err=True)
    return end.exit_code


def _say(error: CdimageError | OSError) -> int:
    click.echo(f"cdimage: {error}", err=True)
    return OWN_FAILURE
