"""Which containers there are: as much as it takes to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cdimage.containerd.client import Client
from cdimage.containerd.containers import ContainerRecord
from cdimage.containerd.tasks import Status
from cdimage.locks import is_locked
from cdimage.warm.owners import owner_path, owners
from cdimage.warm.settings import DIGEST_LABEL, FOLDER_LABEL, LABEL

_FILTER: Final = f'labels."{LABEL}"'


@dataclass(frozen=True, slots=True)
class BoxInfo:
    """A container that was started here, by this process or another.

    Attributes:
        id: The container's.
        user_digest: The digest of the image that the user asked for.
        is_running: Whether it runs; one that has ended is there until it is stopped or reaped.
        is_used: Whether a living process has it open.
        created_at: When.
        labels: Those that it was started with.
    """

    id: str
    user_digest: str
    is_running: bool
    is_used: bool
    created_at: datetime
    labels: Mapping[str, str]


async def list_boxes(client: Client, labels: Mapping[str, str] | None = None) -> list[BoxInfo]:
    """The containers that were started from prepared images, the oldest first.

    Args:
        client: The daemon, and the namespace.
        labels: Only those that were started with these.
    """
    wanted = (labels or {}).items()
    running = {it.container for it in await client.tasks.list() if it.status is Status.RUNNING}
    records = [it for it in await client.containers.list(_FILTER) if wanted <= it.labels.items()]
    return sorted(
        (_info(it, is_running=it.id in running) for it in records), key=lambda it: it.created_at
    )


def _info(record: ContainerRecord, *, is_running: bool) -> BoxInfo:
    folder = Path(record.labels.get(FOLDER_LABEL, ""))
    own = {LABEL, DIGEST_LABEL, FOLDER_LABEL}
    return BoxInfo(
        record.id,
        record.labels.get(DIGEST_LABEL, ""),
        is_running,
        any(is_locked(owner_path(folder, it)) for it in owners(folder)),
        record.created_at or datetime.fromtimestamp(0, UTC),
        {key: value for key, value in record.labels.items() if key not in own},
    )
