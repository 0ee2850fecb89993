"""Which processes use a container: each has a file of its own locked in the container's folder."""

from __future__ import annotations

from pathlib import Path


def owner_path(folder: Path, token: str) -> Path:
    """The file that a process which uses the container has locked."""
    return folder / f"owner-{token}"


def owners(folder: Path) -> list[str]:
    """Tokens of the processes that use the container, or did when they were killed."""
    return [it.name.removeprefix("owner-") for it in folder.glob("owner-*")]
