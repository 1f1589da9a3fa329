"""The window offered to the guest: RFC 9293 §3.8.6, RFC 7323 §2."""

import pytest

from gvproxy.tcp.connection import MAX_RECEIVE_BUFFER, RECEIVE_BUFFER

from ..states import enter
from ..trace import Trace

SMALL = """
    ! limit 65536
    < . 1:1001 ack 1
    ? received 1000
    > . 1 ack 1001 win 64640    # the edge stays: it was 65535 in the SYN-ACK, rounded up
"""


def test_first_acknowledgment_opens_the_whole_window(established: Trace) -> None:
    established(
        f"""
        < . 1:1449 ack 1
        ? received 1448
        > . 1 ack 1449 win {RECEIVE_BUFFER}
        """
    )


def test_what_the_user_keeps_takes_up_window(established: Trace) -> None:
    """… and the right edge stays where it was, to the byte, as long as units allow."""
    established(
        """
        ! keep
        < . 1:12801 ack 1
        ? received 12800
        > . 1 ack 12801 win 1035776
        < . 12801:25601 ack 1
        ? received 12800
        > . 1 ack 25601 win 1022976
        """
    )


def test_window_update_once_it_is_worth_a_segment(established: Trace) -> None:
    """A quarter of the buffer, not every read of the user (RFC 9293 §3.8.6.2.2)."""
    established(
        """
        ! keep
        < . 1:65001 ack 1
        ? received 65000
        > . 1 ack 65001 win 983680
        < . 65001:130001 ack 1
        ? received 65000
        > . 1 ack 130001 win 918784
        < . 130001:195001 ack 1
        ? received 65000
        > . 1 ack 195001 win 853888
        < . 195001:260001 ack 1
        ? received 65000
        > . 1 ack 260001 win 788992
        < . 260001:325001 ack 1
        ? received 65000
        > . 1 ack 325001 win 724096
        ! consumed 130000
        ! consumed 130000
        ! consumed 3000
        > . 1 ack 325001 win 986624
        """
    )


def test_closed_window_opens_when_the_user_has_read(established: Trace) -> None:
    """A probe into the closed window is answered and its byte is not taken."""
    established(SMALL)(
        """
        ! keep
              < . 1001:65537 ack 1
              ? received 64536
              > . 1 ack 65537 win 128
              < . 65537:65665 ack 1
              ? received 128
              > . 1 ack 65665 win 0
        +0.3  < . 65665:65666 ack 1
              > . 1 ack 65665 win 0
        ! consumed 10000
        ! consumed 10000
              > . 1 ack 65665 win 20992
        """
    )


def test_small_segments_do_not_push_the_edge_for_ever(established: Trace) -> None:
    """The window is rounded up each time; the sum of it is bounded, and so is the memory."""
    bench, c = established.bench, established.bench.c
    bench.keeping = True
    c.rcv_limit = 65536
    while c.rcv_adv > c.rcv_nxt:
        position, size = c.rcv_nxt - bench.irs, min(100, c.rcv_adv - c.rcv_nxt)
        bench.arrives(established.segment(f". {position}:{position + size} ack 1"))
        assert c.rcv_held <= 65536 + 4096


def test_fin_is_taken_in_a_closed_window(trace: Trace) -> None:
    """Without scaling one byte too many would be a negative window."""
    trace.bench.c.rcv_limit = 3000
    trace.bench.keeping = True
    enter(trace, "LISTEN", "mss 1460 sackok ts")(
        """
        ! accept
        > S. 0 ack 1 win 3000
        < . 1 ack 1
        ? established
        < . 1:3001 ack 1
        ? received 3000
        > . 1 ack 3001 win 0
        < F. 3001 ack 1
        ? eof
        > . 1 ack 3002 win 0
        """
    )


def test_without_scaling_the_user_is_not_interrupted_for_each_read(trace: Trace) -> None:
    """The offer ends at 65535 then, so the buffer does, and an update is a quarter of that."""
    trace.bench.keeping = True
    enter(trace, "LISTEN", "mss 1460 sackok ts")(
        """
        ! accept
        > S. 0 ack 1 win 65535
        < . 1 ack 1
        ? established
        < . 1:30001 ack 1
        ? received 30000
        > . 1 ack 30001 win 35535
        ! consumed 1000
        ! consumed 1000
        ! consumed 20000
        > . 1 ack 30001 win 57535
        """
    )


def test_data_right_behind_the_syn_ack_is_in_the_window_our_syn_offered(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        < S. 0 ack 1 [mss 1460 ws 7 sackok ts]
        & .  1:1001 ack 1
        ? established
        ? received 1000
        > .  1 ack 1001
        """
    )


def test_acknowledgment_at_the_right_edge_counts(established: Trace) -> None:
    """A guest that has filled the window and lost the first piece still acknowledges."""
    established(SMALL)(
        """
        ! send 1000
        > P. 1:1001 ack 1001
        < . 2449:65641 ack 1
        > . 1001 ack 1001 [sack 2449:65641]
        < . 65641 ack 1001
        = snd_una 1001
        """
    )


def test_data_beyond_the_window_is_cut_off(established: Trace) -> None:
    established(SMALL)(
        """
        < . 1001:66001 ack 1
        ? received 64640
        > . 1 ack 65641
        < P. 400001:400101 ack 1
        > . 1 ack 65641
        """
    )


@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_sack_blocks_take_room_from_the_payload(established: Trace, size: int) -> None:
    """The bench checks that no segment exceeds the MTU with its options (RFC 6691)."""
    established(
        f"""
        < . 1449:2897 ack 1
        > . 1 ack 1 [sack 1449:2897]
        ! send {min(size, 60000)}
        > P. 1:{min(size, 60000) + 1} ack 1 [sack 1449:2897]
        """
    )


def test_fin_beyond_the_window_is_cut_off_as_well(established: Trace) -> None:
    established(SMALL)(
        """
        < F. 1001:66001 ack 1
        ? received 64640
        > . 1 ack 65641
        = state ESTABLISHED
        """
    )


def test_window_grows_on_a_long_path_that_fills_it(trace: Trace) -> None:
    """Once more for each round trip in which the guest has filled it, up to eight megabytes."""
    enter(trace, "SYN_RECEIVED")("+0.02 < . 1 ack 1\n ? established")
    bench, c = trace.bench, trace.bench.c
    limits = []
    for _ in range(6):
        for _ in range(0, c.rcv_limit, 65160):
            bench.arrives(trace.segment(f"P. {bench.got + 1}:{bench.got + 65161} ack 1"))
            bench.log.clear()
        bench.advance(bench.now + 0.02)
        limits.append(c.rcv_limit)
    assert limits == [RECEIVE_BUFFER << shift for shift in (0, 1, 2)] + [MAX_RECEIVE_BUFFER] * 3


def test_window_stays_where_the_user_does_not_keep_up(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")("+0.02 < . 1 ack 1\n ? established\n ! keep")
    bench, c = trace.bench, trace.bench.c
    for _ in range(3):
        for _ in range(0, 1 << 19, 65160):
            bench.arrives(trace.segment(f"P. {bench.got + 1}:{bench.got + 65161} ack 1"))
        bench.advance(bench.now + 0.02)
        trace_held = c.rcv_held
        bench.call("consumed", str(trace_held - 1))
        bench.log.clear()
    assert c.rcv_limit == RECEIVE_BUFFER


def test_window_stays_on_the_link(established: Trace) -> None:
    """A round trip below a millisecond: a megabyte is enough."""
    bench, c = established.bench, established.bench.c
    c.rtt.least = 0.0005
    for _ in range(200):
        bench.arrives(established.segment(f"P. {bench.got + 1}:{bench.got + 65161} ack 1"))
        bench.log.clear()
    assert c.rcv_limit == RECEIVE_BUFFER
