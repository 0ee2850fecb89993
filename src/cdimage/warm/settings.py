"""How jobs of a container run: kept in its spec, for whoever attaches to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cdimage.warm.options import Grants

LABEL: Final = "hpcc.dev/warm"
"""On the record of every container that is ours."""
FOLDER_LABEL: Final = "hpcc.dev/warm.folder"
"""Where the FIFOs of its jobs are, and who uses it."""
DIGEST_LABEL: Final = "hpcc.dev/user-digest"
SETTINGS: Final = "hpcc.dev/warm.settings"
"""The annotation of the spec that has the settings."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How jobs of a container run, when they do not say otherwise.

    Attributes:
        user: As image configs write it.
        env: As ``NAME=value``.
        cwd: An absolute path.
        grants: What they may do beyond the default.
        open_files: How many they may have open at the most; they begin with fewer.
    """

    user: str
    env: Sequence[str]
    cwd: str
    grants: Grants = field(default_factory=Grants)
    open_files: int = 1024

    def dump(self) -> str:
        """As an annotation."""
        grants = self.grants
        return json.dumps(
            {
                "user": self.user,
                "env": list(self.env),
                "cwd": self.cwd,
                "capabilities": list(grants.capabilities),
                "new_privileges": grants.new_privileges,
                "open_files": self.open_files,
            }
        )

    @classmethod
    def load(cls, text: str) -> Settings:
        """From an annotation."""
        value = json.loads(text)
        grants = Grants(
            capabilities=tuple(value["capabilities"]), new_privileges=value["new_privileges"]
        )
        return cls(value["user"], tuple(value["env"]), value["cwd"], grants, value["open_files"])
