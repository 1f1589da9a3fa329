"""SYN-RECEIVED: what counts there and what does not, RFC 9293 §3.10.7.4, RFC 5961."""

import pytest

from ..states import enter
from ..trace import Trace


def test_reset_elsewhere_in_the_window_is_challenged(trace: Trace) -> None:
    """The handshake goes on, and the exact number ends it."""
    enter(trace, "SYN_RECEIVED")(
        """
        < R 2
        > . 1 ack 1
        = state SYN_RECEIVED
        < R 1
        ? ended RESET
        = state CLOSED
        """
    )


def test_another_syn_is_challenged(trace: Trace) -> None:
    """A guest that forgot the first resets by what the challenge acknowledges (RFC 5961 §4)."""
    enter(trace, "SYN_RECEIVED")(
        """
        < S 5000 [mss 1460]
        > . 1 ack 1
        = state SYN_RECEIVED
        < R 1
        ? ended RESET
        """
    )


def test_reset_after_a_simultaneous_open(trace: Trace) -> None:
    """There is no LISTEN to return to (MUST-11): the user is told."""
    enter(trace, "SYN_SENT")(
        """
        < S 0 [mss 1460 ws 7 sackok ts]
        > S. 0 ack 1
        < R 1
        ? ended RESET
        = state CLOSED
        """
    )


def test_reset_that_acknowledges_a_simultaneous_open(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        < S 0 [mss 1460 ws 7 sackok ts]
        > S. 0 ack 1
        < R. 1 ack 1
        ? ended RESET
        """
    )


def test_simultaneous_open_ends_with_an_acknowledgment(trace: Trace) -> None:
    """The other side's SYN-ACK was lost, its next segment says as much."""
    enter(trace, "SYN_SENT")(
        """
        < S 0 [mss 1460 ws 7 sackok ts]
        > S. 0 ack 1
        < P. 1:101 ack 1
        ? established
        ? received 100
        > . 1 ack 101
        """
    )


def test_simultaneous_open_is_sent_again(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
             < S 0 [mss 1460 ws 7 sackok ts]
             > S. 0 ack 1
        +1.2 > S. 0 ack 1 [mss 1460 ws 7 sackok ts]
        """
    )


def test_text_of_an_earlier_connection_is_not_taken(trace: Trace) -> None:
    """It lies before the window, whatever it acknowledges; the answer is an ACK."""
    enter(trace, "SYN_RECEIVED")(
        """
        < P. -99:1 ack 1
        > . 1 ack 1
        = state SYN_RECEIVED
        """
    )


@pytest.mark.parametrize("ack", [-5, 0, 2, 70000])
def test_text_with_a_wrong_acknowledgment_is_not_taken(trace: Trace, ack: int) -> None:
    enter(trace, "SYN_RECEIVED")(f"< P. 1:101 ack {ack}\n > R {ack}\n = rcv_nxt 1")


def test_text_without_an_acknowledgment_is_not_taken(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")("< P 1:101\n = rcv_nxt 1\n = state SYN_RECEIVED")


def test_handshake_ends_with_what_came_ahead_of_a_gap(trace: Trace) -> None:
    """Its acknowledgment counts; the text waits for what is missing."""
    enter(trace, "SYN_RECEIVED")(
        """
        < P. 101:201 ack 1
        ? established
        > . 1 ack 1 [sack 101:201]
        < P. 1:101 ack 1
        ? received 200
        > . 1 ack 201 []
        """
    )


def test_window_of_the_handshakes_last_segment_counts(trace: Trace) -> None:
    """It is the first that is scaled."""
    enter(trace, "SYN_RECEIVED")("< . 1 ack 1 win 256\n ? established\n = snd_wnd 256")


def test_a_syn_with_a_closed_window(trace: Trace) -> None:
    """What is queued waits until the guest's window opens, which it is asked for."""
    enter(trace, "LISTEN")(
        """
             < S 0 win 0 [mss 1460 ws 7 sackok ts]
             ! accept
             > S. 0 ack 1
             ! send 100
             < . 1 ack 1 win 0
             ? established
             = timer PERSIST
        +0.2 > . 0 ack 1
             < . 1 ack 1 win 256
             > P. 1:101 ack 1
        """
    )


def test_a_syn_ack_with_a_closed_window(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
             ! send 100
             < S. 0 ack 1 win 0 [mss 1460 ws 7 sackok ts]
             ? established
             > . 1 ack 1
        +0.2 > . 0 ack 1
             < . 1 ack 1 win 256
             > P. 1:101 ack 1
        """
    )


def test_text_of_a_syn_ack_is_taken(trace: Trace) -> None:
    """RFC 9293 §3.10.7.3: processing continues at the sixth step."""
    enter(trace, "SYN_SENT")(
        """
        < SP. 0:100 ack 1 [mss 1460 ws 7 sackok ts]
        ? established
        ? received 100
        > . 1 ack 101
        """
    )


def test_fin_of_a_syn_ack_is_taken(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        < SF. 0 ack 1 [mss 1460 ws 7 sackok ts]
        ? established
        ? eof
        > . 1 ack 2
        = state CLOSE_WAIT
        """
    )


def test_fin_of_a_syn_is_sent_again(trace: Trace) -> None:
    """Like its text; the SYN alone is acknowledged."""
    enter(trace, "LISTEN")(
        """
        < SF 0 [mss 1460 ws 7 sackok ts]
        ! accept
        > S. 0 ack 1
        < F. 1 ack 1
        ? established
        ? eof
        > . 1 ack 2
        """
    )


def test_a_syn_lost_once_starts_with_one_segment(trace: Trace) -> None:
    """RFC 5681 §3.1, RFC 6298 (5.7)."""
    enter(trace, "SYN_SENT")(
        """
        +1  > S 0
            ! send 5000
        +.5 < S. 0 ack 1 [mss 1460 ws 7 sackok ts]
            ? established
            > . 1:1449 ack 1
            = rto 3
        """
    )


def test_a_guest_nobody_answers_for_is_unreachable(trace: Trace) -> None:
    """After three seconds, where not even its address is known."""
    enter(trace, "SYN_SENT")(
        """
        ! vanish
        +1 > S 0
        +2 ? ended UNREACHABLE
        """
    )


def test_a_guest_that_appears_in_time_is_waited_for(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        ! vanish
        +1 > S 0
        ! appear
        +2 > S 0
        = state SYN_SENT
        """
    )
