"""Control groups: all that a job started, whatever became of its parents.

Each job gets a group below its container's. A group of the second version needs no controller for
that; where the first version is in use, it is one of the freezer's hierarchy (Linux v6.12,
Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst). containerd's API offers nothing to the same
end: its exec puts every process into the container's own group.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdimage.errors import BackendError, NotFoundError, PermissionDeniedError, UnavailableError

_PROCS: Final = "cgroup.procs"
_PLAIN_PASSES: Final = 16
_SECONDS: Final = 10.0
_POLL: Final = 0.001


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The control group of a container.

    Attributes:
        path: Where its processes are listed.
        memory: Where the kernel counts what it killed for want of memory; None without that.
        is_unified: Whether it is of the second version.
        first: The container's first process, as the node counts.
    """

    path: Path
    memory: Path | None
    is_unified: bool
    first: int

    @classmethod
    def of(cls, pid: int) -> Cgroup:
        """The group of a container, by its first process.

        Raises:
            NotFoundError: The process has ended.
            BackendError: Its groups cannot be seen from here.
        """
        try:
            groups = dict(_groups(Path(f"/proc/{pid}/cgroup").read_text()))
        except (FileNotFoundError, ProcessLookupError):
            raise NotFoundError("the container has ended") from None
        mounts = dict(_mounts(Path("/proc/self/mountinfo").read_text()))
        if "freezer" in mounts:
            path = _folder(groups, mounts, "freezer")
            memory = _folder(groups, mounts, "memory") if "memory" in groups else None
            return cls(path, memory and memory / "memory.oom_control", False, pid)
        path = _folder(groups, mounts, "")
        return cls(path, path / "memory.events", True, pid)

    def memory_kills(self) -> int:
        """How many of the container's processes the kernel has killed for want of memory."""
        if self.memory is None:
            return 0
        try:
            lines = self.memory.read_text().splitlines()
        except OSError:  # it has ended, or nothing limits its memory
            return 0
        counts = dict(line.split() for line in lines)
        return int(counts.get("oom_kill", 0))

    def processes(self) -> frozenset[int]:
        """Those that belong to no job, as the node counts."""
        return frozenset(_ids(self.path))

    def job(self, name: str) -> JobCgroup:
        """The group of a job; made by `JobCgroup.adopt`."""
        return JobCgroup(self, self.path / f"job-{name}")

    def jobs(self) -> list[str]:
        """Names of the jobs that have groups."""
        prefix = "job-"
        return [it.name.removeprefix(prefix) for it in self.path.glob(f"{prefix}*")]


@dataclass(frozen=True, slots=True)
class JobCgroup:
    """The control group of a job.

    Attributes:
        container: The group of its container.
        path: Where its processes are listed.
    """

    container: Cgroup
    path: Path

    async def adopt(self, pid: int) -> None:
        """Take in a process that was just exec'd into the container, and what it started already.

        What has lost its parents by then is taken for its own: nobody else may be starting a job
        in the container meanwhile.

        Raises:
            PermissionDeniedError: Control groups may not be changed by this user.
        """
        await self._adopt(lambda it: self._is_of_job(it, pid))

    async def adopt_since(self, before: frozenset[int]) -> None:
        """Take in what was exec'd into the container since, with what it started.

        Args:
            before: `Cgroup.processes` when nobody else could start a job any more.

        Raises:
            PermissionDeniedError: Control groups may not be changed by this user.
        """
        others = before - {self.container.first}
        await self._adopt(lambda it: others.isdisjoint(_ancestry(it)))

    async def _adopt(self, belongs: Callable[[int], bool]) -> None:
        try:
            self.path.mkdir(exist_ok=True)
        except FileNotFoundError:
            return  # the container has ended, and the job with it
        except OSError as error:
            raise _refused(error) from None
        for _ in range(_PLAIN_PASSES):
            if not self._sweep(belongs):
                return
        # It has children faster than they can be counted: nothing moves meanwhile.
        await _set_frozen(self.container.path, self.container.is_unified, frozen=True)
        try:
            for _ in range(_PLAIN_PASSES):
                if not self._sweep(belongs):
                    return
            raise UnavailableError(
                f"the processes of a job cannot be told from others: see {self.container.path}"
            )
        finally:
            await _set_frozen(self.container.path, self.container.is_unified, frozen=False)

    async def kill(self) -> None:
        """End all of its processes, and remove the group; one that is gone is success.

        Raises:
            UnavailableError: The kernel does not let go of a process.
        """
        try:
            async with asyncio.timeout(_SECONDS):
                while self.path.exists():
                    await self._kill_once()
                    if self._is_removed():
                        return
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise UnavailableError(
                f"processes of a job do not end, as when a disk does not answer: see {self.path}"
            ) from None

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        for pid in _ids(self.path):
            _send(pid, number)

    async def _kill_once(self) -> None:
        everything = self.path / "cgroup.kill"
        if everything.exists():
            with suppress(OSError):
                everything.write_text("1")
            if not _numbers(self.path / _PROCS):
                # The kernel passes over those whose first thread has ended elsewhere.
                self.signal(signal.SIGKILL)
            return
        if not _ids(self.path):
            return
        try:
            await _set_frozen(self.path, self.container.is_unified, frozen=True)
            self.signal(signal.SIGKILL)
        finally:  # at once: somebody may have lost patience
            _order(self.path, self.container.is_unified, frozen=False)

    def _is_removed(self) -> bool:
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # a process of it is ending still
            return False
        return True

    def _move(self, pid: int) -> None:
        with suppress(ProcessLookupError, FileNotFoundError):
            (self.path / _PROCS).write_text(str(pid))

    def _sweep(self, belongs: Callable[[int], bool]) -> bool:
        """Move what belongs to it; whether there was anything."""
        found = [
            it for it in _ids(self.container.path) if it != self.container.first and belongs(it)
        ]
        for each in found:
            self._move(each)
        return bool(found)

    def _is_of_job(self, pid: int, job: int) -> bool:
        """Whether a process comes from the job, or lost its parents.

        What others exec into the container has a parent outside it.
        """
        return any(it in (job, self.container.first) for it in _ancestry(pid))


def remove_groups(cgroups_path: str) -> None:
    """Remove the empty groups of a container that has ended: a shim that was killed leaves them."""
    if not cgroups_path.startswith("/"):
        return  # systemd's, which removes them
    for root, point in {it for _, it in _mounts(Path("/proc/self/mountinfo").read_text())}:
        path = Path(point + cgroups_path.removeprefix(root.rstrip("/")))
        for group in (*path.glob("job-*"), path):
            with suppress(OSError):
                group.rmdir()


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """Paths of groups by controller; "" is the second version's."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(text: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """What is mounted where, by controller: the root of the mount, and the mount point."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split(" ")[3:5]
        if kind == "cgroup2":
            yield "", (root, point)
        elif kind == "cgroup":
            for option in options.split(","):
                yield option, (root, point)


def _folder(groups: dict[str, str], mounts: dict[str, tuple[str, str]], controller: str) -> Path:
    root, point = mounts.get(controller, ("", ""))
    path = groups.get(controller, "")
    inside = path.removeprefix(root.rstrip("/"))
    if not point or not path or not path.startswith(root.rstrip("/")) or "/.." in path:
        raise BackendError(
            f"the control group {path or controller!r} of the container cannot be seen from here: "
            "run on the node itself, with its /sys/fs/cgroup"
        )
    return Path(point + inside)


def _ids(path: Path) -> list[int]:
    """What is in a group: processes, or, where the second version's are listed, their threads.

    A process whose first thread has ended is listed where that was; its threads are where they are.
    """
    threads = path / "cgroup.threads"
    return _numbers(threads if threads.exists() else path / _PROCS)


def _numbers(path: Path) -> list[int]:
    try:
        return [int(line) for line in path.read_text().split()]
    except OSError:
        return []


def _ancestry(pid: int) -> Iterator[int]:
    """A thread or a process, its process, that one's parent, and so on."""
    while pid > 0:
        yield pid
        process, parent = _relatives(pid)
        if process not in (0, pid):
            yield process
        pid = parent


def _relatives(pid: int) -> tuple[int, int]:
    """The process and the parent of a thread; 0 when it has ended."""
    found = {b"Tgid": 0, b"PPid": 0}
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0, 0
    for line in status.splitlines():
        name, _, value = line.partition(b":")
        if name in found:
            found[name] = int(value)
    return found[b"Tgid"], found[b"PPid"]


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


async def _set_frozen(path: Path, is_unified: bool, *, frozen: bool) -> None:
    """Stop or go on; returns when it is so, or after a moment, or when the group is gone."""
    if is_unified:
        state, done = path / "cgroup.events", f"frozen {int(frozen)}"
    else:
        state, done = path / "freezer.state", "FROZEN" if frozen else "THAWED"
    _order(path, is_unified, frozen=frozen)
    with suppress(OSError):
        for _ in range(100):
            if done in state.read_text():
                return
            await asyncio.sleep(_POLL)


def _order(path: Path, is_unified: bool, *, frozen: bool) -> None:
    with suppress(OSError):
        if is_unified:
            (path / "cgroup.freeze").write_text(str(int(frozen)))
        else:
            (path / "freezer.state").write_text("FROZEN" if frozen else "THAWED")


def _refused(error: OSError) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"a control group for the job cannot be made ({error.strerror}): run as root on the node, "
        "where /sys/fs/cgroup may be written"
    )
