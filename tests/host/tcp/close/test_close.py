"""Ending a connection, from either side and from both: RFC 9293 §3.6."""

import pytest

from gvproxy.tcp.input import may_reopen
from gvproxy.wire import tcp as wire

from ..states import enter
from ..trace import Trace


def test_the_guest_closes_first(established: Trace) -> None:
    established(
        """
        < FP. 1:101 ack 1
        ? received 100
        ? eof
        > . 1 ack 102
        = state CLOSE_WAIT
        ! send 50
        > P. 1:51 ack 102
        < . 102 ack 51
        ! shutdown
        > F. 51 ack 102
        = state LAST_ACK
        < . 102 ack 52
        ? ended DONE
        = state CLOSED
        """
    )


def test_we_close_first_and_still_receive(established: Trace) -> None:
    """Half-close: the guest may go on sending for as long as it likes."""
    established(
        """
        ! shutdown
        > F. 1 ack 1
        < . 1 ack 2
        = state FIN_WAIT_2
        +3600 < P. 1:1001 ack 2
        ? received 1000
        > . 2 ack 1001
        < F. 1001 ack 2
        ? eof
        ? ended DONE
        > . 2 ack 1002
        = state TIME_WAIT
        +2 = state CLOSED
        """
    )


def test_user_shuts_down_when_told_of_the_end(established: Trace) -> None:
    established(
        """
        ! on_eof shutdown
        < F. 1 ack 1
        ? eof
        > F. 1 ack 2
        < . 2 ack 2
        ? ended DONE
        """
    )


def test_fin_waits_for_the_data_before_it(established: Trace) -> None:
    established(
        """
        < . 1 ack 1 win 1024
        ! send 2000
        > . 1:1025 ack 1
        ! shutdown
        = state FIN_WAIT_1
        < . 1 ack 1025 win 65536
        > FP. 1025:2001 ack 1
        < . 1 ack 2002
        = state FIN_WAIT_2
        """
    )


def test_fin_needs_no_window(established: Trace) -> None:
    established(
        """
        < . 1 ack 1 win 0
        ! shutdown
        > F. 1 ack 1
        """
    )


def test_fin_is_sent_again_alone(established: Trace) -> None:
    established(
        """
        ! shutdown
        > F. 1 ack 1
        +0.2 > F. 1 ack 1
        +0.4 > F. 1 ack 1
        < . 1 ack 2
        = state FIN_WAIT_2
        """
    )


def test_fin_is_sent_again_with_the_last_data(established: Trace) -> None:
    established(
        """
        ! send 1000
        > P. 1:1001 ack 1
        ! shutdown
        > F. 1001 ack 1
        +0.2 > FP. 1:1001 ack 1
        < . 1 ack 1002
        = state FIN_WAIT_2
        """
    )


def test_fin_is_not_invented_by_a_retransmission(established: Trace) -> None:
    """It is queued behind data that the window does not allow yet."""
    established(
        """
        < . 1 ack 1 win 1024
        ! send 2000
        > . 1:1025 ack 1
        ! shutdown
        +0.2 > . 1:1025 ack 1
        """
    )


def test_simultaneous_close(established: Trace) -> None:
    """RFC 9293 figure 13."""
    established(
        """
        ! shutdown
        > F. 1 ack 1
        < F. 1 ack 1
        ? eof
        > . 2 ack 2
        = state CLOSING
        < . 2 ack 2
        ? ended DONE
        = state TIME_WAIT
        """
    )


def test_fin_that_acknowledges_ours(established: Trace) -> None:
    established(
        """
        ! shutdown
        > F. 1 ack 1
        < F. 1 ack 2
        ? eof
        ? ended DONE
        > . 2 ack 2
        = state TIME_WAIT
        """
    )


def test_data_and_fin_in_fin_wait_1(established: Trace) -> None:
    established(
        """
        ! send 100
        > P. 1:101 ack 1
        ! shutdown
        > F. 101 ack 1
        < FP. 1:501 ack 101
        ? received 500
        ? eof
        > . 102 ack 502
        = state CLOSING
        """
    )


def test_time_wait_answers_a_fin_that_comes_again(trace: Trace) -> None:
    enter(trace, "TIME_WAIT")(
        """
        +1.5 < F. 1 ack 2
             > . 2 ack 2
        +1.9 = state TIME_WAIT
        +0.2 = state CLOSED
        """
    )


@pytest.mark.parametrize("state", ["CLOSE_WAIT", "CLOSING", "LAST_ACK"])
def test_fin_that_comes_again_is_acknowledged(trace: Trace, state: str) -> None:
    ours = {"CLOSE_WAIT": 1, "CLOSING": 2, "LAST_ACK": 2}[state]
    enter(trace, state)(f"< F. 1 ack 1\n > . {ours} ack 2\n = state {state}")


@pytest.mark.parametrize("state", ["CLOSE_WAIT", "CLOSING", "LAST_ACK"])
def test_text_behind_the_fin_is_not_taken(trace: Trace, state: str) -> None:
    """RFC 9293 §3.10.7.4, seventh: "this should not occur"."""
    ours = {"CLOSE_WAIT": 1, "CLOSING": 2, "LAST_ACK": 2}[state]
    enter(trace, state)(f"< P. 2:102 ack 1\n > . {ours} ack 2\n = state {state}")


def test_last_ack_is_given_up(trace: Trace) -> None:
    """RFC 9293 §3.8.3 wants at least 100 s; here 4.7 minutes."""
    bench = enter(trace, "LAST_ACK").bench
    bench.advance(bench.now + 282)
    assert [entry.flags for entry in bench.log] == [wire.FIN | wire.ACK] * 11
    bench.log.clear()
    bench.advance(bench.now + 61)
    *_, reset, told = bench.log
    assert reset.flags == wire.RST | wire.ACK
    assert told.what == "ended TIMED_OUT"


@pytest.mark.parametrize(
    ("segment", "reopens"),
    [
        ("S 5 [mss 1460 ws 7 sackok ts]", True),
        ("S 5 [mss 1460]", True),
        ("S 1 [mss 1460]", False),
        ("S. 5 ack 1 [mss 1460]", False),
        (". 5 ack 1", False),
    ],
)
def test_syn_may_take_the_place_of_time_wait(trace: Trace, segment: str, reopens: bool) -> None:
    """RFC 9293 MAY-2, RFC 6191."""
    enter(trace, "TIME_WAIT").bench.advance(trace.bench.now + 0.1)
    assert may_reopen(trace.bench.c, trace.segment(segment)) is reopens


def test_syn_with_an_old_timestamp_does_not_reopen(trace: Trace) -> None:
    enter(trace, "TIME_WAIT")
    segment = trace.segment("S 5 [mss 1460 ws 7 sackok ts]")
    assert segment.options.timestamps
    segment.options.timestamps = (segment.options.timestamps[0] - 1, 0)
    assert not may_reopen(trace.bench.c, segment)


def test_syn_into_time_wait_is_challenged(trace: Trace) -> None:
    enter(trace, "TIME_WAIT")("< S 5 [mss 1460]\n > . 2 ack 2")


def test_released_connection_ends_by_itself(established: Trace) -> None:
    established(
        """
        ! send 100
        > P. 1:101 ack 1
        ! release
        > F. 101 ack 1
        < . 1 ack 102
        = state FIN_WAIT_2
        +59 = state FIN_WAIT_2
        +1.1 = state CLOSED
        """
    )


def test_release_in_fin_wait_2(trace: Trace) -> None:
    enter(trace, "FIN_WAIT_2")(
        """
        +3600 ! release
        +59   = state FIN_WAIT_2
        +1.1  = state CLOSED
        """
    )


def test_release_and_the_guest_closes(trace: Trace) -> None:
    enter(trace, "CLOSE_WAIT")(
        """
        ! release
        > F. 1 ack 2
        < . 2 ack 2
        = state CLOSED
        """
    )


def test_data_after_release_is_reset(established: Trace) -> None:
    """RFC 9293 §3.6.1: data nobody will read must not seem delivered."""
    established(
        """
        ! release
        > F. 1 ack 1
        < P. 1:101 ack 2
        > R. 2 ack 1
        = state CLOSED
        """
    )


def test_release_with_unread_data_resets(established: Trace) -> None:
    """RFC 2525 §2.17."""
    established(
        """
        ! keep
        < P. 1:101 ack 1
        ? received 100
        > . 1 ack 101
        ! release
        > R. 1 ack 101
        = state CLOSED
        """
    )


def test_release_of_a_syn(trace: Trace) -> None:
    enter(trace, "SYN_SENT")("! release\n = state CLOSED\n = resets_out 0")


def test_closed_window_holds_a_released_connection_for_a_while_only(established: Trace) -> None:
    """A guest that answers probes for ever would keep our buffer for ever."""
    established("< . 1 ack 1 win 0\n ! send 100\n ! release")
    bench = established.bench
    for _ in range(13):
        bench.advance(bench.c.deadline)
        bench.log.clear()
        if bench.c.state.name != "CLOSED":
            established("< . 1 ack 1 win 0")
    established("= state CLOSED")


def test_writable_is_not_told_after_shutdown(established: Trace) -> None:
    established(
        """
        < . 1 ack 1 win 0
        ! room 0
        ! shutdown
        > F. 1 ack 1
        < . 1 ack 1 win 65536
        """
    )


def test_syn_with_the_same_timestamp_goes_by_its_number(trace: Trace) -> None:
    """RFC 6191 §2: several connections within one tick of the guest's clock."""
    enter(trace, "TIME_WAIT")
    assert may_reopen(trace.bench.c, trace.segment("S 5 [mss 1460 ws 7 sackok ts]"))
    assert not may_reopen(trace.bench.c, trace.segment("S 1 [mss 1460 ws 7 sackok ts]"))


def test_fin_is_not_sent_ahead_of_its_turn(established: Trace) -> None:
    """Queued while the data before it probes a window that was closed over it."""
    established(
        """
             ! send 100
             > P. 1:101 ack 1
             < . 1 ack 1 win 0
        +0.2 > P. 1:101 ack 1
             ! shutdown
        +0.4 > P. 1:101 ack 1
             < . 1 ack 1 win 65536
             > P. 1:101 ack 1
             > F. 101 ack 1
        """
    )


def test_the_last_data_takes_the_fin_along(established: Trace) -> None:
    established(
        """
        ! finish 1000
        > FP. 1:1001 ack 1
        < . 1 ack 1002
        = state FIN_WAIT_2
        """
    )
