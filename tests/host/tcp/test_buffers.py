"""The queues of a connection, against a plain string of bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gvproxy.tcp.buffers import Reassembly, SendBuffer

from .bench import pattern


def test_a_chunk_is_sent_as_it_is() -> None:
    """No copy, no view, where a segment and a chunk coincide."""
    buffer = SendBuffer(1)
    chunk = pattern(0, 1000)
    buffer.append(b"before")
    buffer.append(chunk)
    assert buffer.peek(7, 1000) is chunk


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12), data=st.data())
def test_any_range_of_the_stream(sizes: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 2**33))
    buffer, stream = SendBuffer(start), b""
    for size in sizes:
        chunk = pattern(len(stream), size)
        buffer.append(chunk)
        stream += chunk
    assert buffer.end == start + len(stream)
    una = data.draw(st.integers(0, len(stream) - 1))
    buffer.release(start + una)
    first = data.draw(st.integers(una, len(stream) - 1))
    size = data.draw(st.integers(1, len(stream)))
    assert bytes(buffer.peek(start + first, size)) == stream[first : first + size]


def test_what_is_acknowledged_is_let_go() -> None:
    buffer = SendBuffer(1)
    for _ in range(100):
        buffer.append(b"x" * 1000)
    buffer.release(50_501)
    assert len(buffer._chunks) == 50
    buffer.release(buffer.end + 1)  # the FIN's acknowledgment
    assert not buffer._chunks


@given(
    pieces=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60)), max_size=25),
    start=st.sampled_from([0, 2**32 - 100]),
)
def test_reassembly_of_any_pieces(pieces: list[tuple[int, int]], start: int) -> None:
    """Disjoint, sorted, nothing lost, nothing twice; the newest arrival's range is named first."""
    early, have = Reassembly(), set()
    for left, size in pieces:
        early.add(start + left, memoryview(pattern(left, size)))
        have.update(range(left, left + size))
        assert early.size == len(have)
        first, *_ = blocks = early.blocks()
        assert first[0] <= start + left < first[1]
        ranges = early._ranges
        assert {n for a, b in ranges for n in range(a - start, b - start)} == have
        assert all(one[1] < two[0] for one, two in pairwise(ranges))
        assert set(blocks) <= set(ranges)
        assert len(set(blocks)) == len(blocks) <= early.MAX_BLOCKS
    joined = b"".join(early.take(start + 1))
    run = 0
    while run + 1 in have:
        run += 1
    assert joined == pattern(1, run)
    assert early.size == len(have) - run


def test_pieces_before_what_is_expected_are_dropped() -> None:
    early = Reassembly()
    early.add(10, pattern(10, 10))
    early.add(30, pattern(30, 10))
    assert early.take(15) == [pattern(15, 5)]
    assert early.take(50) == []
    assert not early


def test_number_of_pieces_is_bounded() -> None:
    early = Reassembly()
    for number in range(3 * early.MAX_PIECES):
        early.add(number * 2, b"x")
    assert early.size == early.MAX_PIECES


def test_a_piece_over_many_takes_their_place() -> None:
    early = Reassembly()
    for number in range(1000):
        early.add(number * 2, b"x")
    assert early.add(1, b"y" * 1500)
    assert len(early._pieces) == 1 + 1 + 249
    assert early.size == 1501 + 249
    assert early._ranges[0] == (0, 1501)
    assert not early.add(5, b"z" * 100)


def test_a_chunk_is_let_go_with_its_last_byte() -> None:
    buffer = SendBuffer(1)
    for _ in range(3):
        buffer.append(b"x" * 1000)
    buffer.release(1000)
    assert len(buffer._chunks) == 3
    buffer.release(1001)
    assert len(buffer._chunks) == 2
