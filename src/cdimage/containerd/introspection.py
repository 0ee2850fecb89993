"""containerd's version and introspection services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from google.protobuf.empty_pb2 import Empty

from cdimage.containerd.api import introspection_pb2 as pb
from cdimage.containerd.api import introspection_pb2_grpc as rpc
from cdimage.containerd.api import version_pb2_grpc
from cdimage.containerd.session import Session
from cdimage.descriptor import Platform
from cdimage.errors import BackendError

if TYPE_CHECKING:
    from cdimage.containerd.api.introspection_pb2_grpc import IntrospectionAsyncStub
    from cdimage.containerd.api.version_pb2_grpc import VersionAsyncStub

_SNAPSHOTTER = "io.containerd.snapshotter.v1"
_DIFFER = "io.containerd.differ.v1"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin of the daemon.

    Attributes:
        kind: Its type, as ``io.containerd.snapshotter.v1``.
        id: Its name among those of its kind.
        platforms: What it works for.
        exports: What it says of itself, as the ``root`` of its files.
        error: Why it could not be started; "" where it runs.
    """

    kind: str
    id: str
    platforms: tuple[Platform, ...]
    exports: dict[str, str]
    error: str


@dataclass(frozen=True, slots=True)
class Plugins:
    """What the daemon is made of."""

    plugins: tuple[Plugin, ...]

    @property
    def snapshotters(self) -> dict[str, Plugin]:
        """The snapshotters, broken ones too, by name."""
        return {plugin.id: plugin for plugin in self.plugins if plugin.kind == _SNAPSHOTTER}

    @property
    def platform(self) -> Platform:
        """What the daemon runs on: the platform that it unpacks layers for.

        Raises:
            BackendError: The daemon does not say.
        """
        for plugin in self.plugins:
            if plugin.kind in {_DIFFER, _SNAPSHOTTER} and plugin.platforms:
                return plugin.platforms[0]
        raise BackendError("containerd does not say which platform it runs on")


class Introspection:
    """Asks the daemon about itself."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = cast("IntrospectionAsyncStub", rpc.IntrospectionStub(session.channel))
        self._version = cast("VersionAsyncStub", version_pb2_grpc.VersionStub(session.channel))

    async def version(self) -> str:
        """The daemon's version as it writes it, as ``1.6.20~ds1`` or ``v2.1.4``."""
        with self._session.calling("tell its version"):
            reply = await self._version.Version(Empty())
        return reply.version

    async def plugins(self) -> Plugins:
        """All plugins."""
        with self._session.calling("list its plugins"):
            reply = await self._stub.Plugins(pb.PluginsRequest())
        return Plugins(
            tuple(
                Plugin(
                    kind=plugin.type,
                    id=plugin.id,
                    platforms=tuple(
                        Platform(item.os, item.architecture, item.variant)
                        for item in plugin.platforms
                    ),
                    exports=dict(plugin.exports),
                    error=plugin.init_err.message,
                )
                for plugin in reply.plugins
            )
        )
