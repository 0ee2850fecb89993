"""One table from gRPC's status codes to our errors; no gRPC exception passes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from cdimage.errors import (
    BackendError,
    CdimageError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)


class AlreadyExistsError(BackendError):
    """The daemon has it already. Never leaves this package."""


class FailedPreconditionError(BackendError):
    """The daemon refused, because of the state that something is in."""


class LeftoverError(UnavailableError):
    """A directory that a crash of the daemon left behind is in the way of a snapshot.

    The daemon numbers its directories, and tries the same number again and again. It looks for
    such leftovers when it has removed a snapshot (containerd v2.1.0, core/metadata/snapshot.go,
    garbageCollect), and offers no call that does so.
    """


class ShimEndedError(UnavailableError):
    """The process that answers for a container has ended: it is being removed, or was killed."""


class LockedError(UnavailableError):
    """Another client is writing the same blob. Never leaves this package."""


_ERRORS: Final[dict[grpc.StatusCode, type[CdimageError]]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDeniedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.ABORTED: UnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
}


NOT_SENT: Final = "Internal error from Core"
"""What gRPC says of a stream whose other side takes no more (grpcio v1.85, aio/_call.py)."""
_BROKE: Final = (
    "containerd could not {action}: the connection to {address} broke; see whether it runs, "
    "and try again"
)
_BY_WORDS: Final[tuple[tuple[str, type[CdimageError], str], ...]] = (
    (NOT_SENT, UnavailableError, _BROKE),
    ("no space left on device", UnavailableError,
     "containerd could not {action}: its disk is full; free some space and try again"),
    ("failed to rename", LeftoverError,
     "containerd could not {action}: what a crash of it left behind is in the way; it is removed "
     "with the next snapshot that is: untag an image that nobody needs, and try again"),
    ("ttrpc: closed", ShimEndedError,
     "containerd could not {action}: the shim of the container has ended"),
    (" locked for ", LockedError, "containerd could not {action}: {details}"),
    ("unknown service", BackendError,
     "what listens at {address} does not offer containerd's own services: containerd's "
     "tcp_address is for CRI only, so put a TLS proxy in front of its socket"),
)  # fmt: skip
"""What the status does not tell."""


@contextmanager
def translated(action: str, address: str) -> Iterator[None]:
    """Turn what gRPC raises inside into ours.

    Args:
        action: What was tried, to follow "could not", as "list the images".
        address: The daemon's, for the message.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _translate(error, action, address) from None
    except grpc.aio.InternalError:  # the same, of a stream whose other side died
        raise UnavailableError(_BROKE.format(action=action, address=address)) from None
    except grpc.aio.UsageError as error:
        raise BackendError(f"containerd could not {action}: {error}") from None


def _translate(error: grpc.aio.AioRpcError, action: str, address: str) -> CdimageError:
    details = (error.details() or error.code().name).strip()
    is_gone = "connect" in details or "ocket" in details
    if error.code() is grpc.StatusCode.UNAVAILABLE and is_gone and " locked for " not in details:
        return _not_connected(details, address)
    for words, kind, sentence in _BY_WORDS:
        if words in details:
            return kind(sentence.format(action=action, address=address, details=details))
    return _ERRORS.get(error.code(), BackendError)(f"containerd could not {action}: {details}")


def _not_connected(details: str, address: str) -> CdimageError:
    if "Permission denied" in details:
        return PermissionDeniedError(
            f"the socket of containerd at {address} may not be opened by this user: "
            "run as root, or as a member of the socket's group"
        )
    return UnavailableError(
        f"no containerd answers at {address}: start it, or name another with --address "
        "or CONTAINERD_ADDRESS"
    )
