"""Resets, and segments that may be an impostor's: RFC 9293 §3.5.2, RFC 5961."""

import pytest

from gvproxy.tcp.input import Segment, reset_reply

from ..states import enter
from ..trace import Trace

SYNCHRONIZED = ["ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK"]


def _next(state: str) -> tuple[int, int]:
    """Our next number and the guest's."""
    ours = 1 if state in ("ESTABLISHED", "CLOSE_WAIT") else 2
    return ours, 2 if state in ("CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT") else 1


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_exact_reset_ends_the_connection(trace: Trace, state: str) -> None:
    _, nxt = _next(state)
    enter(trace, state)(f"< R {nxt}\n ? ended RESET\n = state CLOSED\n = resets_in 1")


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_reset_elsewhere_in_the_window_is_challenged(trace: Trace, state: str) -> None:
    """RFC 5961 §3.2."""
    ours, nxt = _next(state)
    enter(trace, state)(f"< R {nxt + 1}\n > . {ours} ack {nxt}\n = state {state}")


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("offset", [-1, -5000, 2_000_000])
def test_reset_outside_the_window_is_dropped(trace: Trace, state: str, offset: int) -> None:
    enter(trace, state)(f"< R {_next(state)[1] + offset}\n = state {state}")


@pytest.mark.parametrize("state", [*SYNCHRONIZED, "TIME_WAIT"])
@pytest.mark.parametrize("seq", [0, 1, 3, -9999, 3_000_000])
def test_syn_is_challenged_wherever_it_stands(trace: Trace, state: str, seq: int) -> None:
    """RFC 5961 §4.2."""
    ours, nxt = _next(state)
    enter(trace, state)(f"< S {seq} [mss 1460]\n > . {ours} ack {nxt}\n = state {state}")


def test_challenges_are_limited(established: Trace) -> None:
    """RFC 5961 §7."""
    established(
        """
              < S 5 [mss 1460]
              > . 1 ack 1
              < S 5 [mss 1460]
              < R 5
        +0.05 < S 5 [mss 1460]
        +0.06 < S 5 [mss 1460]
              > . 1 ack 1
              = challenges 2
        """
    )


@pytest.mark.parametrize("ack", [2, 5000, -200_000])
def test_acknowledgment_of_what_was_not_sent_is_challenged(established: Trace, ack: int) -> None:
    """RFC 9293 §3.10.7.4, fifth, and RFC 5961 §5: its text is not taken either."""
    established(f"< P. 1:101 ack {ack}\n > . 1 ack 1\n = rcv_nxt 1")


def test_old_acknowledgment_brings_its_text(established: Trace) -> None:
    established(
        """
        ! send 1000
        > P. 1:1001 ack 1
        < . 1 ack 1001
        < P. 1:101 ack 1
        ? received 100
        > . 1001 ack 101
        """
    )


def test_segment_without_ack_is_dropped(established: Trace) -> None:
    established("< P 1:101\n = rcv_nxt 1")


def test_data_before_a_reset_is_handed_over(established: Trace) -> None:
    established(
        """
        < P. 1:101 ack 1
        & R. 101 ack 1
        ? received 100
        ? ended RESET
        """
    )


def test_user_that_aborts_while_it_is_given_data(established: Trace) -> None:
    established(
        """
        ! on_received abort
        < FP. 1:101 ack 1
        ? received 100
        > R. 1 ack 102
        ? ended RESET
        """
    )


def test_abort(established: Trace) -> None:
    """The number lies behind all that was sent (RFC 5961: the exact one counts)."""
    established(
        """
        ! send 1000
        > P. 1:1001 ack 1
        ! abort
        > R. 1001 ack 1
        ? ended RESET
        """
    )


def test_abort_after_a_timeout(established: Trace) -> None:
    """snd_nxt has fallen back, and the guest may well have received everything."""
    established(
        """
        ! send 10000
        > P. 1:10001 ack 1
        +0.2 > . 1:1449 ack 1
        ! abort
        > R. 10001 ack 1
        ? ended RESET
        """
    )


def test_abort_in_time_wait_says_nothing(trace: Trace) -> None:
    enter(trace, "TIME_WAIT")("! abort\n = state TIME_WAIT")


def test_drop_says_nothing(trace: Trace) -> None:
    enter(trace, "LISTEN")("! drop\n ? ended UNREACHABLE\n = state CLOSED")


def test_keep_alive_is_answered(established: Trace) -> None:
    """RFC 9293 §3.8.4: with and without the byte of garbage."""
    established(
        """
        < P. 1:101 ack 1
        ? received 100
        > . 1 ack 101
        +7200 < . 100 ack 1
              > . 1 ack 101
        +75   < . 100:101 ack 1
              > . 1 ack 101
        """
    )


def test_unacceptable_answers_do_not_answer_each_other_for_ever(established: Trace) -> None:
    """What Linux limits with tcp_invalid_ratelimit."""
    established("< . -50 ack 1\n > . 1 ack 1\n < . -50 ack 1\n < . -50 ack 1")


@pytest.mark.parametrize(
    ("flags", "size", "reply"),
    [
        (0x02, 0, (0, 101, 0x14)),
        (0x01, 10, (0, 111, 0x14)),
        (0x00, 10, (0, 110, 0x14)),
        (0x10, 10, (77, 0, 0x04)),
        (0x12, 0, (77, 0, 0x04)),
        (0x04, 0, None),
        (0x14, 0, None),
    ],
)
def test_reset_for_no_connection(flags: int, size: int, reply: tuple[int, int, int] | None) -> None:
    """RFC 9293 §3.10.7.1."""
    assert reset_reply(Segment(100, 77, flags, 0, payload=bytes(size))) == reply
