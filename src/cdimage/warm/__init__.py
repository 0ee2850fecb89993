r"""Warm containers: start a prepared image once, exec jobs into it.

::

    from cdimage import warm

    async with warm.start(client, digest, limits=warm.Limits(memory=512 * warm.MiB)) as box:
        result = await box.exec(["python", "-c", "print(6*7)"], timeout=10)
        assert (result.exit_code, result.stdout) == (0, b"42\n")

This process must be root on the daemon's node: jobs are followed through control groups, their
streams are FIFOs, and files are put and got through the container's root directory.
"""

from cdimage.containerd.containers import Runtime
from cdimage.warm.box import Box, ExecResult
from cdimage.warm.containers import BoxInfo, attach, launch, list_boxes, reap, start, stop
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
