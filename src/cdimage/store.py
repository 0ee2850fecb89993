"""The seam: where images come from, where their bytes go, and what a store of images offers.

Copying, checking, concurrency and progress are written once, above these protocols, so that
a backend has little to do and cannot forget a check: a writer is given the descriptor of what
it writes, and commits nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from cdimage.descriptor import Descriptor, Platform
from cdimage.digest import Digest

if TYPE_CHECKING:
    from cdimage.reference import Reference


class Source(Protocol):
    """One repository, somewhere, that images can be read from. Safe for concurrent use."""

    @property
    def name(self) -> str:
        """What to call it in a message, as ``registry.example/debian``."""
        ...

    async def resolve(self, reference: Reference) -> Descriptor:
        """Find the manifest or index that the reference names: by digest, else by tag.

        The descriptor's digest and size were computed from bytes that arrived, and its ``data``
        is those bytes: reading it costs no second request.

        Raises:
            NotFoundError: There is no such image.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The source cannot be reached or is busy.
            DigestMismatchError: The source sent other bytes than the digest names.
        """
        ...

    def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read a blob from ``offset`` (bytes) to its end, in chunks of any length.

        What comes is unchecked: the caller counts and hashes. Leaving the context early, or
        being cancelled in it, closes the connection.

        Raises:
            NotFoundError: There is no such blob.
            UnavailableError: The connection broke; the same call may succeed from a later offset.
        """
        ...


class Writer(Protocol):
    """An unfinished blob. Invisible until committed; what was written can be continued."""

    @property
    def offset(self) -> int:
        """How many bytes are there already. The next `write` continues here."""
        ...

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            DigestMismatchError: These are more bytes than the descriptor's size.
        """
        ...

    async def restart(self) -> None:
        """Throw away what is there and begin at offset 0."""
        ...

    async def commit(self, labels: Mapping[str, str] | None = None) -> None:
        """Check size and digest against the descriptor, and make the blob visible, atomically.

        Success if the blob is there by now through somebody else.

        Raises:
            DigestMismatchError: The bytes are others; they are thrown away.
        """
        ...


class ContentStore(Protocol):
    """Blobs by digest. Safe for concurrent use, also by other processes."""

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the whole blob is there."""
        ...

    def writer(self, descriptor: Descriptor) -> AbstractAsyncContextManager[Writer | None]:
        """Begin, or continue, to write a blob; None when it is there already.

        Waits while another writer, in any process, has the same blob open, and takes over
        from the bytes that it left. Leaving the context without a commit, by an error or a
        cancellation too, keeps the bytes for whoever comes next.
        """
        ...


class State(StrEnum):
    """What is happening to a blob.

    From ``waiting`` by ``fetching`` (many times) and ``fetched`` to ``unpacking`` and ``done``; or
    from ``exists`` on, for a blob that was here. What need not be unpacked leaves that out.
    """

    WAITING = "waiting"
    EXISTS = "exists"
    FETCHING = "fetching"
    FETCHED = "fetched"
    UNPACKING = "unpacking"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Progress:
    """Something happened to one blob of an image.

    The last event of each blob is ``exists`` or ``done``, with all bytes here: so offsets add up
    to the size of the image, and what was fetched is the sum of ``offset - resumed_at``.

    Attributes:
        descriptor: The blob.
        state: What is happening to it now.
        offset: How many of its bytes are here.
        resumed_at: How many of them were here before: left by an earlier attempt, or fetched
            by somebody else.
    """

    descriptor: Descriptor
    state: State
    offset: int
    resumed_at: int = 0

    @property
    def total(self) -> int:
        """The size of the blob in bytes."""
        return self.descriptor.size

    @property
    def is_last(self) -> bool:
        """Whether nothing more happens to the blob."""
        return self.state in {State.EXISTS, State.DONE}


ProgressCallback = Callable[[Progress], None]
"""Called in the event loop, often: it must be quick and must not raise."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A prepared image that is in a store.

    Attributes:
        user_digest: The digest that it was asked for by.
        name: What a runtime starts, or another tool reads it by.
        target: The prepared manifest, or the index of several.
        platforms: What it runs on; several where it is an index.
        recipe: Of the pause programs and the version of the preparation; "" for unknown.
        is_all: Whether every platform of the user's index that can be prepared is here.
        snapshots: In containerd, the top snapshot's name, by snapshotter.
        updated_at: When it was registered, where the store knows.
    """

    user_digest: Digest
    name: str
    target: Descriptor
    platforms: tuple[Platform, ...]
    recipe: str
    is_all: bool = False
    snapshots: Mapping[str, str] = field(default_factory=dict)
    updated_at: datetime | None = None

    @property
    def platform(self) -> Platform:
        """The first, and mostly the only, platform."""
        return self.platforms[0]


class ImageStore(Protocol):
    """A store of prepared images, keyed by the digest that the user asked for.

    The digest of the prepared image itself is the store's own business.
    """

    async def get_existing_images(self) -> list[str]:
        """The user digests of the prepared images that are here, sorted.

        Raises:
            UnavailableError: The store cannot be reached.
        """
        ...

    async def pull_image(self, image_path: str, expected_digest: str) -> None:
        """Pull an image, verify its digest, put the pause program on top and register it.

        Idempotent: what is prepared already, with the same pause program, is left alone, and
        what is out of date is done again. The name appears when everything behind it is
        complete, never before. Cancelled or killed, it leaves no name, and nothing but bytes
        that the next call continues from and that otherwise expire.

        Args:
            image_path: A reference, as ``debian:12`` or ``ghcr.io/org/app@sha256:…``.
            expected_digest: The digest of an index or of a manifest; the key from now on.

        Raises:
            InvalidReferenceError: The path or the digest cannot be parsed.
            DigestMismatchError: The path names another image now. No layer was fetched.
            InvalidImageError: It is not an image, or a broken one.
            UnsupportedPlatformError: There is no pause program, or no image, for the platform.
            NotFoundError: There is no such image.
            PermissionDeniedError: The credentials are missing or refused.
            UnavailableError: The registry or the store cannot be reached; try again.
        """
        ...

    async def untag_image(self, user_digest: str) -> None:
        """Drop a prepared image, and wait until what only it held is gone.

        Idempotent: an image that is not there is success.

        Raises:
            InvalidReferenceError: It is not a digest.
            UnavailableError: The store cannot be reached.
        """
        ...
