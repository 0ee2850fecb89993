"""Checking bytes against their descriptor while they stream: size first, then digest."""

from __future__ import annotations

import hashlib

from cdimage.descriptor import Descriptor
from cdimage.digest import Digest
from cdimage.errors import DigestMismatchError


class Verifier:
    """Counts and hashes the bytes of one blob."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._size = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            DigestMismatchError: They are more than the descriptor's size.
        """
        self._size += len(data)
        check_size(self._descriptor, self._size)
        self._hash.update(data)

    def finish(self) -> None:
        """Check the whole.

        Raises:
            DigestMismatchError: The bytes are fewer, or others.
        """
        if self._size != self._descriptor.size:
            raise size_mismatch(self._descriptor, self._size)
        actual = Digest(self._descriptor.digest.algorithm, self._hash.hexdigest())
        if actual != self._descriptor.digest:
            raise DigestMismatchError(
                f"the bytes that came for {self._descriptor.digest} have the digest {actual}",
                expected=str(self._descriptor.digest),
                actual=str(actual),
            )


def check_size(descriptor: Descriptor, size: int) -> None:
    """Refuse more bytes than the descriptor announces.

    Raises:
        DigestMismatchError: ``size`` is larger.
    """
    if size > descriptor.size:
        raise size_mismatch(descriptor, size)


def size_mismatch(descriptor: Descriptor, size: int) -> DigestMismatchError:
    """The error for a blob of another size than announced."""
    more = "more than" if size > descriptor.size else f"{size} bytes instead of"
    return DigestMismatchError(
        f"{descriptor.digest} came with {more} the {descriptor.size} bytes that it must have",
        expected=str(descriptor.digest),
        actual=f"{size} bytes",
    )
