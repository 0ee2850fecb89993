"""Looks at containerd and at this machine, and says what is wrong and what to do about it."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from cdimage.cli.gunzip import best_gunzip, find_gunzip
from cdimage.cli.output import readable_size, show_json
from cdimage.cli.settings import Settings
from cdimage.cli.stores import open_store
from cdimage.containerd.client import Client
from cdimage.containerd.introspection import Plugins
from cdimage.containerd.store import Store
from cdimage.errors import CdimageError, NotFoundError
from cdimage.pause import PauseBinaries

_OLDEST: Final = (1, 6)
_LITTLE_SPACE: Final = 1 << 30
_PROBE_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        ok: Whether it is as it should be.
        found: What was seen.
        advice: What to do; "" where nothing is to be done.
    """

    what: str
    ok: bool
    found: str
    advice: str = ""


class UnhealthyError(CdimageError):
    """The doctor found something; it has been printed."""


async def doctor(settings: Settings) -> None:
    """Look at everything, print it, and fail if something is wrong."""
    if settings.store in {None, "containerd"}:
        async with settings.connect() as client:
            checks = [check async for check in _examine(settings, client)]
    else:
        checks = [_pause_programs(), await _store(settings)]
    if settings.is_json:
        show_json([asdict(check) for check in checks])
    else:
        for check in checks:
            mark = "ok   " if check.ok else "WRONG"
            click.echo(f"{mark}  {check.what}: {check.found}")
            if check.advice:
                click.echo(f"       → {check.advice}")
    wrong = [check.what for check in checks if not check.ok]
    if wrong:
        raise UnhealthyError(f"{len(wrong)} of {len(checks)} checks failed: {', '.join(wrong)}")


async def _examine(settings: Settings, client: Client) -> AsyncIterator[Check]:
    yield _pause_programs()
    try:
        version = await client.introspection.version()
    except CdimageError as error:
        yield Check("daemon", False, str(error), "see `systemctl status containerd`")
        return
    yield Check("daemon", True, f"containerd answers at {client.address}")
    yield _version(version)
    for check in _gunzip(client.address, version):
        yield check
    yield await _permission(client)
    yield await _namespace(client)
    plugins = await client.introspection.plugins()
    for plugin in plugins.snapshotters.values():
        if not plugin.error:
            yield Check("snapshotter", True, f"{plugin.id}{_root(plugin.exports)}")
    yield await _chosen_snapshotter(settings, client)
    for check in _disk(plugins):
        yield check


async def _store(settings: Settings) -> Check:
    """Whether a store that needs no containerd can be listed."""
    async with open_store(settings) as store:
        try:
            images = await store.get_existing_images()
        except CdimageError as error:
            return Check("store", False, str(error), "correct that, or name another with --store")
    return Check("store", True, f"{store.name} can be read; it has {len(images)} images")


def _pause_programs() -> Check:
    bundled = PauseBinaries.bundled()
    paths = [bundled.linux_amd64, bundled.linux_arm64, bundled.windows_amd64]
    missing = [str(path) for path in paths if path is None or not Path(path).is_file()]
    if missing:
        return Check("pause programs", False, "missing", "install cdimage again")
    return Check("pause programs", True, "linux/amd64, linux/arm64 and windows/amd64 are bundled")


def _version(version: str) -> Check:
    if _numbers(version) < _OLDEST:
        return Check("version", False, version, "cdimage needs containerd 1.6 or newer")
    return Check("version", True, version)


def _gunzip(address: str, version: str) -> list[Check]:
    """What layers are unpacked with; nothing where that cannot be seen from here."""
    numbers = _numbers(version)
    try:
        found = find_gunzip(address, numbers)
    except OSError:
        return []
    if found is not None:
        return [Check("gunzip", True, f"{found}, which is in containerd's PATH")]
    best = best_gunzip(numbers)
    advice = (
        f"install {best.program} (Debian's {best.package}) and restart containerd: "
        "pulling a large image then takes a quarter less, or more"
    )
    return [Check("gunzip", True, "containerd's own code, in one thread", advice)]


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor; the oldest that will do where a build of somebody's does not say."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else _OLDEST


async def _permission(client: Client) -> Check:
    """Make a lease and end it: the smallest write that there is."""
    try:
        await client.leases.delete(await client.leases.create(_PROBE_SECONDS))
    except CdimageError as error:
        return Check("permission", False, str(error), "run as a user who may change containerd")
    return Check("permission", True, "leases can be made and ended")


async def _namespace(client: Client) -> Check:
    there = client.namespace in await client.namespaces.names()
    found = client.namespace if there else f"{client.namespace} (is made by the first pull)"
    if client.namespace == "k8s.io":
        advice = "Kubernetes collects images here: a namespace of your own is safer"
        return Check("namespace", True, found, advice)
    return Check("namespace", True, found)


async def _chosen_snapshotter(settings: Settings, client: Client) -> Check:
    try:
        chosen = await Store(client, snapshotter=settings.snapshotter).get_snapshotter()
    except NotFoundError as error:
        return Check("chosen snapshotter", False, str(error), "name another with --snapshotter")
    return Check("chosen snapshotter", True, chosen)


def _disk(plugins: Plugins) -> list[Check]:
    """Free space under the daemon's directories, as far as they are on this machine."""
    roots = {plugin.exports.get("root", "") for plugin in plugins.plugins if not plugin.error}
    seen: dict[int, Check] = {}
    for root in sorted(path for path in map(Path, roots) if path.is_absolute() and path.is_dir()):
        free = shutil.disk_usage(root).free
        ok = free >= _LITTLE_SPACE
        advice = "" if ok else "untag images that are not used, or give it more space"
        check = Check("disk", ok, f"{readable_size(free)} free under {root}", advice)
        seen.setdefault(root.stat().st_dev, check)
    return list(seen.values())


def _root(exports: dict[str, str]) -> str:
    return f", in {exports['root']}" if exports.get("root") else ""
