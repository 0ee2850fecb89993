"""A table of a ``hosts.toml``, read key by key: what cannot be understood is an error.

An error names the file and the key. It shows no value of a header, and no address that holds
more than a host and a path.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cdimage.errors import InvalidConfigurationError

_SHOWN_LIMIT: Final = 200
_SIMILAR: Final = 0.8
_BARE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_POSITION: Final = re.compile(r"\(at ([^()]+)\)$")
_NUMBER: Final = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_STEP: Final = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"\+?(?:0|(?:{_STEP.pattern})+)")
_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3600,
}
_DURATION_LIMIT: Final = (2**63 - 1) / 10**9


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file.

    Attributes:
        file: Which it stands in.
        name: As messages show it; "" for the top of the file.
        values: What it holds.
    """

    file: Path
    name: str
    values: Mapping[str, Any] = field(repr=False)

    def check_keys(self, known: Collection[str], elsewhere: Collection[str] = ()) -> None:
        """Refuse keys that are misspelt or misplaced; containerd ignores them.

        A key that resembles none of these is left alone: a newer containerd may know it.

        Args:
            known: The keys that belong here.
            elsewhere: The keys that belong to the top of the file.
        """
        for key in self.values:
            if key in known:
                continue
            if key in elsewhere:
                raise self.error(key, "belongs to the top of the file: move it above all tables")
            if near := difflib.get_close_matches(key.lower(), known, 1, _SIMILAR):
                raise self.error(key, f"is not a key of this file: write {near[0]!r}")

    def text(self, key: str) -> str:
        """A text; "" where there is none."""
        value = self.values.get(key, "")
        if not isinstance(value, str):
            raise self.error(key, "is not a text: write it in quotes")
        return value

    def flag(self, key: str) -> bool:
        """True or false; false where it is not said."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "is not true or false: write one of them, without quotes")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts, or one text alone; empty where there is none."""
        value = self.items(key)
        if not all(isinstance(text, str) for text in value):
            raise self.error(key, "is not a text or a list of texts: write it in quotes")
        return value

    def items(self, key: str) -> list[Any]:
        """A list of whatever; anything else is a list of it alone."""
        value = self.values.get(key, [])
        return value if isinstance(value, list) else [value]

    def table(self, key: str) -> Table:
        """A table in this one; empty where there is none."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "is not a table: write it in [brackets], with keys below")
        shown = _shown(key)
        return Table(self.file, f"{self.name}.{shown}" if self.name else shown, value)

    def seconds(self, key: str) -> float | None:
        """A duration as Go writes it, as "1m30s"; None where there is none."""
        text = self.text(key)
        if not text:
            return None
        # Go's own limit, which keeps out what no clock can wait for.
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _STEP.findall(text))
        if not _DURATION.fullmatch(text) or seconds > _DURATION_LIMIT:
            raise self.error(key, 'is not a duration: write one like "30s", "1m30s" or "500ms"')
        return seconds

    def error(self, key: str, why: str) -> InvalidConfigurationError:
        """The error for a key; ``why`` goes on after it."""
        place = f" of [{self.name}]" if self.name else ""
        return InvalidConfigurationError(f"{self.file} cannot be used: {_shown(key)}{place} {why}")


def read_table(data: bytes, file: Path) -> Table:
    """The top of a file.

    Raises:
        InvalidConfigurationError: It is not TOML.
    """
    try:
        return Table(file, "", tomllib.loads(data.decode()))
    except (ValueError, RecursionError) as error:
        # Where, but not what: the line may hold a secret.
        found = _POSITION.search(str(error))
    raise InvalidConfigurationError(
        f"{file} is not valid TOML{f', at {found[1]}' if found else ''}: correct it"
    )


def unreadable(path: Path, error: OSError) -> InvalidConfigurationError:
    """The error for a file or a folder of settings that is there but cannot be read."""
    return InvalidConfigurationError(
        f"{path} cannot be read: {reason(error)}; correct it, or take it away"
    )


def reason(error: OSError | ValueError) -> str:
    """Why the system refuses a path, for a message."""
    text = error.strerror if isinstance(error, OSError) else None
    return text.lower() if text else "that is no path"


def _shown(key: str) -> str:
    """A key as a message may show it: an address may hold a password or a signature."""
    if _BARE.fullmatch(key):
        return key
    if set(key) & set("@?#"):
        return "'…'"
    return repr(key if len(key) <= _SHOWN_LIMIT else key[:_SHOWN_LIMIT] + "…")
