"""Acknowledgments ahead of a gap, on a long way: some at once, then one for several segments."""

import pytest

from ..states import enter
from ..trace import Trace


@pytest.fixture
def distant(trace: Trace) -> Trace:
    """A connection with a round trip of 20 ms."""
    return _opened(trace)


def _opened(trace: Trace, seconds: str = "0.02") -> Trace:
    return enter(trace, "SYN_RECEIVED")(
        f"""
        +{seconds} < . 1 ack 1
                   ? established
        """
    )


FOUR_AHEAD = """
    < . 1001:2001 ack 1
    & . 2001:3001 ack 1
    & . 3001:4001 ack 1
    & . 4001:5001 ack 1
    > . 1 ack 1 [sack 1001:2001]
    > . 1 ack 1 [sack 1001:3001]
    > . 1 ack 1 [sack 1001:4001]
"""


def test_what_follows_is_reported_together(distant: Trace) -> None:
    distant(
        f"""
                {FOUR_AHEAD}
        +0.0002 < . 5001:6001 ack 1
                & . 7001:8001 ack 1
        +0.0003 > . 1 ack 1 [sack 7001:8001 1001:6001]
        +0.1    < . 8001:9001 ack 1
        +0.0005 > . 1 ack 1 [sack 7001:9001 1001:6001]
        """
    )


def test_the_end_of_the_gap_is_reported_at_once(distant: Trace) -> None:
    distant(
        f"""
                {FOUR_AHEAD}
        +0.0002 < . 1:1001 ack 1
                ? received 5000
                > . 1 ack 5001 []
        +1      = rcv_nxt 5001
        """
    )


def test_the_next_gap_is_reported_at_once(distant: Trace) -> None:
    distant(
        f"""
        {FOUR_AHEAD}
        < . 1:1001 ack 1
        & . 6001:7001 ack 1
        > . 1 ack 5001 [sack 6001:7001]
        ? received 5000
        < . 7001:8001 ack 1
        > . 1 ack 5001 [sack 6001:8001]
        < . 8001:9001 ack 1
        > . 1 ack 5001 [sack 6001:9001]
                < . 9001:9501 ack 1
        +0.0005 > . 1 ack 5001 [sack 6001:9501]
        """
    )


def test_data_takes_the_report_along(distant: Trace) -> None:
    distant(
        f"""
                {FOUR_AHEAD}
        +0.0002 ! send 100
                > P. 1:101 ack 1 [sack 1001:5001]
        +0.0003 = gap_acks 3
        """
    )


def test_what_came_once_more_is_reported_at_once(distant: Trace) -> None:
    distant(
        f"""
        {FOUR_AHEAD}
        < . 1001:2001 ack 1
        > . 1 ack 1 [sack 1001:2001 1001:5001]
        """
    )


@pytest.mark.parametrize("seconds", ["0.002", "0.009"])
def test_on_a_short_way_each_is_reported(trace: Trace, seconds: str) -> None:
    _opened(trace, seconds)(FOUR_AHEAD + "> . 1 ack 1 [sack 1001:5001]")


def test_without_sack_each_is_counted(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED", "mss 1460 ws 7 ts")(
        """
        +0.02 < . 1 ack 1
              ? established
              < . 1001:2001 ack 1
              & . 2001:3001 ack 1
              & . 3001:4001 ack 1
              & . 4001:5001 ack 1
              > . 1 ack 1
              > . 1 ack 1
              > . 1 ack 1
              > . 1 ack 1
        """
    )


def test_where_no_round_trip_is_known_each_is_reported(trace: Trace) -> None:
    """The SYN-ACK left twice, and which one was answered nobody knows."""
    enter(trace, "SYN_RECEIVED")(
        f"""
        +1.2  > S. 0 ack 1
        +0.02 < . 1 ack 1
              ? established
              {FOUR_AHEAD}
              > . 1 ack 1 [sack 1001:5001]
        """
    )
