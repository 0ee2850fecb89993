"""Documents and headers, broken at random, so that readers show what they do with them."""

from __future__ import annotations

import json
import random
import string
from typing import Any

_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, 0.5, "", " ", "\0", "x",
    "sha256:", "sha256:" + "0" * 64, "sha256:" + "g" * 64, "sha512:" + "0" * 128, "md5:0", "../..",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
    "https://x/y", "\ud800", "é" * 300, "a" * 5000, [], {}, [[]], [{}], {"": {}}, [None] * 300,
)  # fmt: skip


def mutated(data: bytes, seed: int) -> bytes:
    """A JSON document that is a little, or very, different; the same for the same seed."""
    dice = random.Random(seed)
    if dice.random() < 0.2:
        return _mutated_bytes(data, dice)
    value = json.loads(data)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        value = _mutated_value(value, dice)
    text = json.dumps(value, ensure_ascii=dice.random() < 0.9)
    return text.encode(errors="surrogatepass")


def _mutated_bytes(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    match dice.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + dice.randbytes(dice.randrange(1, 8)) + data[at:]
        case 2:
            return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
        case 3:
            return data + data
        case _:
            return b"[" * dice.choice((1, 100, 100_000)) + data


def _mutated_value(value: Any, dice: random.Random) -> Any:
    """Change something somewhere below."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        return _mutated_object(value, dice)
    if isinstance(value, list) and value and dice.random() < 0.85:
        return _mutated_list(value, dice)
    if isinstance(value, str) and value and dice.random() < 0.5:
        at = dice.randrange(len(value))
        return value[:at] + dice.choice(string.printable + "é\0") + value[at + 1 :]
    if isinstance(value, int) and dice.random() < 0.5:
        return value + dice.choice((-1, 1, -value, 10**6, 10**12, 10**30))
    return dice.choice(_STRANGE)


def _mutated_object(value: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    key = dice.choice(sorted(value))
    match dice.randrange(8):
        case 0:
            return {k: value[k] for k in value if k != key}
        case 1:
            return {**value, _word(dice): dice.choice(_STRANGE)}
        case 2:
            return {**value, key: dice.choice(list(value.values()))}
        case _:
            return {**value, key: _mutated_value(value[key], dice)}


def _mutated_list(value: list[Any], dice: random.Random) -> list[Any]:
    at = dice.randrange(len(value))
    match dice.randrange(6):
        case 0:
            return [*value[:at], *value[at + 1 :]]
        case 1:
            return [*value, value[at]]
        case 2:
            return value * dice.choice((0, 2, 40))
        case _:
            return [*value[:at], _mutated_value(value[at], dice), *value[at + 1 :]]


def _word(dice: random.Random) -> str:
    return dice.choice(("mediaType", "urls", "data", "annotations", "manifests", "layers", "x", ""))


def mutated_header(value: str, seed: int) -> str:
    """A header that a server could send, of other contents."""
    dice = random.Random(seed)
    text = list(value)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(text) + 1)
        match dice.randrange(4):
            case 0:
                text[at:at] = dice.choice(string.printable[:-5])
            case 1:
                text = text[:at]
            case 2:
                text = text * dice.choice((1, 2, 30))
            case _:
                text[at : at + 3] = dice.choice(
                    ("999999999999999999999", '"', ",", "=", "\\", "-1")
                )
    return "".join(text)[:4000].strip()
