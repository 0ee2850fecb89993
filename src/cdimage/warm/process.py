"""A process of the node, told from those that get its number after it."""

from __future__ import annotations

import os
import select

from cdimage.errors import NotFoundError


class Process:
    """A process that was there when this was made, and is not mistaken for another later.

    Attributes:
        pid: Its number.
    """

    def __init__(self, pid: int) -> None:
        """Raises NotFoundError when it has ended."""
        self.pid = pid
        try:
            self._file = os.pidfd_open(pid)
        except ProcessLookupError:
            raise NotFoundError("the container has ended") from None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, or was let go of."""
        if self._file < 0:
            return True
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
