"""What counts although our window is closed: RFC 9293 MUST-66."""

import pytest

from ..trace import Trace

CLOSED = """
    ! limit 65536
    < . 1:1001 ack 1
    ? received 1000
    > . 1 ack 1001
    ! keep
    < . 1001:65537 ack 1
    ? received 64536
    > . 1 ack 65537
    < . 65537:65665 ack 1
    ? received 128
    > . 1 ack 65665 win 0
"""


@pytest.fixture
def closed(established: Trace) -> Trace:
    """A connection whose user has kept all that the window allowed."""
    return established(CLOSED)


def test_reset(closed: Trace) -> None:
    closed("< R 65665\n ? ended RESET")


@pytest.mark.parametrize("seq", [65664, 65666, 70000])
def test_reset_elsewhere_is_dropped(closed: Trace, seq: int) -> None:
    closed(f"< R {seq}\n = state ESTABLISHED\n = resets_in 0")


def test_acknowledgment(closed: Trace) -> None:
    closed(
        """
        ! send 1000
        > P. 1:1001 ack 65665
        < . 65665 ack 1001
        = snd_una 1001
        """
    )


def test_acknowledgment_on_text_that_is_not_taken(closed: Trace) -> None:
    closed(
        """
        ! send 1000
        > P. 1:1001 ack 65665
        < P. 65665:65765 ack 1001 win 65536
        > . 1001 ack 65665 win 0
        = snd_una 1001
        = snd_wnd 65536
        = rcv_nxt 65665
        """
    )


def test_urgent_data_is_answered_and_not_taken(closed: Trace) -> None:
    closed("< PU. 65665:65765 ack 1\n > . 1 ack 65665 win 0")


def test_syn_is_challenged(closed: Trace) -> None:
    closed("< S 65665 [mss 1460]\n > . 1 ack 65665 win 0")


def test_text_ahead_is_answered_and_not_kept(closed: Trace) -> None:
    closed(
        """
        < P. 65765:65865 ack 1
        > . 1 ack 65665 win 0 []
        ! consumed 64664
        > . 1 ack 65665 win 65536 []
        """
    )


def test_fin_behind_text_that_is_not_taken(closed: Trace) -> None:
    closed("< F. 65665:65765 ack 1\n > . 1 ack 65665 win 0\n = state ESTABLISHED")
