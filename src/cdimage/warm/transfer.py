"""Tar streams between an event loop and the thread that packs or unpacks them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress

from cdimage.threads import finish, own_thread
from cdimage.warm.files import get_archive, put_archive
from cdimage.warm.options import UserNamespace
from cdimage.warm.rooted import Root
from cdimage.warm.streams import Input, InputStream, OutputStream


async def put(
    root: AbstractContextManager[Root], archive: Input, path: str, users: UserNamespace | None
) -> None:
    """Unpack a tar into a container; see `Box.put`."""

    def unpack() -> None:
        with os.fdopen(reading, "rb") as file:
            put_archive(opened, file, path, users)

    with root as opened:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writing, False)
        stream = InputStream(writing)
        unpacking = own_thread(unpack)
        try:
            # The reader may be content, or refuse, before everything is written.
            with suppress(BrokenPipeError):
                await stream.write_all(archive)
        finally:
            stream.close()
            await finish(unpacking)


async def get(
    root: AbstractContextManager[Root], path: str, users: UserNamespace | None
) -> AsyncIterator[bytes]:
    """Pack a file or a directory of a container; see `Box.get`."""

    def pack() -> None:
        # Whoever reads may have had enough.
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as file:
            get_archive(opened, path, file, users)

    with root as opened:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        stream = OutputStream(reading)
        packing = own_thread(pack)
        try:
            async for chunk in stream:
                yield chunk
        finally:
            stream.close()
            await finish(packing)
