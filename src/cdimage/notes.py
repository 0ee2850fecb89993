"""What stores note beside a prepared image: as labels, or as annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cdimage.descriptor import Platform
from cdimage.errors import InvalidReferenceError

if TYPE_CHECKING:
    from cdimage.preparation import Preparation

USER_DIGEST: Final = "hpcc.dev/user-digest"
RECIPE: Final = "hpcc.dev/recipe"
PLATFORM: Final = "hpcc.dev/platform"
"""Of the image; of several platforms, with commas between them."""
ALL_PLATFORMS: Final = "hpcc.dev/all-platforms"


def notes_of(preparation: Preparation) -> dict[str, str]:
    """The notes for an image."""
    return {
        USER_DIGEST: str(preparation.user_digest),
        RECIPE: preparation.recipe,
        PLATFORM: ",".join(dict.fromkeys(map(str, preparation.platforms))),
        **({ALL_PLATFORMS: "true"} if preparation.is_all else {}),
    }


def platforms_in(notes: Mapping[str, str]) -> tuple[Platform, ...]:
    """What an image runs on; one unknown platform, where others have made the notes."""
    try:
        return tuple(map(Platform.parse, notes.get(PLATFORM, "").split(",")))
    except (InvalidReferenceError, AttributeError):
        return (Platform("unknown", "unknown"),)
