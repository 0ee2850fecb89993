"""What a caller can ask of a container, beyond the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdimage.errors import InvalidReferenceError

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30

_PIDS: Final = 2048
# What runc itself needs to start something: it is in the container by then, with its threads.
_LEAST_MEMORY: Final = 6 * MiB
_LEAST_PIDS: Final = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What all processes of a container together may use; None is as much as there is.

    Attributes:
        memory: In bytes, page cache included; there is no swap beyond it. 6 MiB is the least.
        cpus: Processors' time, as 1.5 for one and a half.
        pids: Processes and threads; 16 is the least.
    """

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = _PIDS

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < _LEAST_MEMORY:
            raise InvalidReferenceError(
                f"{self.memory} bytes of memory are too few to start anything: "
                f"allow {_LEAST_MEMORY} at least"
            )
        if self.cpus is not None and not 0.01 <= self.cpus < 1e6:
            raise InvalidReferenceError(
                f"{self.cpus} processors cannot be given: 0.01 is the least"
            )
        if self.pids is not None and self.pids < _LEAST_PIDS:
            raise InvalidReferenceError(
                f"{self.pids} processes are too few to start anything: allow {_LEAST_PIDS} at least"
            )


@dataclass(frozen=True, slots=True)
class Mount:
    """Something that is mounted into a container.

    Attributes:
        target: An absolute path in the container; made if need be.
        source: A path of the node; None mounts an empty file system in memory.
        read_only: Whether the container may only read it.
        size: Of what is in memory, in bytes; None is half of the node's memory.
    """

    target: str
    source: str | None = None
    read_only: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        for path in (self.target, *([self.source] if self.source is not None else [])):
            if not path.startswith("/") or "\0" in path:
                raise InvalidReferenceError(f"{path!r} is not an absolute path: mounts need one")
        if self.size is not None and (self.size <= 0 or self.source is not None):
            raise InvalidReferenceError("a size is for a file system in memory, and is positive")


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """The container's users are others on the node: its root is nobody outside.

    Attributes:
        first: The node's user and group for the container's 0.
        count: How many there are.
    """

    first: int = 1_000_000
    count: int = 65_536

    def __post_init__(self) -> None:
        if self.first <= 0 or self.count <= 0 or self.first + self.count > 1 << 32:
            raise InvalidReferenceError(
                f"{self.count} users from {self.first} on cannot be given to a container"
            )


@dataclass(frozen=True, slots=True)
class Grants:
    """What a container may do beyond the safe default, each named.

    Attributes:
        network: ``host``, or the path of a network namespace; None is one of its own, in which
            there is a loopback device and nothing else.
        capabilities: More of them, as ``CAP_NET_RAW``, for jobs that run as root.
        new_privileges: Let set-uid programs gain privileges.
        all_system_calls: Do without the seccomp profile.
    """

    network: str | None = None
    capabilities: Sequence[str] = ()
    new_privileges: bool = False
    all_system_calls: bool = False

    def __post_init__(self) -> None:
        if self.network is not None and self.network != "host" and self.network[:1] != "/":
            raise InvalidReferenceError(
                f"{self.network!r} is no network: write host, or the path of a network namespace"
            )
        for name in self.capabilities:
            if not name.startswith("CAP_"):
                raise InvalidReferenceError(f"{name!r} is no capability: write CAP_NET_RAW, say")
