"""Folders of registries' settings, as containerd and Docker lay them out."""

from __future__ import annotations

from pathlib import Path

from cdimage.registry.hosts import Host


def write(root: Path, text: str | bytes, name: str = "r.example") -> Path:
    """Write a ``hosts.toml``; returns the folder of the registry."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "hosts.toml").write_bytes(data)
    return folder


def urls(hosts: tuple[Host, ...]) -> list[str]:
    """Where is asked, in order."""
    return [host.url for host in hosts]
