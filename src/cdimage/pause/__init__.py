"""The pause programs: which file is for which platform, and whether it can run there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from cdimage.descriptor import Platform
from cdimage.digest import Digest
from cdimage.errors import InvalidPauseProgramError, UnsupportedPlatformError
from cdimage.pause.headers import check_program

_BUNDLED: Final = Path(__file__).parent / "bin"
_SIZE_LIMIT: Final = 8 << 20


@dataclass(frozen=True)
class PauseProgram:
    """A pause program that was read and checked.

    Attributes:
        platform: What it runs on.
        data: The program.
    """

    platform: Platform
    data: bytes

    @cached_property
    def digest(self) -> Digest:
        """Of the program: two with equal digests make equal images."""
        return Digest.of(self.data)


@dataclass(frozen=True, slots=True)
class PauseBinaries:
    """Paths, on this host, of each platform's pause program; None or "" where there is none."""

    linux_amd64: str | os.PathLike[str] | None = None
    linux_arm64: str | os.PathLike[str] | None = None
    windows_amd64: str | os.PathLike[str] | None = None

    @classmethod
    def bundled(cls) -> PauseBinaries:
        """The programs that ship with cdimage."""
        return cls(
            linux_amd64=_BUNDLED / "linux_amd64",
            linux_arm64=_BUNDLED / "linux_arm64",
            windows_amd64=_BUNDLED / "windows_amd64.exe",
        )

    def read(self, platform: Platform) -> PauseProgram:
        """Read the program for a platform; its variant does not matter.

        Raises:
            UnsupportedPlatformError: There is none for it.
            InvalidPauseProgramError: The file cannot be read, or would not run there.
        """
        paths = self._paths()
        path = paths.get((platform.os, platform.architecture))
        if not path:
            offered = ", ".join("/".join(key) for key, value in paths.items() if value)
            raise UnsupportedPlatformError(
                f"there is no pause program for {platform}, only for {offered or 'no platform'}"
            )
        data = _read(path)
        check_program(data, platform, os.fspath(path))
        return PauseProgram(Platform(platform.os, platform.architecture), data)

    def has(self, platform: Platform) -> bool:
        """Whether there is a program for a platform."""
        return bool(self._paths().get((platform.os, platform.architecture)))

    def _paths(self) -> dict[tuple[str, str], str | os.PathLike[str] | None]:
        return {
            ("linux", "amd64"): self.linux_amd64,
            ("linux", "arm64"): self.linux_arm64,
            ("windows", "amd64"): self.windows_amd64,
        }


def _read(path: str | os.PathLike[str]) -> bytes:
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(_SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:  # a path with a NUL in it is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidPauseProgramError(
            f"the pause program {name!r} cannot be read: {reason}"
        ) from None
    if len(data) > _SIZE_LIMIT:
        raise InvalidPauseProgramError(
            f"the pause program {name} is larger than {_SIZE_LIMIT >> 20} MiB: "
            "it would be copied into every image; give a small static executable"
        )
    return data
