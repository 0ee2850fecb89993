"""Trying again: what is worth it, how soon, and how often."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cdimage.descriptor import Descriptor
from cdimage.errors import UnavailableError
from cdimage.reference import Reference
from cdimage.store import Source

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient to be with a source that is unavailable.

    The wait doubles from one failure to the next and is shortened by a random part of up to
    half, so that many who failed together do not come back together. A source that says how
    long to wait is obeyed, if that is not too long.

    Attributes:
        attempts: How many in a row may fail without a byte having arrived; 1 for no retry.
        first_seconds: The wait after the first failure.
        longest_seconds: The longest wait of our own choice.
        patience_seconds: The longest wait that a source may ask for; beyond it, its error is
            the caller's to handle (`UnavailableError.retry_after`).
    """

    attempts: int = 5
    first_seconds: float = 0.5
    longest_seconds: float = 10.0
    patience_seconds: float = 60.0


async def persistently(policy: Retry, work: Callable[[], Awaitable[_Result]]) -> _Result:
    """Do something again when the other side is unavailable for a while.

    Args:
        policy: How often, and how soon.
        work: What is as good when it is done twice.
    """
    attempts = _Attempts(policy)
    while True:
        try:
            return await work()
        except UnavailableError as error:
            await attempts.wait(error)


class PersistentSource:
    """A `Source` that asks another one again when it is unavailable for a while.

    A blob whose connection broke is continued from the bytes that arrived. Nothing else is
    tried again: what is missing, refused or wrong stays so.
    """

    def __init__(self, source: Source, policy: Retry) -> None:
        self._source = source
        self._policy = policy

    @property
    def name(self) -> str:
        """The source's own."""
        return self._source.name

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find the manifest or index that the reference names."""
        return await persistently(self._policy, partial(self._source.resolve, reference))

    @asynccontextmanager
    async def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob from ``offset`` to its end, over as many connections as it takes."""
        async with aclosing(self._chunks(descriptor, offset)) as chunks:
            yield chunks

    async def _chunks(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes, None]:
        attempts = _Attempts(self._policy)
        while True:
            begin = offset
            try:
                async with self._source.fetch(descriptor, offset) as chunks:
                    async for chunk in chunks:
                        offset += len(chunk)
                        attempts.succeed()
                        yield chunk
            except UnavailableError as error:
                if begin < descriptor.size <= offset:
                    return  # it broke after the last byte
                await attempts.wait(error)
            else:
                # An answer that is whole but short may come from a proxy that was cut off.
                if offset == begin or offset >= descriptor.size:
                    return


class _Attempts:
    """The failures in a row of one undertaking."""

    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self._failed = 0

    def succeed(self) -> None:
        """Something arrived: what failed before does not count any more."""
        self._failed = 0

    async def wait(self, error: UnavailableError) -> None:
        """Wait until the next attempt.

        Raises:
            UnavailableError: ``error``, when it is not worth another attempt.
        """
        self._failed += 1
        seconds = self._seconds(error)
        if self._failed >= self._policy.attempts or seconds > self._policy.patience_seconds:
            raise error
        _logger.info("%s (trying again in %.1f seconds)", error, seconds)
        await asyncio.sleep(seconds)

    def _seconds(self, error: UnavailableError) -> float:
        policy = self._policy
        own: float = min(policy.first_seconds * 2.0 ** (self._failed - 1), policy.longest_seconds)
        own *= random.uniform(0.5, 1)  # noqa: S311 - spreads callers, guards nothing
        return max(own, error.retry_after or 0)
