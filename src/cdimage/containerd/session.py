"""What every call needs: the channel, and the headers that say where and for whom."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import grpc.aio

from cdimage.containerd.errors import translated


@dataclass(frozen=True)
class Session:
    """A channel with the headers of its calls.

    Attributes:
        channel: Shared by all sessions of a client.
        address: Of the daemon, for messages.
        namespace: containerd's, sent with every call.
        lease: The id of the lease that holds what is made; "" for none.
    """

    channel: grpc.aio.Channel
    address: str
    namespace: str
    lease: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers (containerd v2.1.0, pkg/namespaces/grpc.go and core/leases/grpc.go)."""
        headers = (("containerd-namespace", self.namespace),)
        return (*headers, ("containerd-lease", self.lease)) if self.lease else headers

    def calling(self, action: str) -> AbstractContextManager[None]:
        """Translate the errors of a call that tries to do ``action``."""
        return translated(action, self.address)
