"""LAST-ACK and CLOSING: RFC 9293 §3.10.7.4."""

from ..states import enter
from ..trace import Trace


def test_fin_that_comes_again_with_the_last_acknowledgment(trace: Trace) -> None:
    """In one batch: it is answered although the connection is over with the next segment."""
    enter(trace, "LAST_ACK")(
        """
        < F. 1 ack 1
        & . 2 ack 2
        > . 2 ack 2
        ? ended DONE
        """
    )


def test_data_is_acknowledged_before_the_fin(trace: Trace) -> None:
    enter(trace, "CLOSE_WAIT")(
        """
        ! finish 1000
        > FP. 1:1001 ack 2
        = state LAST_ACK
        < . 2 ack 1001
        = state LAST_ACK
        < . 2 ack 1002
        ? ended DONE
        """
    )


def test_closing_sends_its_fin_again(trace: Trace) -> None:
    enter(trace, "CLOSING")(
        """
        +0.2 > F. 1 ack 2
        +0.4 > F. 1 ack 2
             < . 2 ack 2
             ? ended DONE
             = state TIME_WAIT
        """
    )


def test_closing_still_sends_its_data(trace: Trace) -> None:
    enter(trace, "ESTABLISHED")(
        """
        < . 1 ack 1 win 1024
        ! send 2000
        > . 1:1025 ack 1
        ! shutdown
        < F. 1 ack 1 win 1024
        ? eof
        > . 1025 ack 2
        = state CLOSING
        < . 2 ack 1025 win 1024
        > FP. 1025:2001 ack 2
        < . 2 ack 2002
        ? ended DONE
        = state TIME_WAIT
        """
    )


def test_fin_is_on_the_last_segment_only(trace: Trace) -> None:
    """The window lets the rest out piece by piece."""
    enter(trace, "ESTABLISHED")(
        """
        < . 1 ack 1 win 1024
        ! send 3000
        > . 1:1025 ack 1
        ! shutdown
        < . 1 ack 1025 win 1024
        > . 1025:2049 ack 1
        < . 1 ack 2049 win 1024
        > FP. 2049:3001 ack 1
        < . 1 ack 3002
        = state FIN_WAIT_2
        """
    )
