"""The command that pulls: what its options mean, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdimage.cli.batch import (
    Wish,
    check_several,
    pull_all,
    pull_one,
    read_references,
    show_results,
)
from cdimage.cli.output import as_json, show_fields, show_json
from cdimage.cli.progress import showing_progress
from cdimage.cli.settings import Settings
from cdimage.cli.stores import Pulling, open_store
from cdimage.descriptor import Platform
from cdimage.errors import InvalidReferenceError, UnsupportedPlatformError
from cdimage.pause import PauseBinaries
from cdimage.preparation import Inject
from cdimage.resolve import Wanted

if TYPE_CHECKING:
    from cdimage.prepared_store import OpenSource
    from cdimage.reference import Reference
    from cdimage.registry import Registry
    from cdimage.registry.credentials import Credentials
    from cdimage.store import Source


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What the command line says of a pull."""

    references: tuple[str, ...]
    files: tuple[str, ...]
    digest: str | None
    platforms: tuple[str, ...]
    inject: str
    prepared_registry: str | None
    hosts_dirs: tuple[str, ...]
    pause: str | None
    check_access: bool
    quiet: bool


async def pull(settings: Settings, options: PullOptions) -> int:
    """Pull and prepare images; the exit code."""
    references = _references(options)
    check_several(references, options.digest)
    wanted = _wanted(options.platforms)
    programs = _pause_programs(options.pause, wanted)
    wish = Wish(wanted, Inject(options.inject), options.check_access)
    is_batch = len(references) > 1 or bool(options.files) or "-" in options.references
    async with AsyncExitStack() as stack:
        open_source = await stack.enter_async_context(_registries(settings, options.hosts_dirs))
        pulling = Pulling(programs, open_source, options.prepared_registry)
        store = await stack.enter_async_context(open_store(settings, pulling))
        with showing_progress(quiet=options.quiet, many=is_batch) as display:
            if is_batch:
                results = await pull_all(store, references, wish, display)
            else:
                image = await pull_one(store, references[0], options.digest, wish, display)
    if is_batch:
        return show_results(results, is_json=settings.is_json)
    if settings.is_json:
        show_json(as_json(image))
    else:
        show_fields([("prepared", image.name), ("user digest", str(image.user_digest))])
    return 0


@asynccontextmanager
async def _registries(settings: Settings, hosts_dirs: Sequence[str]) -> AsyncIterator[OpenSource]:
    """Opens what references name; what speaks to registries is loaded for the first of them."""
    async with AsyncExitStack() as stack:
        opened: list[Registry] = []

        def open_source(reference: Reference, credentials: Credentials | None) -> Source:
            if not opened:
                from cdimage.registry import HOSTS_FOLDERS, Registry  # noqa: PLC0415

                folders = [Path(path) for path in hosts_dirs] or HOSTS_FOLDERS
                registry = Registry(insecure=settings.plain_http, hosts_folders=folders)
                stack.push_async_callback(registry.close)
                opened.append(registry)
            return opened[0].open(reference, credentials)

        yield open_source


def _references(options: PullOptions) -> list[str]:
    """Those of the command line, where ``-`` is standard input, and those of the files."""
    found: list[str] = []
    for text in options.references:
        found += read_references(sys.stdin) if text == "-" else [text]
    for path in options.files:
        with click.open_file(path, encoding="utf-8") as file:
            found += read_references(file)
    return found


def _wanted(platforms: Sequence[str]) -> Wanted:
    if "all" in platforms:
        if len(platforms) > 1:
            raise InvalidReferenceError("--platform all is for every platform: name no other")
        return "all"
    parsed = [Platform.parse(text) for text in platforms]
    return parsed[0] if len(parsed) == 1 else tuple(parsed) or None


def _pause_programs(path: str | None, platform: Wanted) -> PauseBinaries:
    bundled = PauseBinaries.bundled()
    if path is None:
        return bundled
    if not isinstance(platform, Platform):
        raise InvalidReferenceError("--pause needs --platform, which says what the program is for")
    if not Path(path).is_file():
        raise InvalidReferenceError(f"the pause program {path} is not there")
    key = f"{platform.os}_{platform.architecture}"
    if key not in {field.name for field in fields(PauseBinaries)}:
        raise UnsupportedPlatformError(f"images for {platform} cannot be prepared")
    return PauseBinaries(**{key: path})
