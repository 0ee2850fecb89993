"""What keeps the blobs of an unfinished pull from being collected."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError
from cdimage.layout.folder import Folder
from cdimage.locks import is_locked, open_locked

_PREFIX: Final = "lease-"


@dataclass(frozen=True, slots=True)
class Lease:
    """A file in ``ingest/`` that names blobs; locked as long as its process works on them.

    When the process has ended without removing it, it holds for a while longer: the next pull
    continues from what is there.
    """

    path: Path
    file: int

    @classmethod
    async def take(cls, folder: Folder, user_digest: Digest, digests: Iterable[Digest]) -> Lease:
        """Hold these blobs, there or not. The layout's lock must be held."""
        name = f"{_PREFIX}{user_digest.hex[:16]}-{secrets.token_hex(8)}"
        path = folder.ingest / name
        file = await open_locked(path)
        data = json.dumps([str(user_digest), *map(str, digests)]).encode()
        os.write(file, data)
        return cls(path, file)

    def leave(self) -> None:
        """Stop working, and leave what is there for the next pull."""
        os.close(self.file)

    def end(self) -> None:
        """Hold nothing any more."""
        if os.name != "nt":
            self.path.unlink(missing_ok=True)
        os.close(self.file)
        if os.name == "nt":  # an open file cannot be removed there
            self.path.unlink(missing_ok=True)


def dead_leases(
    folder: Folder, seconds: float, user_digest: Digest | None = None
) -> dict[Path, list[Digest]]:
    """The leases whose process and whose time is over, and what they held.

    The layout's lock must be held.

    Args:
        folder: The layout.
        seconds: How long a lease holds without its process.
        user_digest: An image that is complete now: for it there is nothing to be kept.
    """
    dead: dict[Path, list[Digest]] = {}
    for path in _leases(folder):
        digests = _read(path)
        is_over = time.time() - path.stat().st_mtime >= seconds
        is_done = user_digest is not None and digests[:1] == [user_digest]
        if (is_over or is_done) and not is_locked(path):
            dead[path] = digests
    return dead


def held_by_leases(folder: Folder) -> set[Digest]:
    """What the leases that there are hold. The layout's lock must be held."""
    return {digest for path in _leases(folder) for digest in _read(path)}


def _leases(folder: Folder) -> Iterator[Path]:
    if folder.ingest.is_dir():
        yield from sorted(folder.ingest.glob(f"{_PREFIX}*"))


def _read(path: Path) -> list[Digest]:
    """The image's digest, and those of its blobs; none where the file is cut off, or gone."""
    with suppress(OSError, ValueError, InvalidReferenceError, TypeError, AttributeError):
        return [Digest.parse(text) for text in json.loads(path.read_bytes())]
    return []
