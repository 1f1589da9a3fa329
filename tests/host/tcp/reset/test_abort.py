"""The user's ABORT, state by state: RFC 9293 §3.10.5.  And resets that carry text (SHLD-2)."""

import pytest

from ..states import enter
from ..trace import Trace


def test_abort_of_our_syn_says_nothing(trace: Trace) -> None:
    """Nobody has answered yet, and a number that the guest must believe is not known."""
    enter(trace, "SYN_SENT")("! abort\n ? ended RESET\n = state CLOSED\n = resets_out 0")


@pytest.mark.parametrize(
    ("state", "reset"),
    [
        ("SYN_RECEIVED", "R. 1 ack 1"),
        ("ESTABLISHED", "R. 1 ack 1"),
        ("FIN_WAIT_1", "R. 2 ack 1"),
        ("FIN_WAIT_2", "R. 2 ack 1"),
        ("CLOSE_WAIT", "R. 1 ack 2"),
        # RFC 9293 only forgets these two; the guest is spared its wait for what was cut off.
        ("CLOSING", "R. 2 ack 2"),
        ("LAST_ACK", "R. 2 ack 2"),
    ],
)
def test_abort_resets(trace: Trace, state: str, reset: str) -> None:
    enter(trace, state)(f"! abort\n > {reset}\n ? ended RESET\n = state CLOSED\n = resets_out 1")


def test_abort_of_a_closed_connection_is_nothing(trace: Trace) -> None:
    enter(trace, "CLOSED")("! abort\n ! release\n ! shutdown\n = resets_out 0")


def test_abort_drops_what_is_queued(established: Trace) -> None:
    established(
        """
        < . 1 ack 1 win 1024
        ! send 2000
        > . 1:1025 ack 1
        ! abort
        > R. 1025 ack 1
        ? ended RESET
        +600 = state CLOSED
        """
    )


def test_abort_keeps_to_a_window_that_shrank(established: Trace) -> None:
    """A reset beyond it would be dropped (RFC 5961 §3)."""
    established(
        """
        ! send 10000
        > P. 1:10001 ack 1
        < . 1 ack 1 win 512
        ! abort
        > R. 513 ack 1
        ? ended RESET
        """
    )


@pytest.mark.parametrize("state", ["SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_2"])
def test_reset_with_text(trace: Trace, state: str) -> None:
    """The text says why, to humans: it is no data."""
    enter(trace, state)("< R 1:20\n ? ended RESET\n = state CLOSED")


def test_reset_of_our_syn_with_text(trace: Trace) -> None:
    enter(trace, "SYN_SENT")("< R. 0:20 ack 1\n ? ended RESET")


def test_reset_with_text_elsewhere_is_challenged(established: Trace) -> None:
    established("< R 5:20\n > . 1 ack 1\n = state ESTABLISHED")


def test_reset_with_text_that_reaches_into_the_window_is_challenged(established: Trace) -> None:
    """It is acceptable by its end, and not exact by its begin."""
    established("< R -9:11\n > . 1 ack 1\n = state ESTABLISHED")


def test_syn_and_reset_is_a_reset(established: Trace) -> None:
    """RFC 9293 §3.10.7.4: the RST is checked first."""
    established("< SR 1\n ? ended RESET")


def test_release_resets_for_data_on_its_way_to_the_user(established: Trace) -> None:
    """Ahead of a gap: nobody will read what follows."""
    established(
        """
        ! release
        > F. 1 ack 1
        < P. 101:201 ack 1
        > R. 2 ack 1
        = state CLOSED
        """
    )


def test_fin_after_release_is_no_data(established: Trace) -> None:
    established(
        """
        ! release
        > F. 1 ack 1
        < . 1 ack 2
        < F. 1 ack 2
        > . 2 ack 2
        = state TIME_WAIT
        """
    )
