"""Prepared images on containerd: pull, verify, put a pause program on top, register.

::

    async with cdimage.connect() as client:
        store = cdimage.Store(client)
        await store.pull_image("debian:12", "sha256:…")

What speaks gRPC is loaded when it is first used, so that importing cdimage costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cdimage.descriptor import Descriptor, Digest, Platform
from cdimage.errors import (
    BackendError,
    CdimageError,
    DigestMismatchError,
    InvalidConfigurationError,
    InvalidImageError,
    InvalidPauseProgramError,
    InvalidReferenceError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedPlatformError,
)
from cdimage.pause import PauseBinaries
from cdimage.reference import Reference, prepared_image_name
from cdimage.retry import Retry
from cdimage.store import ImageStore, PreparedImage, Progress, ProgressCallback, Source, State

if TYPE_CHECKING:
    from cdimage.containerd.client import TLS, Client, connect
    from cdimage.containerd.store import Store
    from cdimage.export import copy_image, export_image
    from cdimage.layout.store import LayoutStore
    from cdimage.memory import MemoryStore
    from cdimage.preparation import Inject
    from cdimage.registry import Registry
    from cdimage.registry.credentials import Credentials
    from cdimage.registry.store import RegistryStore
    from cdimage.validate import Verification, verify_image

__version__ = "0.1.0"

__all__ = [
    "TLS",
    "BackendError",
    "CdimageError",
    "Client",
    "Credentials",
    "Descriptor",
    "Digest",
    "DigestMismatchError",
    "ImageStore",
    "Inject",
    "InvalidConfigurationError",
    "InvalidImageError",
    "InvalidPauseProgramError",
    "InvalidReferenceError",
    "LayoutStore",
    "MemoryStore",
    "NotFoundError",
    "PauseBinaries",
    "PermissionDeniedError",
    "Platform",
    "PreparedImage",
    "Progress",
    "ProgressCallback",
    "Reference",
    "Registry",
    "RegistryStore",
    "Retry",
    "Source",
    "State",
    "Store",
    "UnavailableError",
    "UnsupportedPlatformError",
    "Verification",
    "connect",
    "copy_image",
    "export_image",
    "prepared_image_name",
    "verify_image",
]

_LAZY = {
    "TLS": "cdimage.containerd.client",
    "Client": "cdimage.containerd.client",
    "Credentials": "cdimage.registry.credentials",
    "Inject": "cdimage.preparation",
    "LayoutStore": "cdimage.layout.store",
    "MemoryStore": "cdimage.memory",
    "Registry": "cdimage.registry",
    "RegistryStore": "cdimage.registry.store",
    "Store": "cdimage.containerd.store",
    "Verification": "cdimage.validate",
    "connect": "cdimage.containerd.client",
    "copy_image": "cdimage.export",
    "export_image": "cdimage.export",
    "verify_image": "cdimage.validate",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
