"""Prepared images on containerd: pull, verify, put a pause program on top, register.

::

    async with cdimage.connect() as client:
        store = cdimage.Store(client)
        await store.pull_image("debian:12", "sha256:…")

Each name is loaded when it is first used: importing cdimage costs next to nothing, and only who
speaks gRPC or HTTP loads what it takes.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes as long to load as all the rest here
if TYPE_CHECKING:
    from cdimage.containerd.client import TLS, Client, connect
    from cdimage.containerd.store import Store
    from cdimage.descriptor import Descriptor, Platform
    from cdimage.digest import Digest
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
    from cdimage.export import copy_image, export_image
    from cdimage.layout.store import LayoutStore
    from cdimage.memory import MemoryStore
    from cdimage.pause import PauseBinaries
    from cdimage.preparation import Inject
    from cdimage.prepared_name import prepared_image_name
    from cdimage.reference import Reference
    from cdimage.registry import Registry
    from cdimage.registry.credentials import Credentials
    from cdimage.registry.store import RegistryStore
    from cdimage.retry import Retry
    from cdimage.store import ImageStore, PreparedImage, Progress, ProgressCallback, Source, State
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

_WHERE = {
    "BackendError": "cdimage.errors",
    "CdimageError": "cdimage.errors",
    "Client": "cdimage.containerd.client",
    "Credentials": "cdimage.registry.credentials",
    "Descriptor": "cdimage.descriptor",
    "Digest": "cdimage.digest",
    "DigestMismatchError": "cdimage.errors",
    "ImageStore": "cdimage.store",
    "Inject": "cdimage.preparation",
    "InvalidConfigurationError": "cdimage.errors",
    "InvalidImageError": "cdimage.errors",
    "InvalidPauseProgramError": "cdimage.errors",
    "InvalidReferenceError": "cdimage.errors",
    "LayoutStore": "cdimage.layout.store",
    "MemoryStore": "cdimage.memory",
    "NotFoundError": "cdimage.errors",
    "PauseBinaries": "cdimage.pause",
    "PermissionDeniedError": "cdimage.errors",
    "Platform": "cdimage.descriptor",
    "PreparedImage": "cdimage.store",
    "Progress": "cdimage.store",
    "ProgressCallback": "cdimage.store",
    "Reference": "cdimage.reference",
    "Registry": "cdimage.registry",
    "RegistryStore": "cdimage.registry.store",
    "Retry": "cdimage.retry",
    "Source": "cdimage.store",
    "State": "cdimage.store",
    "Store": "cdimage.containerd.store",
    "TLS": "cdimage.containerd.client",
    "UnavailableError": "cdimage.errors",
    "UnsupportedPlatformError": "cdimage.errors",
    "Verification": "cdimage.validate",
    "connect": "cdimage.containerd.client",
    "copy_image": "cdimage.export",
    "export_image": "cdimage.export",
    "prepared_image_name": "cdimage.prepared_name",
    "verify_image": "cdimage.validate",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    value: object = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
