"""Images whose files belong to the users of a user namespace."""

from __future__ import annotations

import ctypes
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cdimage.containerd.api.types_pb2 import Mount
from cdimage.containerd.client import Client
from cdimage.containerd.errors import AlreadyExistsError
from cdimage.errors import BackendError
from cdimage.threads import to_end
from cdimage.warm.image import StartableImage
from cdimage.warm.options import UserNamespace

_LEASE_SECONDS: Final = 3600.0
_GC: Final = "containerd.io/gc.ref.snapshot."
_FLAGS: Final = {"ro": 1, "bind": 4096, "rbind": 4096 | 16384}
_DETACH: Final = 2
_PAGE: Final = 4096  # of the kernel, for a mount's options

_libc = ctypes.CDLL(None, use_errno=True)


async def remapped_snapshot(client: Client, image: StartableImage, users: UserNamespace) -> str:
    """The name of a snapshot of the image's files, with the owners that the namespace needs.

    Made when it is first asked for, and kept as long as the image is. Cancelled or killed, it
    leaves what a lease holds for an hour.

    Raises:
        BackendError: It cannot be mounted here.
    """
    snapshotter = image.snapshotter
    name = f"{image.chain_id}-users-{users.first}-{users.count}"
    if await client.snapshots.exists(snapshotter, name):
        return name
    lease = await client.leases.create(_LEASE_SECONDS)
    leased = client.leased(lease)
    key = f"users-{secrets.token_hex(8)} {name}"
    try:
        mounts = await leased.snapshots.prepare(snapshotter, key, image.chain_id, {})
        await to_end(lambda: _change_owners(mounts, users))
        try:
            await leased.snapshots.commit(snapshotter, name, key, {})
        except AlreadyExistsError:
            await leased.snapshots.remove(snapshotter, key)
        label = f"{_GC}{snapshotter}/users-{users.first}-{users.count}"
        await leased.content.set_labels(image.config, {label: name})
    finally:
        await client.leases.delete(lease)
    return name


def _change_owners(mounts: Sequence[Mount], users: UserNamespace) -> None:
    with tempfile.TemporaryDirectory(prefix="cdimage-") as folder, _mounted(mounts, folder):
        seen: dict[int, tuple[int, int]] = {}
        for path, folders, names, directory in os.fwalk(folder, follow_symlinks=False):
            _change_owner(".", directory, users, seen)
            links = [name for name in folders if Path(path, name).is_symlink()]
            for name in (*names, *links):
                _change_owner(name, directory, users, seen)


def _change_owner(
    name: str, directory: int, users: UserNamespace, seen: dict[int, tuple[int, int]]
) -> None:
    before = os.stat(name, dir_fd=directory, follow_symlinks=False)
    owner = before.st_uid, before.st_gid
    if before.st_nlink > 1 and seen.setdefault(before.st_ino, owner) != owner:
        return  # changed under another name, which overlayfs takes for another file
    if max(before.st_uid, before.st_gid) >= users.count:
        raise BackendError(
            f"the image has files of the user {max(before.st_uid, before.st_gid)}, and the user "
            f"namespace only {users.count} users: give it more"
        )
    os.chown(
        name, users.first + before.st_uid, users.first + before.st_gid,
        dir_fd=directory, follow_symlinks=False,
    )  # fmt: skip
    if stat.S_ISREG(before.st_mode) and before.st_mode & (stat.S_ISUID | stat.S_ISGID):
        os.chmod(name, stat.S_IMODE(before.st_mode), dir_fd=directory)


@contextmanager
def _mounted(mounts: Sequence[Mount], folder: str) -> Iterator[None]:
    if len(mounts) != 1:
        raise BackendError("a snapshot of several mounts cannot be given to other users")
    (mount,) = mounts
    flags, words = 0, []
    for option in mount.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option != "rw":
            words.append(option)
    data = ",".join(words).encode()
    if len(data) >= _PAGE:
        raise BackendError("an image of so many layers cannot be given to other users")
    arguments = (mount.source.encode(), folder.encode(), mount.type.encode(), flags, data)
    if _libc.mount(*arguments) != 0:
        raise BackendError(f"a snapshot cannot be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        _libc.umount2(folder.encode(), _DETACH)
