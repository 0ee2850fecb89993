"""How a container is run: the OCI runtime spec, as a pure function (runtime-spec v1.1).

Safe by default: nothing of the node's is shared, and what is granted beyond that is named in the
call. The first process is the pause program, as nobody and without capabilities; jobs are the
image's user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cdimage.warm.options import Grants, Limits, Mount, UserNamespace
from cdimage.warm.seccomp import seccomp_profile
from cdimage.warm.settings import SETTINGS, Settings
from cdimage.warm.users import User

NOBODY: Final = 65534
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What installing packages and dropping privileges takes; Docker's default without the four that
# make device nodes, write to the audit log, forge packets and give files capabilities.
CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

# Files of the kernel that tell about the node or change it, and are not the container's own.
_MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
_CPU_PERIOD: Final = 100_000  # microseconds, the kernel's own
_OPEN_FILES: Final = 1024  # select() knows no more; programs that want more raise it

_SAFE: Final = ["nosuid", "noexec", "nodev"]
_MOUNTS: Final = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": _SAFE},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
        "destination": "/dev/shm",  # noqa: S108 - the container's
        "type": "tmpfs",
        "source": "shm",
        "options": [*_SAFE, "mode=1777", "size=65536k"],
    },
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _SAFE},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_SAFE, "ro"]},
    {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": [*_SAFE, "relatime", "ro"],
    },
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a container shall be.

    Attributes:
        arguments: Of its first process.
        settings: How jobs run in it.
        hostname: What it calls itself.
        cgroups_path: The runtime's name for its control group.
        limits: What it may use.
        mounts: Beside the kernel's own.
        read_only: Whether its root file system may only be read.
        user_namespace: Whose users its users are; None is the node's.
    """

    arguments: Sequence[str]
    settings: Settings
    hostname: str
    cgroups_path: str
    limits: Limits = field(default_factory=Limits)
    mounts: Sequence[Mount] = ()
    read_only: bool = False
    user_namespace: UserNamespace | None = None


def container_spec(plan: Plan, machine: str) -> dict[str, Any]:
    """The spec of a container.

    Args:
        plan: What it shall be.
        machine: The processor, as ``amd64``: system calls have other names on each.
    """
    linux: dict[str, Any] = {
        "cgroupsPath": plan.cgroups_path,
        "namespaces": _namespaces(plan),
        "resources": {"devices": [{"allow": False, "access": "rwm"}], **_resources(plan.limits)},
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
    }
    if not plan.settings.grants.all_system_calls:
        linux["seccomp"] = seccomp_profile(machine, granted_capabilities(plan.settings.grants))
    if plan.user_namespace is not None:
        users = plan.user_namespace
        mapping = [{"containerID": 0, "hostID": users.first, "size": users.count}]
        linux["uidMappings"] = linux["gidMappings"] = mapping
    return {
        "ociVersion": "1.0.2",
        "process": process_spec(User(NOBODY, NOBODY), plan.arguments, plan.settings),
        "root": {"path": "rootfs", "readonly": plan.read_only},
        "hostname": plan.hostname,
        "mounts": _mounts(plan),
        "annotations": {SETTINGS: plan.settings.dump()},
        "linux": linux,
    }


def process_spec(
    user: User,
    arguments: Sequence[str],
    settings: Settings,
    *,
    env: Sequence[str] | None = None,
    cwd: str | None = None,
    is_terminal: bool = False,
) -> dict[str, Any]:
    """A process of a container; only root has the capabilities to begin with.

    Args:
        user: Whom it runs as.
        arguments: The program and its arguments.
        settings: How it runs otherwise.
        env: Its environment, in the place of the settings'.
        cwd: Where it runs, in the place of the settings'.
        is_terminal: Whether its streams are a terminal.
    """
    grants, files = settings.grants, settings.open_files
    bounding = granted_capabilities(grants)
    held = list(bounding) if user.uid == 0 else []
    sets = {"bounding": list(bounding), "effective": held, "permitted": held}
    return {
        "terminal": is_terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(arguments),
        "env": list(settings.env if env is None else env),
        "cwd": cwd or settings.cwd,
        "capabilities": sets,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": min(_OPEN_FILES, files), "hard": files}],
        "noNewPrivileges": not grants.new_privileges,
    }


def granted_capabilities(grants: Grants) -> tuple[str, ...]:
    """The capabilities that root has in the container."""
    return tuple(dict.fromkeys((*CAPABILITIES, *grants.capabilities)))


def merged_env(env: Sequence[str], more: Mapping[str, str]) -> list[str]:
    """An environment with some variables added or replaced; there is always a PATH."""
    kept = [entry for entry in env if entry.partition("=")[0] not in more]
    added = [f"{name}={value}" for name, value in more.items()]
    has_path = any(entry.startswith("PATH=") for entry in (*kept, *added))
    return [*([] if has_path else [PATH]), *kept, *added]


def users_of(spec: Mapping[str, Any]) -> UserNamespace | None:
    """The user namespace that a container was given."""
    mappings = spec.get("linux", {}).get("uidMappings")
    return UserNamespace(mappings[0]["hostID"], mappings[0]["size"]) if mappings else None


def _namespaces(plan: Plan) -> list[dict[str, str]]:
    own = ["pid", "ipc", "uts", "mount", "cgroup"]
    if plan.user_namespace is not None:
        own.append("user")
    namespaces = [{"type": name} for name in own]
    if plan.settings.grants.network is None:
        return [*namespaces, {"type": "network"}]
    if plan.settings.grants.network == "host":
        return namespaces
    return [*namespaces, {"type": "network", "path": plan.settings.grants.network}]


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    kernel = [dict(mount) for mount in _MOUNTS]
    if plan.user_namespace is not None and plan.settings.grants.network is not None:
        # A user namespace may mount the sysfs of its own network only.
        bind = {"type": "bind", "source": "/sys", "options": ["rbind", *_SAFE, "ro"]}
        kernel = [mount | bind if mount["type"] == "sysfs" else mount for mount in kernel]
    return [*kernel, *map(_mount, plan.mounts)]


def _mount(mount: Mount) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    if mount.source is not None:
        # "ro" would leave what is mounted below it as it is.
        recursive = "rro" if mount.read_only else "rw"
        options = ["rbind", "rprivate", "nosuid", "nodev", recursive]
        return {
            "destination": mount.target,
            "type": "bind",
            "source": mount.source,
            "options": options,
        }
    size = [f"size={mount.size}"] if mount.size is not None else []
    return {
        "destination": mount.target,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "nodev", "mode=1777", access, *size],
    }


def _resources(limits: Limits) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if limits.memory is not None:
        resources["memory"] = {"limit": limits.memory, "swap": limits.memory}
    if limits.cpus is not None:
        quota = round(limits.cpus * _CPU_PERIOD)
        resources["cpu"] = {"quota": quota, "period": _CPU_PERIOD}
    if limits.pids is not None:
        resources["pids"] = {"limit": limits.pids}
    return resources
