"""Images that are in no registry: what the transport of a reference opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cdimage.errors import InvalidReferenceError
from cdimage.reference import Reference
from cdimage.store import Source


@asynccontextmanager
async def open_local(reference: Reference) -> AsyncIterator[Source]:
    """Open an archive, an image layout, or what the containerd at its usual address holds.

    Raises:
        InvalidReferenceError: The reference names a registry.
        NotFoundError: There is no such file or directory.
    """
    if reference.transport in {"docker-archive", "oci-archive"}:
        from cdimage.archive import open_archive  # noqa: PLC0415 - not everybody needs it

        async with open_archive(reference) as archive:
            yield archive
    elif reference.transport == "oci":
        from cdimage.layout.folder import Folder  # noqa: PLC0415
        from cdimage.layout.source import LayoutSource  # noqa: PLC0415

        folder = Folder(Path(reference.repository))
        folder.check_there()
        yield LayoutSource(folder)
    elif reference.transport == "containerd":
        from cdimage.containerd.client import connect  # noqa: PLC0415 - loads gRPC
        from cdimage.containerd.source import ContentSource  # noqa: PLC0415

        async with connect() as client:
            yield ContentSource(client)
    else:
        raise InvalidReferenceError(f"{reference} is in a registry")
