"""Ctrl-C, answered in time whatever the program waits for."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final

_SECONDS: Final = 0.8


def run(work: Coroutine[Any, Any, Any], end_now: Callable[[], None]) -> Any:
    """Do the work in a loop of its own, and give it a short time to clean up when interrupted.

    The loop's own answer to SIGINT, which cancels the work, stays as it is. But a daemon that hangs
    or a name that is being looked up may not let go: then ``end_now`` is called, in a thread.
    Where SIGINT is ignored, as in what a shell runs in the background, it stays so.

    Raises:
        KeyboardInterrupt: It was interrupted, and let go.
    """
    timer = threading.Timer(_SECONDS, end_now)
    timer.daemon = True
    before = signal.getsignal(signal.SIGINT)
    try:
        return asyncio.run(_interruptible(work, timer))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


async def _interruptible(work: Coroutine[Any, Any, Any], timer: threading.Timer) -> Any:
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        if not timer.is_alive():
            timer.start()
        if callable(before):
            before(number, frame)

    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupted)
    # Not put back here: what follows, as the end of the loop's threads, may hang as well.
    return await work
