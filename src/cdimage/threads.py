"""Work that is done to its end, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar, cast

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


def own_thread(work: Callable[[], _Result]) -> asyncio.Future[_Result]:
    """Do blocking work in a thread of its own.

    For work that waits for other work, or for ever: the loop's few threads are not taken by it, and
    the program's end does not wait for it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def tell(result: _Result | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("_Result", result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001 - is the caller's
            error = caught
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, daemon=True).start()
    return future
