"""The arithmetic checksum against the loop of RFC 1071."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvproxy.wire.checksum import checksum, ones_sum, pseudo_header, valid


def naive(data: bytes) -> int:
    """The sum as RFC 1071 §4.1 computes it, before it is complemented."""
    total = 0
    for position in range(0, len(data), 2):
        total += int.from_bytes(data[position : position + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize(
    "size", [*range(67), *range(508, 524), *range(1459, 1462), *range(8188, 8230), 65535]
)
@pytest.mark.parametrize("fill", [0x00, 0x01, 0x80, 0xFF])
def test_every_length(size: int, fill: int) -> None:
    data = bytes([fill]) * size
    for form in (data, bytearray(data), memoryview(data)):
        assert ones_sum(form, size) == naive(data) % 0xFFFF
    assert ones_sum(b"before" + data + b"behind", size, 6) == naive(data) % 0xFFFF


@settings(derandomize=True, database=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert ones_sum(data, len(data)) == naive(data) % 0xFFFF


@settings(derandomize=True, database=None)
@given(st.binary(min_size=2, max_size=200), st.integers(0, 60).map(lambda half: half * 2))
def test_what_is_checksummed_is_valid(data: bytes, place: int) -> None:
    place = min(place, len(data) - 2 & ~1)
    blank = data[:place] + b"\0\0" + data[place + 2 :]
    field = checksum(ones_sum(blank, len(blank)))
    done = blank[:place] + field.to_bytes(2, "big") + blank[place + 2 :]
    assert valid(ones_sum(done, len(done)))
    assert naive(done) == 0xFFFF
    flipped = bytearray(done)
    flipped[0] ^= 1
    assert not valid(ones_sum(flipped, len(flipped)))


@pytest.mark.parametrize(("total", "field"), [(0, 0xFFFF), (0xFFFF, 0xFFFF), (1, 0xFFFE)])
def test_zero_is_never_written(total: int, field: int) -> None:
    """UDP keeps 0 for "no checksum" (RFC 768); elsewhere the two are the same number."""
    assert checksum(total) == field


@pytest.mark.parametrize("size", [8, 32])
def test_pseudo_header(size: int) -> None:
    """RFC 9293 §3.1 and RFC 8200 §8.1 differ in lengths that are zero anyway."""
    addresses = bytes(range(200, 200 + size))
    total = pseudo_header(addresses, 17) + 9
    assert total % 0xFFFF == naive(addresses + b"\0\x11\0\x09") % 0xFFFF
