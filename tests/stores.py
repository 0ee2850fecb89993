"""What tests ask of any store."""

from __future__ import annotations

from cdimage.errors import InvalidImageError
from cdimage.prepared_store import PreparedStore
from cdimage.validate import verify_image


async def check_verified(store: PreparedStore, user_digest: str) -> None:
    """See that everything about an image is right, from the bytes in its store."""
    found = await verify_image(store, user_digest)
    if found.disagreements:
        raise InvalidImageError("\n".join(map(str, found.disagreements)))
    assert found.blobs > 0
