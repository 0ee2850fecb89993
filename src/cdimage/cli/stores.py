"""Which store a command works on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from cdimage.errors import InvalidReferenceError, PermissionDeniedError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from cdimage.cli.settings import Settings
    from cdimage.pause import PauseBinaries
    from cdimage.prepared_store import OpenSource, PreparedStore
    from cdimage.store import PreparedImage


@dataclass(frozen=True, slots=True)
class Pulling:
    """What a command that pulls adds to a store.

    Attributes:
        pause: The pause programs.
        open_source: Where images come from.
        prepared_registry: Where to look for prepared ones first.
    """

    pause: PauseBinaries | None = None
    open_source: OpenSource | None = None
    prepared_registry: str | None = None


@asynccontextmanager
async def open_store(
    settings: Settings, pulling: Pulling | None = None
) -> AsyncIterator[PreparedStore]:
    """Open the store that the options name, or the one that there is.

    Without a word about it that is the containerd at its usual address, if one answers there, or
    else the image layout in the user's data directory.

    Raises:
        InvalidReferenceError: There is no store of that kind.
    """
    named = settings.store or await _found(settings)
    async with open_named_store(named, settings, pulling) as store:
        yield store


@asynccontextmanager
async def open_named_store(
    named: str, settings: Settings, pulling: Pulling | None = None
) -> AsyncIterator[PreparedStore]:
    """Open the store of that name: ``containerd``, ``oci:DIR`` or ``registry:HOST/PREFIX``."""
    how = pulling or Pulling()
    kind, _, rest = named.partition(":")
    async with AsyncExitStack() as stack:
        if named == "containerd":
            from cdimage.containerd.store import Store  # noqa: PLC0415 - loads gRPC

            client = await stack.enter_async_context(settings.connect())
            yield Store(
                client,
                snapshotter=settings.snapshotter,
                pause=how.pause,
                open_source=how.open_source,
                prepared_registry=how.prepared_registry,
            )
        elif kind == "oci":
            from cdimage.layout.store import LayoutStore  # noqa: PLC0415

            yield LayoutStore(
                _path(rest),
                pause=how.pause,
                open_source=how.open_source,
                prepared_registry=how.prepared_registry,
            )
        elif kind == "registry" and rest:
            from cdimage.registry.client import Registry  # noqa: PLC0415 - loads an HTTP client
            from cdimage.registry.store import RegistryStore  # noqa: PLC0415

            registry = await stack.enter_async_context(Registry(insecure=settings.plain_http))
            yield RegistryStore(rest, registry, pause=how.pause, open_source=how.open_source)
        else:
            raise InvalidReferenceError(
                f"{named!r} is not a store: write containerd, oci:DIR or registry:HOST/PREFIX"
            )


async def list_images(settings: Settings) -> list[PreparedImage]:
    """The images of the store that the options name; containerd's, without all of its store."""
    named = settings.store or await _found(settings)
    if named == "containerd":
        from cdimage.containerd.listing import list_prepared  # noqa: PLC0415 - loads gRPC

        async with settings.connect() as client:
            return await list_prepared(client)
    async with open_named_store(named, settings) as store:
        return await store.list_images()


def _path(text: str) -> Path | None:
    """A directory; a shell leaves the ~ of ``oci:~/images`` as it is."""
    from pathlib import Path  # noqa: PLC0415 - takes long to load

    return Path(text).expanduser() if text else None


async def _found(settings: Settings) -> str:
    """The store that there is; one line says so where it is not containerd."""
    if settings.names_containerd:
        return "containerd"
    why = await _why_not_containerd(settings)
    if why is None:
        return "containerd"
    from cdimage.layout.store import default_path  # noqa: PLC0415 - needed here only

    path = default_path()
    click.echo(f"cdimage: {why}: using the image layout {path}", err=True)
    return f"oci:{path}"


async def _why_not_containerd(settings: Settings) -> str | None:
    from cdimage.containerd.client import DEFAULT_ADDRESS  # noqa: PLC0415 - loads gRPC

    if not os.path.exists(DEFAULT_ADDRESS):  # noqa: ASYNC240, PTH110 - looks at one name
        return f"there is no containerd at {DEFAULT_ADDRESS}"
    try:
        async with settings.connect() as client:
            await client.introspection.version()
    except UnavailableError:
        return f"no containerd answers at {DEFAULT_ADDRESS}"
    except PermissionDeniedError:
        return f"you may not use the containerd at {DEFAULT_ADDRESS}"
    return None
