"""Digests: the names of blobs.

Specification: image-spec v1.1.0, ``descriptor.md``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cdimage.errors import InvalidReferenceError

_HEX: Final = re.compile(r"[a-f0-9]+")
_LENGTHS: Final = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of a blob: an algorithm and the hash of the bytes as they are stored.

    Only sha256 and sha512 in lower case exist, so equal digests are equal strings.
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``algorithm:hex``; without an algorithm it is sha256.

        Raises:
            InvalidReferenceError: It is not a digest that cdimage can check.
        """
        algorithm, separator, value = text.rpartition(":")
        if not separator:
            algorithm = "sha256"
        length = _LENGTHS.get(algorithm)
        if length is None:
            raise InvalidReferenceError(
                f"{text!r} is not a digest: the algorithm must be sha256 or sha512"
            )
        if len(value) != length or not _HEX.fullmatch(value):
            raise InvalidReferenceError(
                f"{text!r} is not a digest: {algorithm} has {length} hexadecimal digits "
                "in lower case"
            )
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of these bytes."""
        import hashlib  # noqa: PLC0415 - loads OpenSSL, and names are read without it

        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def matches(self, data: bytes) -> bool:
        """Whether the bytes have this digest."""
        return Digest.of(data, self.algorithm) == self

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
