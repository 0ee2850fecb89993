"""What can go wrong, named by what the caller can do about it.

::

    CdimageError
    ├── InvalidReferenceError      correct the name, the digest or the platform that was passed
    ├── InvalidImageError          the image itself is broken, or is not an image: use another
    ├── InvalidPauseProgramError   correct the path of the pause program
    ├── InvalidConfigurationError  correct the file that the message names
    ├── UnsupportedPlatformError   ask for another platform, or bring a pause program for it
    ├── DigestMismatchError        what came is not what was asked for (``expected``, ``actual``)
    ├── NotFoundError              it is not there
    ├── PermissionDeniedError      bring credentials or rights
    ├── UnavailableError           try again later
    └── BackendError               the daemon or the registry did something that it should not

No exception of gRPC or of the HTTP client leaves cdimage. `asyncio.CancelledError` and
local `OSError` pass through unchanged.
"""

from __future__ import annotations

from typing import ClassVar


class CdimageError(Exception):
    """The root of all errors that cdimage raises on purpose.

    ``str(error)`` is one sentence for a person; it never holds a secret.
    ``exit_code`` is what the command line returns for it.
    """

    exit_code: ClassVar[int] = 1


class InvalidReferenceError(CdimageError, ValueError):
    """A reference, digest, platform or name that cannot be parsed or does not fit its use."""

    exit_code = 2


class InvalidImageError(CdimageError):
    """An image that breaks its specification, or something that is not a container image."""

    exit_code = 4


class InvalidPauseProgramError(CdimageError):
    """A pause program that cannot be read, or that its platform could not execute."""

    exit_code = 2


class InvalidConfigurationError(CdimageError):
    """A file of settings, as ``hosts.toml`` or a certificate, that cannot be understood."""

    exit_code = 2


class UnsupportedPlatformError(CdimageError):
    """The image has no variant for the platform, or there is no pause program for it."""

    exit_code = 5


class DigestMismatchError(CdimageError):
    """Bytes or a name that resolve to another digest than the expected one.

    Attributes:
        expected: The digest that was asked for.
        actual: The digest that was found.
    """

    exit_code = 3

    def __init__(self, message: str, *, expected: str, actual: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class NotFoundError(CdimageError):
    """The image, blob, record or snapshotter does not exist where it was looked for."""

    exit_code = 6


class PermissionDeniedError(CdimageError):
    """Credentials are missing or refused, or the socket is not ours to open."""

    exit_code = 7


class UnavailableError(CdimageError):
    """The other side cannot be reached or is busy; the same call may succeed later.

    Attributes:
        retry_after: How many seconds the other side asked to wait; None when it did not say.
    """

    exit_code = 8

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendError(CdimageError):
    """The daemon or the registry failed or answered in a way that its protocol does not allow."""

    exit_code = 9
