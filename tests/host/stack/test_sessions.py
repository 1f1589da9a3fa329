"""The short way of datagrams: which ones leave together, and which go the long way."""

import random
import struct
from itertools import pairwise

import pytest

from gvproxy.limits import Limit, Limits
from gvproxy.stack import sessions
from gvproxy.stack.sessions import MAX_PAYLOAD, MAX_SEGMENTS
from gvproxy.stack.udp import Datagram
from gvproxy.wire import ipv4
from gvproxy.wire.checksum import checksum, ones_sum
from taplink import vnet
from taplink.vnet import Offload

from .bench import ALL, OTHER_MAC, OUTSIDE, VALID, Bench, break_at, udp

IP, UDP = 14, 34


def super_meta(size: int, kind: int = vnet.GSO_UDP_L4) -> bytes:
    return vnet.HEADER.pack(vnet.F_NEEDS_CSUM, kind, 42, size, UDP, 6, 0)


class Outside:
    """Takes the first datagram of each pair of ports the long way, and asks for the others."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.long: list[bytes] = []
        self.runs: list[tuple[list[int], int]] = []
        self.data = b""
        self.heard: list[bytes] = []
        """Every datagram, in the order in which they came."""
        bench.stack.udp.forward = self.forward

    def forward(self, datagram: Datagram, now: float) -> None:
        self.long.append(bytes(datagram.payload))
        self.heard.append(self.long[-1])
        self._bench.stack.udp.remember(datagram, self.leave)

    def leave(self, run: list[memoryview], size: int, now: float) -> None:
        assert now == self._bench.now
        self.runs.append(([len(view) for view in run], size))
        self.data += b"".join(run)
        self.heard += (bytes(piece) for view in run for piece in sessions.pieces(view, size))


def met(offload: Offload = ALL, **options: object) -> tuple[Bench, Outside]:
    """Return a stack that has a session, and who takes what comes through it."""
    bench = Bench(offload, **options)  # type: ignore[arg-type]
    outside = Outside(bench)
    bench.give(out(b"first of all, of any size that there may be"), meta=VALID)
    assert outside.long
    outside.long.clear()
    return bench, outside


def out(body: bytes, **where: object) -> bytes:
    return udp(body, **{"destination": OUTSIDE} | where)  # type: ignore[arg-type]


def give(bench: Bench, *sizes: int) -> bytes:
    bodies = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    bench.give(*(out(body) for body in bodies), meta=VALID)
    return b"".join(bodies)


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ([100], [[100]]),
        ([100, 100, 100], [[100, 100, 100]]),
        ([100, 100, 60], [[100, 100, 60]]),
        ([100, 60, 100], [[100, 60], [100]]),
        ([100, 60, 60], [[100, 60], [60]]),
        ([60, 100, 100], [[60], [100, 100]]),
        ([24, 25, 24], [[24], [25, 24]]),
        ([100] * 65, [[100] * MAX_SEGMENTS, [100]]),
        ([1472] * 50, [[1472] * 44, [1472] * 6]),
    ],
)
def test_datagrams_of_one_size_leave_together(sizes: list[int], runs: list[list[int]]) -> None:
    bench, outside = met()
    data = give(bench, *sizes)
    assert [sizes for sizes, _ in outside.runs] == runs
    assert [size for _, size in outside.runs] == [run[0] for run in runs]
    assert all(sum(run) <= MAX_PAYLOAD for run in runs)
    assert outside.data == data
    assert outside.long == []
    assert bench.counters.udp_in == 1 + len(sizes)


def fragments(frame: bytes) -> list[bytes]:
    """Cut a frame's packet into fragments of 1480 bytes."""
    header, body = frame[:UDP], frame[UDP:]
    frames = []
    for start in range(0, len(body), 1480):
        piece = body[start : start + 1480]
        more = ipv4.MORE_FRAGMENTS if start + 1480 < len(body) else 0
        packet = bytearray(header[IP:])
        struct.pack_into("!H2xH", packet, 2, ipv4.SIZE + len(piece), start >> 3 | more)
        struct.pack_into("!H", packet, 10, 0)
        struct.pack_into("!H", packet, 10, checksum(ones_sum(packet, ipv4.SIZE)))
        frames.append(header[:IP] + packet + piece)
    return frames


@pytest.mark.parametrize("late", [b"END", b"", b"a" * 3600])
@pytest.mark.parametrize("before", [0, 1, 10])
def test_what_goes_the_long_way_does_not_overtake(late: bytes, before: int) -> None:
    """Small, empty and fragmented datagrams behind larger ones."""
    bench, outside = met()
    outside.heard.clear()
    bench.give(*[out(b"x" * 100)] * before, *fragments(out(late)), out(b"y" * 100), meta=VALID)
    assert outside.heard == [b"x" * 100] * before + [late, b"y" * 100]


@pytest.mark.parametrize("before", [0, 2])
def test_an_empty_datagram_in_a_padded_frame(before: int) -> None:
    bench, outside = met()
    outside.heard.clear()
    padded = out(b"") + bytes(40)
    bench.give(*[out(b"x" * 100)] * before, padded, out(b"y" * 100), meta=VALID)
    assert outside.heard == [b"x" * 100] * before + [b"", b"y" * 100]


def test_a_batch_of_several_flows_keeps_each_ones_order() -> None:
    bench, outside = met()
    bench.give(out(b"b" * 50, sport=7))
    bodies = [bytes([number]) * 100 for number in range(10)]
    bench.give(*(out(body, sport=7 if body[0] & 1 else 5000) for body in bodies), meta=VALID)
    assert outside.runs == [([100] * 5, 100)] * 2
    assert outside.data == b"".join(bodies[::2] + bodies[1::2])


def test_nothing_is_kept_for_the_next_batch() -> None:
    bench, outside = met()
    for _ in range(2):
        give(bench, 100, 100)
    assert outside.runs == [([100, 100], 100)] * 2


# Super-datagrams


@pytest.mark.parametrize(
    ("count", "size", "runs"),
    [
        (4000, 1400, [[4000]]),
        (4200, 1400, [[4200]]),
        (1400, 1400, [[1400]]),
        (900, 1400, [[900]]),
        (65 * 100, 100, [[6400], [100]]),
        (128 * 100, 100, [[6400], [6400]]),
    ],
)
def test_a_super_datagram_leaves_as_it_is(count: int, size: int, runs: list[list[int]]) -> None:
    bench, outside = met()
    body = random.Random(1).randbytes(count)
    bench.give(out(body), meta=super_meta(size))
    assert [sizes for sizes, _ in outside.runs] == runs
    assert [each for _, each in outside.runs] == [min(size, run[0]) for run in runs]
    assert outside.data == body


def test_datagrams_and_super_datagrams_are_not_taken_for_one_another() -> None:
    """One of 200 bytes and two of 100 differ by what is said of them only."""
    bench, outside = met()
    single, double = out(bytes(200)), out(bytes(200))
    views = [VALID + single, super_meta(100) + double, VALID + out(bytes(100)), VALID + single]
    bench.stack.receive(bench.port, [memoryview(view) for view in views], bench.now)
    assert outside.runs == [([200], 200), ([200, 100], 100), ([200], 200)]


def test_the_long_way_cuts_a_super_datagram() -> None:
    bench = Bench(ALL)
    outside = Outside(bench)
    bench.stack.udp.remember = lambda datagram, leave: None  # type: ignore[method-assign]
    body = random.Random(1).randbytes(3000)
    bench.give(out(body), meta=super_meta(1400))
    assert outside.long == [body[:1400], body[1400:2800], body[2800:]]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("count", "meta"),
    [
        (4000, super_meta(0)),
        (4000, super_meta(31)),  # 129 of them
        (4000, super_meta(1400, vnet.GSO_TCPV4)),
        (4000, super_meta(1400, 3)),
        (4000, super_meta(1400, vnet.GSO_UDP_L4 | vnet.GSO_ECN)),
        (4000, b"\0" + super_meta(1400)[1:]),  # whose checksum is there, and right
    ],
)
def test_what_no_kernel_makes_is_malformed(count: int, meta: bytes, known: bool) -> None:
    bench, outside = met() if known else (Bench(ALL), None)
    bench.give(out(bytes(count)), meta=meta)
    assert bench.counters.malformed == 1
    assert outside is None or (outside.long, outside.runs) == ([], [])


# What goes the long way


def others() -> dict[str, bytes]:
    frame = out(bytes(100))
    long = frame[: UDP + 4] + (107).to_bytes(2, "big") + frame[UDP + 6 :]
    return {
        "another MAC": out(bytes(100), mac=OTHER_MAC),
        "another port": out(bytes(100), dport=6001),
        "no checksum": frame[: UDP + 6] + bytes(2) + frame[UDP + 8 :],
        "bytes behind it": long,
        "options": udp(bytes(100), destination=OUTSIDE, v_hl=0x46)[:34] + bytes(4) + frame[34:],
        "a fragment": out(bytes(100), _flags_offset=0x2000),
        "a small one": out(bytes(23)),
    }


@pytest.mark.parametrize("name", others())
def test_other_frames_go_the_long_way(name: str) -> None:
    bench, outside = met()
    bench.give(others()[name], meta=VALID)
    assert outside.runs == []


def test_a_wrong_checksum_is_counted() -> None:
    bench, outside = met(Offload.NONE)
    for frame in (out(bytes(101)), out(bytes(100))):
        bench.give(break_at(frame, 60))
        bench.give(frame)
    assert bench.counters.udp_checksum_errors == 2
    assert outside.runs == [([101], 101), ([100], 100)]


def test_a_guest_that_moves_begins_anew() -> None:
    """Its port's place in the table is others'."""
    bench, outside = met()
    there = bench.attach(ALL)
    bench.stack.detach(bench.port, bench.now)
    assert bench.quotas.udp_sessions.used == 0
    bench.give(out(bytes(100)), port=there, meta=VALID)
    assert (outside.long, outside.runs) == ([bytes(100)], [])
    bench.give(out(bytes(100)), port=there, meta=VALID)
    assert outside.runs == [([100], 100)]


def test_whoever_listens_later_takes_what_follows() -> None:
    bench, outside = met()
    taken: list[bytes] = []
    handler = lambda datagram, now: taken.append(bytes(datagram.payload))  # noqa: E731
    bench.stack.udp.listen((OUTSIDE, 6000), handler)
    bench.give(out(bytes(100)), meta=VALID)
    assert taken == [bytes(100)]
    assert outside.runs == []


def test_a_full_table_is_emptied() -> None:
    bench, outside = met(limits=Limits(udp_sessions=Limit(4, 2)))
    for sport in (7, 8):
        bench.give(out(bytes(100), sport=sport), meta=VALID)
    for sport in (8, 5000):
        bench.give(out(bytes(100), sport=sport), meta=VALID)
    assert outside.runs == [([100], 100)]
    assert len(outside.long) == 3


@pytest.mark.parametrize("seed", range(20))
def test_any_batch_arrives_whole_and_in_order(seed: int) -> None:
    bench, outside = met()
    rng = random.Random(seed)
    frames, sent = [], b""
    for _ in range(200):
        count = rng.choice((24, 100, 100, 100, 1400, 3000, 8000))
        size = rng.choice((0, 0, 0, 100, 1400))
        body = rng.randbytes(count)
        frames.append((super_meta(size) if size else VALID) + out(body))
        sent += body
    bench.stack.receive(bench.port, [memoryview(frame) for frame in frames], bench.now)
    assert outside.data == sent
    for sizes, size in outside.runs:
        assert sum(sizes) <= min(size * MAX_SEGMENTS, MAX_PAYLOAD)
        assert all(before % size == 0 for before, _ in pairwise(sizes))
