"""The ``WWW-Authenticate`` header of a registry: what it wants to see.

Syntax: RFC 9110, section 11.6.1; distribution v2.8, ``docs/spec/auth/token.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SCHEME: Final = re.compile(r"\s*,*\s*([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?=\s|,|$)")
_PARAMETER: Final = re.compile(
    r"""\s*,*\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))"""
)


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
    """Read the headers; what cannot be understood is left out."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        while position < len(header):
            parameter = _PARAMETER.match(header, position)
            if parameter and found:
                quoted, plain = parameter[2], parameter[3]
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                found[-1].parameters.setdefault(parameter[1].lower(), value)
                position = parameter.end()
                continue
            scheme = _SCHEME.match(header, position)
            if scheme is None:
                break
            found.append(Challenge(scheme[1].lower(), {}))
            position = scheme.end()
    return found
