"""What the index of an image layout says of a prepared image."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError
from cdimage.named import IMAGE_NAME, REF_NAME
from cdimage.notes import ALL_PLATFORMS, RECIPE, USER_DIGEST, notes_of, platforms_in
from cdimage.preparation import Preparation
from cdimage.prepared_name import prepared_image_name
from cdimage.store import PreparedImage

BASE: Final = "hpcc.dev/base"
"""The annotation with the digests of the user's own documents."""

_CREATED: Final = "org.opencontainers.image.created"


def index_entry(preparation: Preparation, created: datetime | None) -> dict[str, Any]:
    """The entry of a prepared image.

    skopeo, podman and umoci find it by the hex of the user digest; ``ctr image import`` gives it
    its name.

    Args:
        preparation: The image.
        created: When it was registered; None leaves that out.
    """
    digest, target = preparation.user_digest, preparation.target
    entry: dict[str, Any] = {
        "mediaType": target.media_type,
        "digest": str(target.digest),
        "size": target.size,
    }
    if preparation.index is None:
        platform = preparation.platforms[0]
        entry["platform"] = {"architecture": platform.architecture, "os": platform.os}
    entry["annotations"] = {
        REF_NAME: digest.hex,
        IMAGE_NAME: prepared_image_name(str(digest)),
        **notes_of(preparation),
        BASE: " ".join(str(it.digest) for it in preparation.base_documents),
        **({_CREATED: created.isoformat(timespec="microseconds")} if created else {}),
    }
    return entry


def user_digest_of(entry: Mapping[str, Any]) -> Digest | None:
    """The user digest of a prepared image; None for another entry."""
    notes = entry.get("annotations")
    try:
        return Digest.parse(notes[USER_DIGEST]) if isinstance(notes, dict) else None
    except (InvalidReferenceError, KeyError, AttributeError):
        return None


def read_entry(entry: Mapping[str, Any], store: str) -> PreparedImage | None:
    """The prepared image that an entry names; None when it is of another kind.

    Args:
        entry: Of the index.
        store: What the store is called.
    """
    digest = user_digest_of(entry)
    if digest is None:
        return None
    notes = entry["annotations"]
    try:
        created = notes.get(_CREATED)
        target = Descriptor(
            str(entry["mediaType"]), Digest.parse(str(entry["digest"])), int(entry["size"])
        )
        return PreparedImage(
            user_digest=digest,
            name=f"{store}:{digest.hex}",
            target=target,
            platforms=platforms_in(notes),
            recipe=str(notes.get(RECIPE, "")),
            is_all=ALL_PLATFORMS in notes,
            updated_at=datetime.fromisoformat(created) if created else None,
        )
    except (ValueError, KeyError, TypeError):
        return None  # not as we write them
