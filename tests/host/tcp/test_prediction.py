"""Header prediction has the effect of the general path, whatever arrives and in whatever order."""

from dataclasses import fields

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gvproxy.tcp.connection import Connection
from gvproxy.tcp.input import Segment
from gvproxy.tcp.seq import MASK
from gvproxy.tcp.states import State
from gvproxy.wire import tcp as wire

from .bench import Bench, pattern
from .states import enter
from .trace import Trace

_SEAMS = ("path", "scheduler", "user", "out", "early", "rtt", "congestion")
_sizes = st.sampled_from([0, 0, 1, 100, 1448, 2896])
_near = st.sampled_from([0, 0, 0, 0, 0, 0, -1448, -1, 1, 100, 1448])
_PARTIAL = 1 << 20  # an acknowledgment of one segment more than before
_segments = st.tuples(
    _sizes,
    _near,  # away from rcv_nxt
    st.sampled_from([None, None, None, 0, 0, _PARTIAL, 1, -1, -1448]),  # from snd_nxt
    st.sampled_from([512, 512, 512, 511, 1, 0]),  # window, in units
    st.sampled_from([0, 0, 0, 1, 5, -1]),  # TSval, from the newest
    st.sampled_from([wire.ACK, wire.ACK, wire.ACK | wire.PSH, wire.ACK | wire.FIN, wire.PSH]),
)
_TROUBLE = [
    [(0, 0, None, 511, 0, wire.ACK)] * 4,  # a new window, then three duplicates
    [(0, 1448, None, 300, 1, wire.ACK)],  # an acknowledgment ahead of data that was lost
    [(1448, 1448, -1448, 512, 1, wire.ACK)],  # data ahead of a gap
    [(1448, 1448, None, 512, 1, wire.ACK)],
    [(100, 0, None, 0, 1, wire.ACK)],  # a window that closes
    [(100, 0, None, 512, 1, wire.ACK)],
    [(0, 0, _PARTIAL, 512, 1, wire.ACK)],
]
_FIN = [(0, 0, 0, 511, 1, wire.ACK | wire.FIN)]
_steps = st.one_of(
    st.sampled_from(_TROUBLE),
    st.sampled_from(_TROUBLE),
    st.lists(_segments, min_size=1, max_size=4),
    st.lists(_segments, min_size=1, max_size=4),
    st.tuples(st.just("send"), st.sampled_from([1, 1000, 1448, 20000, 70000])),
    st.tuples(st.just("advance"), st.sampled_from([0.001, 0.02, 0.3])),
    st.tuples(st.sampled_from(["keep", "take", "room", "shutdown"]), st.just(0)),
)


def _image(c: Connection) -> dict[str, object]:
    image: dict[str, object] = {
        field.name: getattr(c, field.name) for field in fields(c) if field.name not in _SEAMS
    }
    image["end"] = c.out.end
    image["early"] = c.early._ranges if c.early else None
    image["flight"] = [
        (sent.start, sent.end, sent.at, sent.again, sent.sacked, sent.lost)
        for sent in c.flight.records
    ]
    image["rtt"] = c.rtt
    image["congestion"] = {name: getattr(c.congestion, name) for name in ("cwnd", "ssthresh")}
    return image


def _batch(bench: Bench, shapes: list[tuple[int, int, int | None, int, int, int]]) -> list[Segment]:
    """Make segments as they follow each other in the guest's stream, with faults."""
    c = bench.c
    nxt, tsval = c.rcv_nxt, c.ts_recent
    segments = []
    acks = {None: c.snd_una, _PARTIAL: min(c.snd_una + 1448, c.snd_nxt)}
    for size, away, ack, window, newer, flags in shapes:
        seq = nxt + away
        tsval = tsval + newer & MASK
        segments.append(
            Segment(
                seq & MASK,
                acks.get(ack, c.snd_nxt + (ack or 0)) & MASK,
                flags,
                window,
                wire.Options(timestamps=(tsval, 0)),
                pattern(seq - bench.irs - 1, size),
            )
        )
        nxt = max(nxt, seq + size)
    return segments


@settings(max_examples=400)
@example(
    "SYN_RECEIVED", False, False, [[(0, 0, 0, 512, 1, wire.ACK)], [(9, 0, 0, 512, 1, wire.ACK)]]
)
@example("FIN_WAIT_1", False, False, [_FIN])
@example("FIN_WAIT_1", False, False, [[(100, 0, 0, 512, 1, wire.ACK | wire.FIN)]])
@example("ESTABLISHED", False, False, [("send", 70000), ("shutdown", 0), _FIN])
@example(
    "ESTABLISHED",
    False,
    False,
    [("send", 1000), ("advance", 0.3), [(100, 0, None, 0, 1, wire.ACK)]],
)
@example(
    "ESTABLISHED",
    False,
    False,
    [("send", 20000), _TROUBLE[0], [(100, 0, _PARTIAL, 512, 1, wire.ACK)]],
)
@given(
    begin=st.sampled_from(["ESTABLISHED", "ESTABLISHED", "SYN_RECEIVED", "FIN_WAIT_1"]),
    wrapping=st.booleans(),
    interactive=st.booleans(),
    steps=st.lists(_steps, max_size=25),
)
def test_same_effect_either_way(
    begin: str,
    wrapping: bool,
    interactive: bool,
    steps: list[list[tuple[int, ...]] | tuple[str, float]],
) -> None:
    iss, irs = (2**32 - 5000, 2**32 - 3000) if wrapping else (1000, 2000)
    benches = []
    for predicting in (False, True):
        bench = enter(Trace(iss=iss, irs=irs, predicting=predicting), begin).bench
        bench.c.interactive = interactive
        benches.append(bench)
    general, predicted = benches
    for step in steps:
        if general.c.state is State.CLOSED:
            break
        for bench in benches:
            if isinstance(step, list):
                bench.arrives(*_batch(bench, step))  # type: ignore[arg-type]
            elif step[0] == "advance":
                bench.advance(bench.now + step[1])
            elif step[0] in ("send", "room") and bench.c.fin_queued:
                pass  # what its user does not do any more
            elif step[0] == "room":
                bench.c.room(bench.now)
            elif step[0] != "send" or bench.c.state in (State.ESTABLISHED, State.CLOSE_WAIT):
                bench.call(step[0], str(step[1]))  # type: ignore[arg-type]
        assert general.log == predicted.log
        assert _image(general.c) == _image(predicted.c)
        assert general.counters == predicted.counters


def test_expected_segments_are_taken(established: Trace) -> None:
    """Equal effects would prove nothing if every segment went the general way."""
    bench = established.bench
    established("! send 1000\n > P. 1:1001 ack 1")
    shapes = [(0, 0, 0, 512, 1, wire.ACK)] + [(1448, 0, 0, 512, 1, wire.ACK)] * 3
    bench.predicted = 0
    bench.arrives(*_batch(bench, shapes))
    bench.log.clear()
    assert bench.predicted == (4 if bench.predicting else 0)


@pytest.mark.parametrize(
    ("begin", "flags", "then"),
    [
        ("SYN_RECEIVED", wire.ACK, State.ESTABLISHED),
        ("FIN_WAIT_1", wire.ACK | wire.FIN, State.TIME_WAIT),
    ],
)
def test_the_ends_of_a_short_connection_are_expected(begin: str, flags: int, then: State) -> None:
    bench = enter(Trace(predicting=True), begin).bench
    bench.predicted = 0
    bench.arrives(*_batch(bench, [(0, 0, 0, 512, 1, flags)]))
    assert bench.c.state is then
    assert bench.predicted == 1
