r"""Warm containers: start a prepared image once, exec jobs into it.

::

    from cdimage import warm

    async with warm.start(client, digest, limits=warm.Limits(memory=512 * warm.MiB)) as box:
        result = await box.exec(["python", "-c", "print(6*7)"], timeout=10)
        assert (result.exit_code, result.stdout) == (0, b"42\n")

This process must be root on the daemon's node: jobs are followed through control groups, their
streams are FIFOs, and files are put and got through the container's root directory.

Most names are loaded when they are first used: who lists containers starts none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdimage.warm.listing import BoxInfo, list_boxes

if TYPE_CHECKING:
    from cdimage.containerd.containers import Runtime
    from cdimage.warm.box import Box, ExecResult
    from cdimage.warm.containers import attach, launch, reap, start, stop
    from cdimage.warm.job import Job, JobEnd
    from cdimage.warm.options import GiB, Grants, KiB, Limits, MiB, Mount, UserNamespace
    from cdimage.warm.pool import WarmPool

list = list_boxes  # noqa: A001 - warm.list(client)

__all__ = [
    "Box",
    "BoxInfo",
    "ExecResult",
    "GiB",
    "Grants",
    "Job",
    "JobEnd",
    "KiB",
    "Limits",
    "MiB",
    "Mount",
    "Runtime",
    "UserNamespace",
    "WarmPool",
    "attach",
    "launch",
    "list",
    "reap",
    "start",
    "stop",
]

_WHERE = {
    "Box": "cdimage.warm.box",
    "ExecResult": "cdimage.warm.box",
    "GiB": "cdimage.warm.options",
    "Grants": "cdimage.warm.options",
    "Job": "cdimage.warm.job",
    "JobEnd": "cdimage.warm.job",
    "KiB": "cdimage.warm.options",
    "Limits": "cdimage.warm.options",
    "MiB": "cdimage.warm.options",
    "Mount": "cdimage.warm.options",
    "Runtime": "cdimage.containerd.containers",
    "UserNamespace": "cdimage.warm.options",
    "WarmPool": "cdimage.warm.pool",
    "attach": "cdimage.warm.containers",
    "launch": "cdimage.warm.containers",
    "reap": "cdimage.warm.containers",
    "start": "cdimage.warm.containers",
    "stop": "cdimage.warm.containers",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    value: object = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
