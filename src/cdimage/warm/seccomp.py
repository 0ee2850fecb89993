"""Which system calls jobs may make (OCI runtime-spec v1.1, config-linux.md, seccomp).

`seccomp.json` is derived from the profile that containerd applies by default, as its 2.1 writes it:
`scripts/derive_seccomp.py` asks it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_FILE: Final = Path(__file__).with_name("seccomp.json")
_ARCHITECTURES: Final = {
    "amd64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "arm64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
# Calls that amd64 does not have (Linux v6.12, scripts/syscall.tbl and arch/arm/tools/syscall.tbl).
_ARM: Final = (
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "set_tls",
    "sync_file_range2",
)


def seccomp_profile(machine: str, capabilities: Sequence[str]) -> dict[str, Any]:
    """The profile of a processor, as ``amd64``; capabilities allow the calls that they are for."""
    known = json.loads(_FILE.read_bytes())
    names = set(known["always"])
    for capability in capabilities:
        names.update(known["by_capability"].get(capability, ()))
    if machine == "arm64":
        names.update(_ARM)
    rules = [rule for rule in known["with_arguments"] if not names.intersection(rule["names"])]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": list(_ARCHITECTURES.get(machine, ())),
        "syscalls": [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}, *rules],
    }
