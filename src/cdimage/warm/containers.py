"""Starting containers from prepared images, and finding them again."""

from __future__ import annotations

import asyncio
import resource
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cdimage.containerd.client import Client
from cdimage.containerd.containers import ContainerRecord, Runtime
from cdimage.containerd.tasks import Status
from cdimage.errors import BackendError, InvalidReferenceError, NotFoundError
from cdimage.layer import pause_path
from cdimage.threads import finish
from cdimage.warm.box import STOP_SECONDS, Box
from cdimage.warm.image import StartableImage, find_image
from cdimage.warm.listing import list_boxes
from cdimage.warm.options import Grants, Limits, Mount, UserNamespace
from cdimage.warm.remapped import remapped_snapshot
from cdimage.warm.removal import clean_up_after_the_dead, remove
from cdimage.warm.settings import DIGEST_LABEL, FOLDER_LABEL, LABEL, Settings
from cdimage.warm.spec import Plan, container_spec, merged_env

FOLDER: Final = Path("/run/cdimage")

_HOSTNAME: Final = "box"
_OPEN_FILES: Final = 524_288  # what systemd gives its services


@asynccontextmanager
async def start(  # noqa: PLR0913 - each is something to ask for
    client: Client,
    user_digest: str,
    *,
    limits: Limits | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    hostname: str | None = None,
    mounts: Sequence[Mount] = (),
    read_only: bool = False,
    grants: Grants | None = None,
    user_namespace: UserNamespace | None = None,
    lifetime: float | None = None,
    labels: Mapping[str, str] | None = None,
    snapshotter: str | None = None,
    runtime: Runtime | None = None,
    folder: Path = FOLDER,
) -> AsyncIterator[Box]:
    """Start a container from a prepared image, and stop it at the end.

    Arguments, errors and guarantees are those of `launch`.
    """
    box = await launch(
        client,
        user_digest,
        limits=limits,
        env=env,
        cwd=cwd,
        user=user,
        hostname=hostname,
        mounts=mounts,
        read_only=read_only,
        grants=grants,
        user_namespace=user_namespace,
        lifetime=lifetime,
        labels=labels,
        snapshotter=snapshotter,
        runtime=runtime,
        folder=folder,
    )
    async with box:
        yield box


async def launch(  # noqa: PLR0913 - each is something to ask for
    client: Client,
    user_digest: str,
    *,
    limits: Limits | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    hostname: str | None = None,
    mounts: Sequence[Mount] = (),
    read_only: bool = False,
    grants: Grants | None = None,
    user_namespace: UserNamespace | None = None,
    lifetime: float | None = None,
    labels: Mapping[str, str] | None = None,
    snapshotter: str | None = None,
    runtime: Runtime | None = None,
    folder: Path = FOLDER,
) -> Box:
    """Start a container from a prepared image; it runs until it is stopped.

    Its first process is the pause program, as nobody. It has no network, may not gain privileges,
    and sees nothing of the node; what it is granted beyond that is in the arguments. Cancelled, or
    after an error, nothing of it is left; killed, a record that `reap` finds.

    Args:
        client: From `connect`; this process must be root on the daemon's node.
        user_digest: Of an image that was prepared: the key of everything.
        limits: What all of its processes together may use.
        env: Variables for its jobs, beside the image's or in their place.
        cwd: Where jobs run; None is where the image says, or ``/``.
        user: Whom jobs run as, as image configs write it; None is the image's, or root.
        hostname: None is ``box``.
        mounts: Beside the kernel's own file systems.
        read_only: Mount its root file system for reading only; see `Mount` for files in memory.
        grants: What it may do beyond the default.
        user_namespace: Make its users others on the node. The first such container of an image
            takes as long as changing the owner of all of the image's files.
        lifetime: After how many seconds it ends by itself, even when nobody is there any more;
            None is never. Takes the bundled pause program.
        labels: To find it again by.
        snapshotter: The one that the image was unpacked into; None is the only one, or the
            daemon's own.
        runtime: None is runc.
        folder: Where the FIFOs of its jobs are made, by root, on the daemon's node.

    Raises:
        NotFoundError: The image is not prepared, or not unpacked into that snapshotter.
        InvalidReferenceError: The user is not in the image, or another argument makes no sense.
        UnavailableError: containerd does not answer.
        BackendError: The runtime could not start it.
        PermissionDeniedError, OSError: This process may not do what it takes.
    """
    if lifetime is not None and not 1 <= lifetime <= 1 << 31:
        raise InvalidReferenceError(f"{lifetime} seconds are no lifetime: 1 is the least")
    image = await find_image(client, user_digest, snapshotter)
    container = f"warm-{secrets.token_hex(8)}"
    home = folder / client.namespace / container
    settings = Settings(
        image.user if user is None else user,
        merged_env(image.env, env or {}),
        cwd or image.cwd,
        grants or Grants(),
        min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], _OPEN_FILES),
    )
    plan = Plan(
        arguments=_pause(lifetime),
        settings=settings,
        hostname=hostname or _HOSTNAME,
        cgroups_path=_cgroups_path(client.namespace, container, runtime),
        limits=limits or Limits(),
        mounts=[Mount("/etc/hosts", str(home / "hosts"), read_only=True), *mounts],
        read_only=read_only,
        user_namespace=user_namespace,
    )
    record = ContainerRecord(
        id=container,
        image=image.name,
        spec=container_spec(plan, image.machine),
        snapshotter=image.snapshotter,
        snapshot_key=container,
        labels={
            **(labels or {}),
            LABEL: "1",
            DIGEST_LABEL: image.user_digest,
            FOLDER_LABEL: str(home),
        },
        runtime=runtime or Runtime(),
    )
    launching = asyncio.create_task(_launch(client, record, image, plan, home))
    try:
        return await finish(launching)
    except asyncio.CancelledError:
        if launching.exception() is None:
            await launching.result().stop()
        raise


async def attach(client: Client, container: str) -> Box:
    """Use a container that another process started, or this one before it was killed.

    Jobs of processes that were killed are ended, with all that they started.

    Raises:
        NotFoundError: There is none of that id, or it has ended.
    """
    record = await client.containers.get(container)
    process = await client.tasks.get(container)
    if record is None or LABEL not in record.labels:
        raise NotFoundError(f"there is no warm container {container!r}: see `cdimage ps`")
    if process is None or process.status is not Status.RUNNING:
        raise NotFoundError(f"the container {container} has ended: stop it, and start another")
    await clean_up_after_the_dead(client, record, process.pid)
    return Box(client, record, process.pid)


async def stop(client: Client, container: str, *, seconds: float = STOP_SECONDS) -> None:
    """End a container, whoever started it, and remove everything that it had. Idempotent.

    Args:
        client: The daemon, and the namespace.
        container: Its id.
        seconds: How long its first process is waited for before it is killed.

    Raises:
        NotFoundError: The container of that id is no warm one.
        UnavailableError: containerd does not answer.
    """
    record = await client.containers.get(container)
    if record is None:
        return
    if LABEL not in record.labels:
        raise NotFoundError(f"the container {container!r} was not started by cdimage")
    await finish(remove(client, record, seconds=seconds))


async def reap(
    client: Client, *, older_than: float, labels: Mapping[str, str] | None = None
) -> list[str]:
    """Stop the containers that no living process has open, as after a crash.

    Args:
        client: The daemon, and the namespace.
        older_than: Only those that were started so many seconds ago, or more.
        labels: Only those that were started with these.

    Returns:
        Their ids.
    """
    now = datetime.now(UTC)
    gone = []
    for box in await list_boxes(client, labels):
        if not box.is_used and (now - box.created_at).total_seconds() >= older_than:
            await stop(client, box.id)
            gone.append(box.id)
    return gone


async def _launch(
    client: Client, record: ContainerRecord, image: StartableImage, plan: Plan, home: Path
) -> Box:
    """The record is first, so that whatever comes can be found by it, and holds the snapshot."""
    await client.containers.create(record)
    try:
        _make_home(home, plan.hostname)
        parent = image.chain_id
        if plan.user_namespace is not None:
            parent = await remapped_snapshot(client, image, plan.user_namespace)
        mounts = await client.snapshots.prepare(image.snapshotter, record.snapshot_key, parent, {})
        pid = await client.tasks.create(record.id, mounts, record.runtime.options())
        await client.tasks.start(record.id)
        box = Box(client, record, pid)
        box.find_user(plan.settings.user)
    except BaseException:
        with suppress(BackendError):
            await remove(client, record, seconds=0)
        raise
    return box


def _make_home(home: Path, hostname: str) -> None:
    while not home.exists():
        with suppress(FileNotFoundError):  # the last of the namespace's was just removed
            home.mkdir(mode=0o700, parents=True)
    names = "".join(f"{it}\tlocalhost {hostname}\n" for it in ("127.0.0.1", "::1"))
    (home / "hosts").write_text(names)


def _cgroups_path(namespace: str, container: str, runtime: Runtime | None) -> str:
    if runtime is not None and runtime.systemd_cgroup:
        return f"system.slice:cdimage:{container}"  # slice, prefix, name
    return f"/{namespace}/{container}"


def _pause(lifetime: float | None) -> list[str]:
    program = pause_path("linux")
    return [program] if lifetime is None else [program, "-t", str(max(1, round(lifetime)))]
