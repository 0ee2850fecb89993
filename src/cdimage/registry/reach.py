"""How far inside a network a place lies, so that nobody from outside can send us there.

A redirect, a token service or a layer's own address comes from a registry, or from whoever made
the image. It may lead as far inside as the registry itself lies, and no further: a public
registry cannot make a worker ask its own network, nor a cloud's metadata service.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from enum import IntEnum
from typing import TYPE_CHECKING

from cdimage.registry.endpoint import host_name

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver, ResolveResult

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(IntEnum):
    """From the outside inwards."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    LINK_LOCAL = 3

    @classmethod
    def of(cls, address: str) -> Reach:
        """Of an IP address, perhaps with a zone."""
        ip: Address = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address):
            ip = ip.ipv4_mapped or ip.sixtofour or ip
        if ip.is_link_local:
            return cls.LINK_LOCAL
        if ip.is_loopback or ip.is_unspecified:
            return cls.LOOPBACK
        return cls.PUBLIC if ip.is_global else cls.PRIVATE


class OutOfReachError(OSError):
    """A place lies further inside than whoever leads there."""


async def reach_of(host: str) -> Reach:
    """Of a host, perhaps with a port: the innermost of its addresses; public when it has none."""
    name = host_name(host)
    if (literal := _literal(name)) is not None:
        return literal
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return Reach.PUBLIC
    return max((Reach.of(str(address[0])) for *_, address in found), default=Reach.PUBLIC)


def check_literal(host: str, limit: Reach) -> None:
    """Refuse a host that is written as an address too far inside; names are for the resolver.

    Raises:
        OutOfReachError: It lies beyond the limit.
    """
    literal = _literal(host_name(host))
    if literal is not None and literal > limit:
        raise OutOfReachError


def limited(resolver: AbstractResolver, limit: Reach) -> AbstractResolver:
    """A resolver for an HTTP client that finds no address beyond the limit."""
    from aiohttp.abc import AbstractResolver  # noqa: PLC0415 - loaded with the client

    class Limited(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await resolver.resolve(host, port, family)
            if any(Reach.of(one["host"]) > limit for one in found):
                raise OutOfReachError
            return found

        async def close(self) -> None:
            await resolver.close()

    return Limited()


def _literal(name: str) -> Reach | None:
    try:
        return Reach.of(name)
    except ValueError:
        return None
