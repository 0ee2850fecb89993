"""Work that is done to its end, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")


async def to_end(work: Callable[[], _Result]) -> _Result:
    """Do blocking work in a thread; cancelled, wait for the thread, which uses open files."""
    return await finish(asyncio.to_thread(work))


async def finish(work: Awaitable[_Result]) -> _Result:
    """Do something to its end; cancelled, end as cancelled afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
