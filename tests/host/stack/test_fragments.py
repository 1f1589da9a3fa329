"""Fragments in any order, twice, overlapping, too many, too late: RFC 791 §3.2."""

from itertools import permutations

import pytest

from gvproxy.limits import Limit, Quota
from gvproxy.stack import fragments
from gvproxy.stack.fragments import Reassembler
from gvproxy.wire import ipv4

PAYLOAD = bytes(range(256)) * 8
KEY = (None, b"key")
LIMIT = Limit(64, 48)


def piece(start: int, end: int, *, last: bool | None = None) -> tuple[int, memoryview]:
    """Return flags and offset, and the payload, of the fragment from `start` to `end`."""
    more = end < len(PAYLOAD) if last is None else not last
    return start >> 3 | (ipv4.MORE_FRAGMENTS if more else 0), memoryview(PAYLOAD)[start:end]


def test_any_order() -> None:
    pieces = [piece(0, 512), piece(512, 520), piece(520, 1500 & ~7), piece(1500 & ~7, 2048)]
    for order in permutations(pieces):
        reassembler = Reassembler(Quota(LIMIT))
        *before, whole = [reassembler.add(KEY, *fragment, 0.0) for fragment in order]
        assert before == [None] * 3
        assert whole == PAYLOAD
        assert len(reassembler) == 0
        assert reassembler.failures == 0


def test_last_fragment_of_any_size() -> None:
    reassembler = Reassembler(Quota(LIMIT))
    reassembler.add(KEY, *piece(0, 2040), 0.0)
    assert reassembler.add(KEY, *piece(2040, 2041, last=True), 0.0) == PAYLOAD[:2041]


def test_two_packets_do_not_mix() -> None:
    reassembler = Reassembler(Quota(LIMIT))
    reassembler.add((None, b"one"), *piece(0, 1024), 0.0)
    assert reassembler.add((None, b"two"), *piece(1024, 2048), 0.0) is None
    assert reassembler.add((None, b"one"), *piece(1024, 2048), 0.0) == PAYLOAD
    assert len(reassembler) == 1


def test_fragment_that_comes_twice() -> None:
    reassembler = Reassembler(Quota(LIMIT))
    for _ in range(3):
        assert reassembler.add(KEY, *piece(0, 1024), 0.0) is None
    assert reassembler.add(KEY, *piece(1024, 2048), 0.0) == PAYLOAD
    assert reassembler.failures == 0


@pytest.mark.parametrize("overlap", [(0, 1032), (512, 1024), (1016, 2048), (0, 2048), (8, 16)])
def test_overlap_voids_the_packet(overlap: tuple[int, int]) -> None:
    """What was there before and what comes after must not be joined to something else."""
    reassembler = Reassembler(Quota(LIMIT))
    reassembler.add(KEY, *piece(0, 1024), 0.0)
    assert reassembler.add(KEY, *piece(*overlap), 0.0) is None
    assert reassembler.failures == 1
    assert len(reassembler) == 0


def test_nothing_lies_behind_the_last_fragment() -> None:
    """The sizes would add up, with a hole in the middle."""
    stray, last, first = piece(1024, 1536), piece(512, 1024, last=True), piece(0, 512)
    for order in permutations([stray, last]):
        reassembler = Reassembler(Quota(LIMIT))
        assert [reassembler.add(KEY, *fragment, 0.0) for fragment in order] == [None, None]
        assert reassembler.failures == 1
        assert reassembler.add(KEY, *first, 0.0) is None


def test_two_last_fragments() -> None:
    reassembler = Reassembler(Quota(LIMIT))
    reassembler.add(KEY, *piece(1024, 1032, last=True), 0.0)
    reassembler.add(KEY, *piece(512, 520, last=True), 0.0)
    assert reassembler.failures == 1
    assert len(reassembler) == 0


@pytest.mark.parametrize(
    "fragment",
    [
        (ipv4.MORE_FRAGMENTS, memoryview(b"")),
        (0, memoryview(b"")),
        (ipv4.MORE_FRAGMENTS, memoryview(b"seven b")),
        (ipv4.OFFSET_MASK, memoryview(bytes(8))),
        (8000, memoryview(bytes(1600))),
    ],
)
def test_impossible_fragment_is_dropped(fragment: tuple[int, memoryview]) -> None:
    reassembler = Reassembler(Quota(LIMIT))
    assert reassembler.add(KEY, *fragment, 0.0) is None
    assert reassembler.failures == 1
    assert len(reassembler) == 0


def test_incomplete_packet_expires() -> None:
    """Counted from its first fragment, whichever that was (RFC 791 §3.2)."""
    reassembler = Reassembler(Quota(LIMIT))
    reassembler.add((None, b"one"), *piece(0, 512), 0.0)
    reassembler.add((None, b"two"), *piece(0, 1024), 10.0)
    reassembler.add((None, b"one"), *piece(512, 1024), 29.9)
    assert reassembler.add((None, b"two"), *piece(1024, 2048), 30.0) == PAYLOAD
    assert len(reassembler) == 0
    assert reassembler.failures == 1


def test_number_of_packets_is_bounded() -> None:
    reassembler = Reassembler(Quota(LIMIT))
    for number in range(1000):
        reassembler.add((None, number.to_bytes(4, "big")), *piece(0, 8), 0.0)
    assert len(reassembler) == LIMIT.total
    assert reassembler.failures == 1000 - LIMIT.total
    assert reassembler.add((None, (999).to_bytes(4, "big")), *piece(8, 2048), 0.0) == PAYLOAD


def test_number_of_pieces_is_bounded() -> None:
    reassembler = Reassembler(Quota(LIMIT))
    for index in range(fragments.MAX_PIECES):
        reassembler.add(KEY, index * 2 | ipv4.MORE_FRAGMENTS, memoryview(bytes(8)), 0.0)
    assert len(reassembler) == 1
    reassembler.add(KEY, 1000 | ipv4.MORE_FRAGMENTS, memoryview(bytes(8)), 0.0)
    assert len(reassembler) == 0


def test_smallest_mtu_fits() -> None:
    """RFC 791: every host forwards 576 bytes, so a full packet may be 119 pieces of 552."""
    reassembler = Reassembler(Quota(LIMIT))
    whole = bytes(65_000)
    for start in range(0, len(whole), 552):
        more = ipv4.MORE_FRAGMENTS if start + 552 < len(whole) else 0
        result = reassembler.add(
            KEY, start >> 3 | more, memoryview(whole)[start : start + 552], 0.0
        )
    assert result == whole
