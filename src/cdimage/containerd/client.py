"""A connection to one containerd, in one namespace."""

# ruff: noqa: PLC0415 - a service is loaded by those who use it

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from cdimage.containerd.session import Session
from cdimage.errors import InvalidReferenceError

if TYPE_CHECKING:
    from cdimage.containerd.containers import Containers
    from cdimage.containerd.content import Content
    from cdimage.containerd.diff import Diff
    from cdimage.containerd.images import Images
    from cdimage.containerd.introspection import Introspection
    from cdimage.containerd.leases import Leases
    from cdimage.containerd.namespaces import Namespaces
    from cdimage.containerd.snapshots import Snapshots
    from cdimage.containerd.tasks import Tasks

DEFAULT_ADDRESS: Final = "/run/containerd/containerd.sock"
DEFAULT_NAMESPACE: Final = "default"

# containerd's own limit, both ways (v2.1.0, defaults/defaults.go).
_MESSAGE_LIMIT: Final = 16 << 20
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    # Without it gRPC sends the socket's path, escaped, as the host (grpc/grpc#34305).
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    # A private connection: clients of two event loops must not share one.
    ("grpc.use_local_subchannel_pool", 1),
    # A daemon that was restarted is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True, slots=True)
class TLS:
    """Files of a mutually authenticated connection, in PEM.

    Attributes:
        ca: Certificates that the daemon's must be signed by.
        cert: Our certificate.
        key: Our private key.
    """

    ca: str | os.PathLike[str]
    cert: str | os.PathLike[str]
    key: str | os.PathLike[str]


class Client:
    """The services of one containerd. Opened by `connect`; one client per event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def address(self) -> str:
        """Where the daemon listens."""
        return self._session.address

    @property
    def namespace(self) -> str:
        """The containerd namespace that all calls are made in."""
        return self._session.namespace

    @cached_property
    def content(self) -> Content:
        """Blobs."""
        from cdimage.containerd.content import Content

        return Content(self._session)

    @cached_property
    def images(self) -> Images:
        """Image records: names for blobs."""
        from cdimage.containerd.images import Images

        return Images(self._session)

    @cached_property
    def leases(self) -> Leases:
        """What keeps content from the garbage collector."""
        from cdimage.containerd.leases import Leases

        return Leases(self._session)

    @cached_property
    def snapshots(self) -> Snapshots:
        """Unpacked layers."""
        from cdimage.containerd.snapshots import Snapshots

        return Snapshots(self._session)

    @cached_property
    def diff(self) -> Diff:
        """Unpacking."""
        from cdimage.containerd.diff import Diff

        return Diff(self._session)

    @cached_property
    def containers(self) -> Containers:
        """Records of what can be run."""
        from cdimage.containerd.containers import Containers

        return Containers(self._session)

    @cached_property
    def tasks(self) -> Tasks:
        """Containers that run, and what is exec'd into them."""
        from cdimage.containerd.tasks import Tasks

        return Tasks(self._session)

    @cached_property
    def introspection(self) -> Introspection:
        """What the daemon is and has."""
        from cdimage.containerd.introspection import Introspection

        return Introspection(self._session)

    @cached_property
    def namespaces(self) -> Namespaces:
        """The namespaces and their labels."""
        from cdimage.containerd.namespaces import Namespaces

        return Namespaces(self._session)

    def leased(self, lease: str) -> Client:
        """The same connection, with everything that it makes or touches held by the lease."""
        return Client(replace(self._session, lease=lease))

    async def close(self) -> None:
        """End the connection; calls under way fail."""
        await self._session.channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def connect(
    address: str | None = None, namespace: str | None = None, *, tls: TLS | None = None
) -> Client:
    """A client for the containerd at an address. Nothing is sent before the first call.

    Use it as an asynchronous context manager, or `Client.close` it, inside a running loop.

    Args:
        address: A path, ``unix:///path`` or ``tcp://host:port``; None is CONTAINERD_ADDRESS,
            or containerd's own default. TCP is for a TLS proxy in front of its socket or, on
            Windows, its named pipe: containerd's own ``tcp_address`` offers CRI only.
        namespace: None is CONTAINERD_NAMESPACE, or ``default``.
        tls: For ``tcp://``. Without it only the loopback address is accepted, because whoever
            reads or changes this traffic owns the machine.

    Raises:
        InvalidReferenceError: The address is of another form, or needs certificates.
        OSError: A certificate cannot be read.
    """
    address = address or os.environ.get("CONTAINERD_ADDRESS") or DEFAULT_ADDRESS
    namespace = namespace or os.environ.get("CONTAINERD_NAMESPACE") or DEFAULT_NAMESPACE
    scheme, separator, rest = address.partition("://")
    if not separator or scheme == "unix":
        path = rest if separator else address
        if not path.startswith("/"):
            path = f"{os.getcwd()}/{path}"  # noqa: PTH109 - pathlib takes long to load
        channel = grpc.aio.insecure_channel(f"unix:{path}", _OPTIONS)
    elif scheme == "tcp":
        channel = _tcp_channel(address, rest, tls)
    else:
        raise InvalidReferenceError(
            f"{address!r} is not an address of containerd: "
            "write /path/to/socket, unix:///path or tcp://host:port"
        )
    return Client(Session(channel, address, namespace))


def _tcp_channel(address: str, target: str, tls: TLS | None) -> grpc.aio.Channel:
    if tls is not None:
        from pathlib import Path

        credentials = grpc.ssl_channel_credentials(
            *(Path(file).read_bytes() for file in (tls.ca, tls.key, tls.cert))
        )
        # With certificates, the host that they are checked against is the real one.
        options = [option for option in _OPTIONS if option[0] != "grpc.default_authority"]
        return grpc.aio.secure_channel(target, credentials, options)
    if not _is_loopback(target.rpartition(":")[0]):
        raise InvalidReferenceError(
            f"containerd at {address} is not on this machine: name its TLS certificates"
        )
    return grpc.aio.insecure_channel(target, _OPTIONS)


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
