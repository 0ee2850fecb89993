"""Unpacking while it streams."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from cdimage.compression import Decompressor
from cdimage.errors import InvalidImageError

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "two members": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),
    "two frames": lambda data: zstd.compress(data[:5]) + zstd.compress(data[5:]),
    "padded": lambda data: gzip.compress(data) + bytes(100),
}


def unpack(data: bytes, step: int = 1000) -> bytes:
    reader, parts = Decompressor(), []
    for start in range(0, len(data), step):
        parts += list(reader.decompress(data[start : start + step]))
    reader.finish()
    return b"".join(parts)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_every_packing_is_recognised_and_unpacked(packing: str, step: int) -> None:
    data = bytes(range(256)) * 20
    assert unpack(PACKINGS[packing](data), step) == data


@given(st.binary(min_size=4), st.sampled_from(["gzip", "zstd"]), st.integers(1, 50))
def test_what_is_packed_is_unpacked(data: bytes, packing: str, step: int) -> None:
    assert unpack(PACKINGS[packing](data), step) == data


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_bomb_comes_in_small_pieces(packing: str) -> None:
    reader = Decompressor()
    pieces = [len(piece) for piece in reader.decompress(PACKINGS[packing](bytes(50_000_000)))]
    assert sum(pieces) == 50_000_000
    assert max(pieces) <= 1 << 20


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_what_is_cut_off_or_broken_is_refused(packing: str) -> None:
    whole = PACKINGS[packing](bytes(range(256)) * 200)
    with pytest.raises(InvalidImageError, match="cut off"):
        unpack(whole[:-9])
    broken = whole[:4] + bytes(byte ^ 0xFF for byte in whole[4:40]) + whole[40:]
    with pytest.raises(InvalidImageError, match=f"the {packing} stream is broken"):
        unpack(broken)
