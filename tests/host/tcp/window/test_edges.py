"""The right edge of the window offered: when it moves, and what lies exactly there."""

from gvproxy.tcp.connection import RECEIVE_BUFFER

from ..states import enter
from ..trace import Trace
from .test_receive_window import SMALL


def test_fin_right_behind_the_window_is_taken(established: Trace) -> None:
    """It takes no room."""
    established(SMALL)(
        """
        < F. 1001:65641 ack 1
        ? received 64640
        ? eof
        > . 1 ack 65642
        """
    )


def test_the_last_byte_of_the_window_is_taken(established: Trace) -> None:
    established(SMALL)(
        """
        < P. 65640:65641 ack 1
        > . 1 ack 1001 [sack 65640:65641]
        < P. 65641:65642 ack 1
        > . 1 ack 1001 [sack 65640:65641]
        """
    )


def test_reset_at_the_last_number_of_the_window_is_challenged(established: Trace) -> None:
    established(SMALL)("< R 65640\n > . 1 ack 1001\n < R 65642")


def test_a_small_buffer_moves_the_edge_by_halves(trace: Trace) -> None:
    """RFC 9293 §3.8.6.2.2: a segment's size or half the buffer, whichever is less."""
    trace.bench.c.rcv_limit = 2000
    trace.bench.keeping = True
    enter(trace, "LISTEN", "mss 1460 sackok ts")(
        """
        ! accept
        > S. 0 ack 1 win 2000
        < . 1 ack 1
        ? established
        < . 1:1201 ack 1
        ? received 1200
        > . 1 ack 1201 win 800
        ! consumed 400
        < . 1201:1202 ack 1
        ? received 1
        > . 1 ack 1202 win 799
        ! consumed 800
        > . 1 ack 1202 win 1999
        """
    )


def test_the_edge_does_not_move_for_less_than_a_segment(established: Trace) -> None:
    """The user reads small pieces: no silly windows, although the guest goes on sending."""
    established(SMALL)(
        """
        ! keep
        < . 1001:2001 ack 1
        ? received 1000
        > . 1 ack 2001 win 63744      # rounded up
        ! consumed 500
        < . 2001:2101 ack 1
        ? received 100
        > . 1 ack 2101 win 63744
        """
    )


def test_a_buffer_at_half_the_speed_does_not_grow(trace: Trace) -> None:
    """A guest that needs more than two round trips to fill the window is limited elsewhere."""
    enter(trace, "SYN_RECEIVED")("+0.02 < . 1 ack 1\n ? established")
    bench, c = trace.bench, trace.bench.c
    for _ in range(4 * RECEIVE_BUFFER // 65160):
        bench.arrives(trace.segment(f"P. {bench.got + 1}:{bench.got + 65161} ack 1"))
        bench.log.clear()
        bench.advance(bench.now + 0.005)
    assert c.rcv_limit == RECEIVE_BUFFER


def test_a_buffer_that_cannot_be_offered_does_not_grow(trace: Trace) -> None:
    """Without scaling the window ends at 65535 (RFC 7323 §2.2)."""
    enter(trace, "LISTEN", "mss 1460 sackok ts")(
        """
              ! accept
              > S. 0 ack 1
        +0.02 < . 1 ack 1
              ? established
        """
    )
    bench, c = trace.bench, trace.bench.c
    for _ in range(20):
        bench.arrives(trace.segment(f"P. {bench.got + 1}:{bench.got + 60001} ack 1"))
        bench.log.clear()
    assert c.rcv_limit == 65535


def test_three_segments_at_most_wait_for_an_acknowledgment(established: Trace) -> None:
    """RFC 9293 SHLD-19: the second full-sized segment, in one batch or two."""
    established.bench.c.interactive = True
    established(
        """
        < . 1:1001 ack 1
        ? received 1000
        < . 1001:2001 ack 1
        ? received 1000
        < . 2001:3001 ack 1
        ? received 1000
        > . 1 ack 3001
        """
    )
