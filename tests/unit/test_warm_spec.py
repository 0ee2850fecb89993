"""How containers are run: what is granted, and that nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdimage import warm
from cdimage.warm.cgroup import Cgroup
from cdimage.warm.seccomp import seccomp_profile
from cdimage.warm.settings import SETTINGS, Settings
from cdimage.warm.spec import PATH, Plan, container_spec, merged_env, process_spec, users_of
from cdimage.warm.users import User

DANGEROUS = {
    "add_key", "bpf", "delete_module", "finit_module", "init_module", "io_uring_setup",
    "kexec_load", "keyctl", "mount", "open_by_handle_at", "perf_event_open", "pivot_root",
    "reboot", "setns", "swapon", "umount2", "unshare", "userfaultfd",
}  # fmt: skip


def plan(**changes: Any) -> Plan:
    settings = Settings("worker", ("A=b",), "/work", changes.pop("grants", warm.Grants()))
    return Plan(["/.hpcc/pause"], settings, "box", "/ns/box", **changes)


def namespaces(spec: dict[str, Any]) -> set[str]:
    return {entry["type"] for entry in spec["linux"]["namespaces"]}


def test_the_default_shares_nothing() -> None:
    spec = container_spec(plan(), "amd64")
    assert namespaces(spec) == {"pid", "ipc", "uts", "mount", "cgroup", "network"}
    assert spec["process"]["noNewPrivileges"] is True
    assert spec["process"]["user"] == {"uid": 65534, "gid": 65534, "additionalGids": []}
    assert spec["process"]["capabilities"]["effective"] == []
    assert spec["linux"]["resources"] == {
        "devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 2048},
    }  # fmt: skip
    assert not [it for it in spec["mounts"] if it["type"] == "bind"]
    assert Settings.load(spec["annotations"][SETTINGS]) == plan().settings
    assert json.loads(json.dumps(spec)) == spec


def test_what_is_granted_is_there_and_nothing_else() -> None:
    grants = warm.Grants("host", ["CAP_SYS_ADMIN"], new_privileges=True, all_system_calls=True)
    spec = container_spec(plan(grants=grants), "amd64")
    assert namespaces(spec) == {"pid", "ipc", "uts", "mount", "cgroup"}
    assert "seccomp" not in spec["linux"]
    assert spec["process"]["noNewPrivileges"] is False
    assert Settings.load(spec["annotations"][SETTINGS]).grants.capabilities == ("CAP_SYS_ADMIN",)
    named = container_spec(plan(grants=warm.Grants("/run/netns/x")), "amd64")
    assert {"type": "network", "path": "/run/netns/x"} in named["linux"]["namespaces"]


def test_limits_mounts_and_users() -> None:
    mounts = [warm.Mount("/a", "/b", read_only=True), warm.Mount("/c", size=5)]
    limits = warm.Limits(memory=warm.GiB, cpus=1.5, pids=None)
    users = warm.UserNamespace(1000, 10)
    spec = container_spec(plan(limits=limits, mounts=mounts, user_namespace=users), "amd64")
    assert spec["linux"]["resources"]["memory"] == {"limit": 1 << 30, "swap": 1 << 30}
    assert spec["linux"]["resources"]["cpu"] == {"quota": 150_000, "period": 100_000}
    assert "pids" not in spec["linux"]["resources"]
    bind, memory = spec["mounts"][-2:]
    assert (bind["source"], bind["destination"], "rro" in bind["options"]) == ("/b", "/a", True)
    assert (memory["type"], "size=5" in memory["options"]) == ("tmpfs", True)
    assert users_of(spec) == users
    assert users_of(container_spec(plan(), "amd64")) is None


def test_only_root_has_capabilities_to_begin_with() -> None:
    settings = plan().settings
    root = process_spec(User(0, 0), ["x"], settings)["capabilities"]
    other = process_spec(User(5, 5, (6,)), ["x"], settings, cwd="/y", env=["Z=1"])
    assert "CAP_CHOWN" in root["effective"]
    assert "CAP_SYS_ADMIN" not in root["bounding"]
    assert other["capabilities"]["effective"] == other["capabilities"]["permitted"] == []
    assert (other["cwd"], other["env"], other["user"]["additionalGids"]) == ("/y", ["Z=1"], [6])


def test_variables_are_replaced_in_the_images_order() -> None:
    assert merged_env(["A=1", "PATH=/x", "B=2"], {"A": "3"}) == ["PATH=/x", "B=2", "A=3"]
    assert merged_env([], {}) == [PATH]
    assert merged_env(["B=1"], {"PATH": "/y"}) == ["B=1", "PATH=/y"]


@pytest.mark.parametrize("machine", ["amd64", "arm64"])
def test_system_calls_that_reach_the_node_are_not_allowed(machine: str) -> None:
    profile = seccomp_profile(machine, ["CAP_CHOWN"])
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    always = [rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    anyhow = {name for rule in always if "args" not in rule for name in rule["names"]}
    assert not anyhow & DANGEROUS
    assert {"read", "execve", "futex", "openat2"} <= anyhow
    assert not anyhow & {"clone3"}
    assert {rule["names"][0] for rule in always if "args" in rule} == {
        "clone", "personality", "socket",
    }  # fmt: skip
    admin = seccomp_profile(machine, ["CAP_SYS_ADMIN"])["syscalls"]
    assert {"mount", "clone"} <= set(admin[0]["names"])
    assert not [rule for rule in admin[1:] if "clone" in rule["names"]]


def test_a_count_of_kills_is_read_from_either_version(tmp_path: Path) -> None:
    first, second = tmp_path / "memory.oom_control", tmp_path / "memory.events"
    first.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    second.write_text("low 0\nhigh 0\nmax 10\noom 2\noom_kill 4\noom_group_kill 0\n")
    assert Cgroup(tmp_path, first, is_unified=False, first=1).memory_kills() == 3
    assert Cgroup(tmp_path, second, is_unified=True, first=1).memory_kills() == 4
    assert Cgroup(tmp_path, tmp_path / "none", is_unified=True, first=1).memory_kills() == 0
    assert Cgroup(tmp_path, None, is_unified=True, first=1).memory_kills() == 0
