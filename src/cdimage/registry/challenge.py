"""The ``WWW-Authenticate`` header of a registry: what it wants to see.

Syntax: RFC 9110, section 11.6.1; distribution v2.8, ``docs/spec/auth/token.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_GAP: Final = re.compile(r"[\s,]*")
_SCHEME: Final = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?=[\s,]|$)")
_PARAMETER: Final = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers.

    Attributes:
        scheme: In lower case, as ``bearer``.
        parameters: By their names in lower case.
    """

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read the headers, in their order; what cannot be understood is left out."""
    return [challenge for header in headers for challenge in _parse(header)]


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = _skip_gap(header, 0)
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        scheme = None if parameter else _SCHEME.match(header, position)
        if parameter and found:
            found[-1].parameters.setdefault(parameter[1].lower(), _value(parameter))
        elif scheme:
            found.append(Challenge(scheme[1].lower(), {}))
        match = parameter or scheme
        if match is None:
            break
        position = _skip_gap(header, match.end())
    return found


def _value(parameter: re.Match[str]) -> str:
    quoted, plain = parameter[2], parameter[3]
    return re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain


def _skip_gap(header: str, position: int) -> int:
    found = _GAP.match(header, position)
    return found.end() if found else position
