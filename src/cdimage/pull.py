"""From a source to a store: resolving an image, and copying its blobs.

Digests are compared before a layer byte moves. Whatever arrives is counted and hashed while it
streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from cdimage.descriptor import Descriptor, Digest, MediaType, Platform
from cdimage.errors import (
    DigestMismatchError,
    InvalidImageError,
    UnsupportedPlatformError,
)
from cdimage.image import DOCUMENT_LIMIT, Config, Index, Manifest
from cdimage.reference import Reference
from cdimage.store import ContentStore, Progress, ProgressCallback, Source, State, Writer
from cdimage.verify import Verifier

NESTING_LIMIT = 4
"""How deep indexes may lie in indexes."""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image that was found, checked and read down to its config.

    Attributes:
        user_digest: What the caller asked for: of `indexes[0]` or of `manifest`.
        manifest: The manifest for the platform.
        config: Its config.
        indexes: Those that led to the manifest, outermost first.
    """

    user_digest: Digest
    manifest: Manifest
    config: Config
    indexes: tuple[Index, ...] = field(default=())


async def resolve_image(
    source: Source,
    reference: Reference,
    expected: Digest,
    platform: Platform | None,
    default_platform: Platform,
) -> ResolvedImage:
    """Find the image that ``expected`` names, and read its manifest and its config.

    A tag may lead to the manifest itself, to its index, or to an index that lists it.

    Args:
        source: Where to look.
        reference: Its tag is resolved when it has no digest; a bare name is looked up by
            ``expected``.
        expected: The digest of an index or of a manifest.
        platform: What the image must be for; None leaves it to the image.
        default_platform: What to choose from an index when ``platform`` is None.

    Raises:
        DigestMismatchError: The reference names another image than ``expected``.
        UnsupportedPlatformError: The image is not for the platform.
        InvalidImageError: It is broken, or is not a container image.
    """
    if reference.tag is None and reference.digest is None:
        reference = reference.at(expected)
    found = await source.resolve(reference)
    root, indexes = await _find_expected(source, reference, found, expected)
    manifest, below = await _choose(source, root, platform or default_platform)
    config = await read_config(source, manifest)
    if platform is not None and not config.platform.satisfies(platform):
        raise UnsupportedPlatformError(f"the image is for {config.platform}, not for {platform}")
    return ResolvedImage(expected, manifest, config, (*indexes, *below))


async def _find_expected(
    source: Source, reference: Reference, found: Descriptor, expected: Digest
) -> tuple[Index | Manifest, tuple[Index, ...]]:
    if found.digest == expected:
        return await _read_document(source, found), ()
    root: Index | Manifest | None = None
    with suppress(InvalidImageError):  # that it is another image is the news
        root = await _read_document(source, found)
    if isinstance(root, Index):
        for entry in root.manifests:
            if entry.digest == expected:
                return await _read_document(source, entry), ()
    raise _mismatch(reference, found, expected, root)


def _mismatch(
    reference: Reference, found: Descriptor, expected: Digest, root: Index | Manifest | None
) -> DigestMismatchError:
    hint = ""
    if isinstance(root, Manifest) and root.config.digest == expected:
        hint = " (that is the image ID, the digest of its config: ask for the manifest's digest)"
    return DigestMismatchError(
        f"{reference} is {found.digest}, not the expected {expected}{hint}",
        expected=str(expected),
        actual=str(found.digest),
    )


async def _choose(
    source: Source, root: Index | Manifest, platform: Platform
) -> tuple[Manifest, tuple[Index, ...]]:
    """Walk down to the manifest for the platform; the first that matches is taken."""
    indexes: tuple[Index, ...] = ()
    while isinstance(root, Index):
        indexes = (*indexes, root)
        if len(indexes) > NESTING_LIMIT:
            raise InvalidImageError(f"indexes are nested more than {NESTING_LIMIT} deep")
        root = await _read_document(source, await _select(source, root, platform))
    return root, indexes


async def _select(source: Source, index: Index, platform: Platform) -> Descriptor:
    for entry in index.manifests:
        stated = entry.platform or await _platform_in_config(source, entry)
        if stated is None or stated.satisfies(platform):
            return entry
    offered = sorted({str(entry.platform) for entry in index.manifests if entry.platform})
    raise UnsupportedPlatformError(
        f"the image is not for {platform}; it is for {', '.join(offered) or 'no platform at all'}"
    )


async def _platform_in_config(source: Source, entry: Descriptor) -> Platform | None:
    """The platform of an entry that states none; None for a nested index."""
    document = await _read_document(source, entry)
    if isinstance(document, Index):
        return None
    return (await read_config(source, document)).platform


async def _read_document(source: Source, descriptor: Descriptor) -> Index | Manifest:
    data = await read(source, descriptor)
    if descriptor.media_type in MediaType.INDEXES:
        return Index.parse(data, descriptor.media_type)
    if descriptor.media_type in MediaType.MANIFESTS:
        return Manifest.parse(data, descriptor.media_type)
    raise InvalidImageError(
        f"{descriptor.digest} has the type {descriptor.media_type!r}, "
        "which is not a container image's"
    )


async def read_config(source: Source, manifest: Manifest) -> Config:
    """Read the config of a manifest.

    Raises:
        InvalidImageError: It is malformed.
    """
    return Config.parse(await read(source, manifest.config), manifest.config.media_type)


async def read(source: Source, descriptor: Descriptor) -> bytes:
    """Read a small blob into memory, checked.

    Raises:
        InvalidImageError: It is larger than `DOCUMENT_LIMIT`.
        DigestMismatchError: The bytes are others than the descriptor says.
    """
    if descriptor.data is not None:
        return descriptor.data
    if descriptor.size > DOCUMENT_LIMIT:
        raise InvalidImageError(f"{descriptor.digest} is larger than {DOCUMENT_LIMIT >> 20} MiB")
    verifier, parts = Verifier(descriptor), []
    async with source.fetch(descriptor) as chunks:
        async for chunk in chunks:
            verifier.update(chunk)
            parts.append(chunk)
    verifier.finish()
    return b"".join(parts)


async def copy_blob(
    source: Source,
    content: ContentStore,
    descriptor: Descriptor,
    *,
    limits: Sequence[asyncio.Semaphore],
    labels: Mapping[str, str],
    progress: ProgressCallback,
) -> None:
    """Copy one blob; nothing moves when it is there already.

    Continues from the bytes that an earlier attempt, by whomever, left in the store. Bytes that
    turn out to be wrong are thrown away and fetched again, once.

    Args:
        source: Where from.
        content: Where to.
        descriptor: The blob.
        limits: How many blobs are fetched at the same time; taken in this order.
        labels: Set on the blob when it is committed.
        progress: Called as bytes arrive.

    Raises:
        DigestMismatchError: The source sent other bytes than the descriptor says.
        UnavailableError: The connection broke. What arrived stays for the next attempt.
    """
    async with AsyncExitStack() as stack:
        for limit in limits:
            await stack.enter_async_context(limit)
        writer = await stack.enter_async_context(content.writer(descriptor))
        if writer is None:
            # Somebody else fetched it while we waited.
            progress(Progress(descriptor, State.FETCHED, descriptor.size, descriptor.size))
            return
        resumed_at = writer.offset
        try:
            await _stream(source, writer, descriptor, progress)
            await writer.commit(labels)
        except DigestMismatchError:
            # Whoever sent them, of now or of then, may do better.
            await writer.restart()
            resumed_at = 0
            await _stream(source, writer, descriptor, progress)
            await writer.commit(labels)
    progress(Progress(descriptor, State.FETCHED, descriptor.size, resumed_at))


async def _stream(
    source: Source, writer: Writer, descriptor: Descriptor, progress: ProgressCallback
) -> None:
    begin = writer.offset
    progress(Progress(descriptor, State.FETCHING, begin, begin))
    if begin == descriptor.size:
        return
    async with source.fetch(descriptor, begin) as chunks:
        async for chunk in chunks:
            await writer.write(chunk)
            progress(Progress(descriptor, State.FETCHING, writer.offset, begin))


class Tracker:
    """Makes the events of one pull add up, on their way to a callback."""

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._latest: dict[Digest, Progress] = {}

    def __call__(self, event: Progress) -> None:
        """Pass an event on; what is done after fetching keeps where that was resumed."""
        before = self._latest.get(event.descriptor.digest)
        if before is not None and event.state in {State.UNPACKING, State.DONE}:
            event = replace(event, resumed_at=before.resumed_at)
        self._latest[event.descriptor.digest] = event
        self._callback(event)

    def finish(self) -> None:
        """Everything is here: say so of the blobs that needed no unpacking."""
        for event in list(self._latest.values()):
            if not event.is_last:
                self(replace(event, state=State.DONE))


@asynccontextmanager
async def one_error() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first error by itself, instead of a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
