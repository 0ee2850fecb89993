"""What a prepared image is called wherever images have names."""

from __future__ import annotations

from typing import Final

from cdimage.digest import Digest

PREPARED_REPOSITORY: Final = "prepared.hpcc.local/img"


def prepared_image_name(user_digest: str) -> str:
    """The name of the image record of a prepared image, worked out from the user's digest alone.

    Args:
        user_digest: ``sha256:<hex>`` or ``sha512:<hex>``; without an algorithm it is sha256.

    Raises:
        InvalidReferenceError: It is not a digest.
    """
    return f"{PREPARED_REPOSITORY}:{Digest.parse(user_digest).hex}"
