"""Finding an image in a source: from a name down to manifests and configs, checked.

Digests are compared before a layer byte moves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cdimage.descriptor import Descriptor, MediaType, Platform
from cdimage.digest import Digest
from cdimage.errors import (
    DigestMismatchError,
    InvalidImageError,
    UnsupportedPlatformError,
)
from cdimage.image import Config, Index, Manifest
from cdimage.pull import read
from cdimage.reference import Reference
from cdimage.store import Source

NESTING_LIMIT: Final = 4
"""How deep indexes may lie in indexes."""
PLATFORM_LIMIT: Final = 100
"""How many platforms of one image are prepared together."""

Wanted = Platform | Sequence[Platform] | Literal["all"] | None
"""Of which platforms an image is wanted: of one, of several, of all that can be, or as it is."""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image that was found, checked and read down to its config.

    Attributes:
        user_digest: What the caller asked for: of `indexes[0]` or of `manifest`.
        manifest: The manifest for the platform.
        config: Its config.
        indexes: Those that led to the manifest, outermost first.
        entry: The JSON object in the innermost of them that names the manifest.
    """

    user_digest: Digest
    manifest: Manifest
    config: Config
    indexes: tuple[Index, ...] = field(default=())
    entry: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was asked for by digest, and the indexes above it."""

    document: Index | Manifest
    indexes: tuple[Index, ...]
    entry: Mapping[str, Any]


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
    root = await _find(source, reference, expected)
    image = await _choose(source, root, expected, platform or default_platform)
    if platform is not None:
        _check_platform(image.config, platform)
    return image


async def resolve_images(
    source: Source,
    reference: Reference,
    expected: Digest,
    platforms: Sequence[Platform] | Literal["all"],
    can_prepare: Callable[[Platform], bool],
) -> list[ResolvedImage]:
    """Find an image for several platforms, in the order of its index, each manifest once.

    Args:
        source: As for `resolve_image`.
        reference: As for `resolve_image`.
        expected: As for `resolve_image`.
        platforms: Which; with ``all``, those of the index that can be prepared.
        can_prepare: Whether there is a pause program.

    Raises:
        DigestMismatchError: The reference names another image than ``expected``.
        UnsupportedPlatformError: It is not for one of the platforms, or for none that can be
            prepared.
        InvalidImageError: It is broken, or has more than `PLATFORM_LIMIT` platforms.
    """
    root = await _find(source, reference, expected)
    if platforms == "all":
        found = [image async for image in _walk(source, root, expected, can_prepare)]
        if not found:
            raise UnsupportedPlatformError("the image is for no platform that can be prepared")
        return found
    if isinstance(root.document, Manifest):
        image = await _choose(source, root, expected, platforms[0])
        for platform in platforms:
            _check_platform(image.config, platform)
        return [image]
    chosen = [await _choose(source, root, expected, platform) for platform in platforms]
    for image, platform in zip(chosen, platforms, strict=True):
        _check_platform(image.config, platform)
    order = {entry.digest: n for n, entry in enumerate(root.document.manifests)}
    unique = {image.manifest.digest: image for image in chosen}
    return sorted(unique.values(), key=lambda image: order.get(_outer_digest(image, root), 0))


def _outer_digest(image: ResolvedImage, root: _Found) -> Digest:
    """What the outermost index lists on the way to an image."""
    below = image.indexes[len(root.indexes) + 1 :]
    return below[0].digest if below else image.manifest.digest


def _check_platform(config: Config, platform: Platform) -> None:
    if not config.platform.satisfies(platform):
        raise UnsupportedPlatformError(f"the image is for {config.platform}, not for {platform}")


async def _find(source: Source, reference: Reference, expected: Digest) -> _Found:
    if reference.is_bare:
        reference = reference.at(expected)
    found = await source.resolve(reference)
    if found.digest == expected:
        return _Found(await _read_document(source, found), (), {})
    root: Index | Manifest | None = None
    with suppress(InvalidImageError):  # that it is another image is the news
        root = await _read_document(source, found)
    if isinstance(root, Index):
        for entry in root.manifests:
            if entry.digest == expected:
                return _Found(await _read_document(source, entry), (), {})
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
    source: Source, root: _Found, expected: Digest, platform: Platform
) -> ResolvedImage:
    """Walk down to the manifest for the platform; the first that matches is taken."""
    document, indexes, entry = root.document, root.indexes, root.entry
    while isinstance(document, Index):
        indexes = _deeper(indexes, document)
        entry, chosen = await _select(source, document, platform)
        document = await _read_document(source, chosen)
    return ResolvedImage(expected, document, await read_config(source, document), indexes, entry)


async def _select(
    source: Source, index: Index, platform: Platform
) -> tuple[Mapping[str, Any], Descriptor]:
    for entry, descriptor in zip(index.entries, index.manifests, strict=True):
        stated = descriptor.platform or await _platform_in_config(source, descriptor)
        if stated is None or stated.satisfies(platform):
            return entry, descriptor
    offered = sorted({str(entry.platform) for entry in index.manifests if entry.platform})
    raise UnsupportedPlatformError(
        f"the image is not for {platform}; it is for {', '.join(offered) or 'no platform at all'}"
    )


async def _walk(
    source: Source, root: _Found, expected: Digest, can_prepare: Callable[[Platform], bool]
) -> AsyncIterator[ResolvedImage]:
    """All images below a document that can be prepared, each once, in their order."""
    seen: set[Digest] = set()
    todo = [root]
    while todo:
        here = todo.pop(0)
        if isinstance(here.document, Index):
            indexes = _deeper(here.indexes, here.document)
            todo = [*await _below(source, here.document, indexes, can_prepare), *todo]
            continue
        config = await read_config(source, here.document)
        if here.document.digest in seen or not can_prepare(config.platform):
            continue
        seen.add(here.document.digest)
        if len(seen) > PLATFORM_LIMIT:
            raise InvalidImageError(f"the image has more than {PLATFORM_LIMIT} platforms")
        yield ResolvedImage(expected, here.document, config, here.indexes, here.entry)


async def _below(
    source: Source,
    index: Index,
    indexes: tuple[Index, ...],
    can_prepare: Callable[[Platform], bool],
) -> list[_Found]:
    entries = [
        pair
        for pair in zip(index.entries, index.manifests, strict=True)
        if pair[1].platform is None or can_prepare(pair[1].platform)
    ]
    if len(entries) > PLATFORM_LIMIT:
        raise InvalidImageError(f"the image has more than {PLATFORM_LIMIT} platforms")
    return [
        _Found(await _read_document(source, descriptor), indexes, entry)
        for entry, descriptor in entries
    ]


def _deeper(indexes: tuple[Index, ...], index: Index) -> tuple[Index, ...]:
    if len(indexes) == NESTING_LIMIT:
        raise InvalidImageError(f"indexes are nested more than {NESTING_LIMIT} deep")
    return (*indexes, index)


async def _platform_in_config(source: Source, entry: Descriptor) -> Platform | None:
    """The platform of an entry that states none; None for a nested index."""
    document = await _read_document(source, entry)
    if isinstance(document, Index):
        return None
    return (await read_config(source, document)).platform


async def _read_document(source: Source, descriptor: Descriptor) -> Index | Manifest:
    data = await read(source, descriptor)
    return parse_document(data, descriptor)


def parse_document(data: bytes, descriptor: Descriptor) -> Index | Manifest:
    """Read an index or a manifest, whichever its media type says.

    Raises:
        InvalidImageError: It is malformed, or neither.
    """
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
