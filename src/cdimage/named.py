"""Images by their names, in the index of an image layout: of a directory, or of an archive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from cdimage.descriptor import Descriptor, MediaType
from cdimage.digest import Digest
from cdimage.errors import (
    DigestMismatchError,
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
)
from cdimage.image import DOCUMENT_LIMIT, Index, document_type

REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"
_SHOWN: Final = 10
_Found = TypeVar("_Found")


def choose_named(
    index: Index, wanted: str | None, place: str, normal: Callable[[str], str] = str
) -> Descriptor:
    """The image of that name, or the only one that there is.

    Args:
        index: Of the layout.
        wanted: The name; None for any.
        place: What the layout is called.
        normal: Makes names that mean the same equal.

    Raises:
        NotFoundError: There is no such image.
        InvalidReferenceError: There are several, and none is named.
    """
    found = {
        descriptor.digest: descriptor
        for entry, descriptor in zip(index.entries, index.manifests, strict=True)
        if wanted is None or normal(wanted) in map(normal, _names(entry))
    }
    names = [name for entry in index.entries for name in _names(entry)]
    return choose_one(list(found.values()), wanted, place, names)


def choose_one(found: list[_Found], wanted: str | None, place: str, names: list[str]) -> _Found:
    """The only one that was found.

    Args:
        found: What has the name.
        wanted: The name; None for any.
        place: Where it was looked for.
        names: All that there are, to be mentioned.

    Raises:
        NotFoundError: There is none.
        InvalidReferenceError: There are several.
    """
    unique = sorted(set(names))
    shown = ", ".join(unique[:_SHOWN]) + (", …" if len(unique) > _SHOWN else "")
    has = f"; it has {shown}" if unique else ""
    if not found:
        raise NotFoundError(f"there is no image {wanted or ''!r} in {place}{has}")
    if len(found) > 1:
        raise InvalidReferenceError(f"{place} holds {len(found)} images: name one{has}")
    return found[0]


def check_document(data: bytes, digest: Digest, place: str, media_type: str = "") -> Descriptor:
    """The descriptor, with its bytes, of an index or a manifest that was found by its digest.

    Raises:
        DigestMismatchError: These are other bytes.
        InvalidImageError: They are too many.
        NotFoundError: This is neither an index nor a manifest.
    """
    if len(data) > DOCUMENT_LIMIT:
        raise InvalidImageError(f"{digest} in {place} is larger than a manifest may be")
    if not digest.matches(data):
        raise DigestMismatchError(
            f"{place} holds other bytes under {digest}",
            expected=str(digest),
            actual=str(Digest.of(data, digest.algorithm)),
        )
    media_type = media_type or document_type(data)
    if media_type not in MediaType.INDEXES | MediaType.MANIFESTS:
        raise NotFoundError(f"{digest} in {place} is not an image")
    return Descriptor(media_type, digest, len(data), data=data)


def _names(entry: dict[str, Any]) -> list[str]:
    notes = entry.get("annotations")
    found = [notes.get(key) for key in (REF_NAME, IMAGE_NAME)] if isinstance(notes, dict) else []
    return [name for name in found if isinstance(name, str)]
