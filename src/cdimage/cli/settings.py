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
    """Which store, and how results are printed; None leaves it to the defaults.

    Attributes:
        store: ``containerd``, ``oci:DIR`` or ``registry:HOST/PREFIX``.
        address: containerd's.
        namespace: containerd's.
        snapshotter: containerd's.
        tls: CA, certificate and key for a containerd behind TCP.
        plain_http: Whether registries are spoken to without TLS.
        output: How results are printed.
    """

    store: str | None
    address: str | None
    namespace: str | None
    snapshotter: str | None
    tls: tuple[str, str, str] | None
    plain_http: bool
    output: OutputFormat

    @property
    def names_containerd(self) -> bool:
        """Whether the options or the environment say that there is one."""
        return any((self.address, self.namespace, self.snapshotter, self.tls))

    @property
    def is_json(self) -> bool:
        """Whether a program reads the results."""
        return self.output is OutputFormat.JSON

    def connect(self) -> Client:
        """A client for that containerd."""
        from cdimage.containerd.client import TLS, connect  # noqa: PLC0415 - loads gRPC

        tls = TLS(*self.tls) if self.tls else None
        return connect(self.address, self.namespace, tls=tls)
