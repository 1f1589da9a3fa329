"""TIME-WAIT: what shortens it, what prolongs it and what does nothing; RFC 9293 §3.10.7.4."""

import pytest

from ..states import enter
from ..trace import Trace


@pytest.fixture
def waiting(trace: Trace) -> Trace:
    """A connection that has been in TIME-WAIT for a second and a half, of two."""
    return enter(trace, "TIME_WAIT")("+1.5 = state TIME_WAIT")


def test_exact_reset_ends_it(waiting: Trace) -> None:
    """Deviation from RFC 1337 §3, not from RFC 9293: the link brings no old segments."""
    waiting("< R 2\n = state CLOSED\n = resets_in 1")


def test_reset_elsewhere_in_the_window_is_challenged(waiting: Trace) -> None:
    waiting("< R 3\n > . 2 ack 2\n +0.4 = state TIME_WAIT\n +0.2 = state CLOSED")


@pytest.mark.parametrize("seq", [1, 2_000_000])
def test_reset_outside_the_window_is_dropped(waiting: Trace, seq: int) -> None:
    waiting(f"< R {seq}\n +0.4 = state TIME_WAIT\n +0.2 = state CLOSED")


@pytest.mark.parametrize(
    "segment", ["F. 1 ack 2", "P. 2:102 ack 2", "P. 0:1 ack 2", "P. 1000000:1000100 ack 2"]
)
def test_text_and_fin_prolong_it(waiting: Trace, segment: str) -> None:
    """Whoever sends them has not seen our last acknowledgment."""
    waiting(
        f"""
        < {segment}
        > . 2 ack 2
        +1.9 = state TIME_WAIT
        +0.2 = state CLOSED
        """
    )


@pytest.mark.parametrize("segment", [". 2 ack 2", ". 2 ack 1", "P 2:102"])
def test_what_says_nothing_does_not(waiting: Trace, segment: str) -> None:
    waiting(f"< {segment}\n +0.4 = state TIME_WAIT\n +0.2 = state CLOSED")


def test_acknowledgment_of_what_was_not_sent_is_challenged(waiting: Trace) -> None:
    waiting("< . 2 ack 3\n > . 2 ack 2\n +0.6 = state CLOSED")


def test_calls_do_nothing(waiting: Trace) -> None:
    waiting("! shutdown\n ! release\n ! abort\n +0.6 = state CLOSED\n = resets_out 0")


def test_it_is_entered_from_closing_with_all_its_time(trace: Trace) -> None:
    enter(trace, "CLOSING")(
        """
        < . 2 ack 2
        ? ended DONE
        +1.9 = state TIME_WAIT
        +0.2 = state CLOSED
        """
    )
