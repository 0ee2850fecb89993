"""What several images need is brought by one of them, while the others wait."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Turns:
    """Locks by what is brought, for as long as somebody brings it or waits.

    The daemon keeps clients apart, too, but lets each of them unpack a layer that all need, and
    tell it apart only at the end; containerd's own unpacker has such locks (v2.1.0,
    core/unpack/unpacker.go, lockSnChainID).
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def of(self, kind: str, name: str) -> asyncio.Lock:
        """The lock of one blob (``content``) or one snapshot (``snapshots``)."""
        return self._locks.setdefault((kind, name), asyncio.Lock())
