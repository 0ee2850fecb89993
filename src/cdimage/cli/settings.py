"""What the options of a command line say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdimage.containerd.client import Client


class OutputFormat(Enum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Settings:
    """Which containerd, and how results are printed; None leaves it to the defaults."""

    address: str | None
    namespace: str | None
    snapshotter: str | None
    tls: tuple[str, str, str] | None
    output: OutputFormat

    @property
    def is_json(self) -> bool:
        """Whether a program reads the results."""
        return self.output is OutputFormat.JSON

    def connect(self) -> Client:
        """A client for that containerd."""
        from cdimage.containerd.client import TLS, connect  # noqa: PLC0415 - loads gRPC

        tls = TLS(*self.tls) if self.tls else None
        return connect(self.address, self.namespace, tls=tls)
