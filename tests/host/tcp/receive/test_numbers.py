"""Old acknowledgments and old timestamps on new text: RFC 5961 §5, RFC 7323 §5."""

import pytest

from ..states import enter
from ..trace import Trace


@pytest.mark.parametrize("ack", [0, -65000, -131071])
def test_acknowledgment_as_old_as_the_largest_window(established: Trace, ack: int) -> None:
    """RFC 5961 §5: SND.UNA - MAX.SND.WND still counts."""
    established(f"< P. 1:101 ack {ack}\n ? received 100\n > . 1 ack 101")


def test_acknowledgment_older_than_the_largest_window(established: Trace) -> None:
    established("< P. 1:101 ack -131072\n > . 1 ack 1\n = rcv_nxt 1")


def test_largest_window_is_of_the_past(established: Trace) -> None:
    established(
        """
        < . 1 ack 1 win 262144
        < . 1 ack 1 win 512
        < P. 1:101 ack -262000 win 512
        ? received 100
        > . 1 ack 101
        """
    )


def test_timestamps_go_around(established: Trace) -> None:
    """RFC 7323 §5.2: 2^32 ms are 49.7 days."""
    established(
        """
        < P. 1:101 ack 1 [val 2000000000]
        ? received 100
        > . 1 ack 101
        < P. 101:201 ack 1 [val 4000000000]
        ? received 100
        > . 1 ack 201
        < P. 201:301 ack 1 [val 4294967296]
        ? received 100
        > . 1 ack 301 [ecr 0]
        < P. 301:401 ack 1 [val 4000000000]
        > . 1 ack 301
        """
    )


def test_a_timestamp_grows_old(established: Trace) -> None:
    """RFC 7323 §5.5: after 24 days of silence a clock of 1 ms may be half around."""
    established(
        """
        < P. 1:101 ack 1 [val 300]
        ? received 100
        > . 1 ack 101
        +2073000 < P. 101:201 ack 1 [val 200]
        > . 1 ack 101
        +1000 < P. 101:201 ack 1 [val 200]
        ? received 100
        > . 1 ack 201
        """
    )


def test_refused_text_does_not_set_the_timestamp(established: Trace) -> None:
    """It acknowledges what was not sent; later text of the guest must not fail by it."""
    established(
        """
        < P. 1:101 ack 77 [val 1000000]
        > . 1 ack 1
        < P. 1:101 ack 1 [val 10]
        ? received 100
        > . 1 ack 101 [ecr 10]
        """
    )


def test_text_behind_what_was_acknowledged_does_not_set_the_timestamp(established: Trace) -> None:
    """RFC 7323 §4.3: SEG.SEQ <= Last.ACK.sent, the first of those that wait."""
    established.bench.c.interactive = True
    established(
        """
        < P. 1:101 ack 1 [val 100]
        ? received 100
        < P. 101:201 ack 1 [val 200]
        ? received 100
        +0.01 > . 1 ack 201 [ecr 100]
        < P. 201:301 ack 1 [val 300]
        ? received 100
        > . 1 ack 301 [ecr 300]
        """
    )


def test_a_filled_gap_is_acknowledged_at_once(established: Trace) -> None:
    """RFC 5681 §4.2, although a delayed acknowledgment would do for so little."""
    established.bench.c.interactive = True
    established(
        """
        < P. 101:201 ack 1
        > . 1 ack 1 [sack 101:201]
        < P. 1:101 ack 1
        ? received 200
        > . 1 ack 201 []
        """
    )


def test_four_blocks_fit_without_timestamps(trace: Trace) -> None:
    enter(trace, "ESTABLISHED", "mss 1460 ws 7 sackok")(
        """
        < . 1001:2001 ack 1
        & . 3001:4001 ack 1
        & . 5001:6001 ack 1
        & . 7001:8001 ack 1
        & . 9001:9501 ack 1
        > . 1 ack 1 [nots sack 1001:2001]
        > . 1 ack 1 [nots sack 3001:4001 1001:2001]
        > . 1 ack 1 [nots sack 5001:6001 3001:4001 1001:2001]
        > . 1 ack 1 [nots sack 7001:8001 5001:6001 3001:4001 1001:2001]
        > . 1 ack 1 [nots sack 9001:9501 7001:8001 5001:6001 3001:4001]
        """
    )


def test_refused_text_that_repeats_in_part_is_no_duplicate(established: Trace) -> None:
    """Refused by its timestamp; all of what RFC 2883 reports has arrived before."""
    established(
        """
        < P. 1:1001 ack 1
        ? received 1000
        > . 1 ack 1001
        < P. 501:1501 ack 1 [val 0]
        > . 1 ack 1001 []
        """
    )


def test_what_came_before_is_reported_first(established: Trace) -> None:
    """RFC 2883 §4: the first block, ahead of what waits behind the gap."""
    established(
        """
        < P. 1:1001 ack 1
        ? received 1000
        > . 1 ack 1001
        < P. 2001:3001 ack 1
        > . 1 ack 1001 [sack 2001:3001]
        < P. 1:1001 ack 1
        > . 1 ack 1001 [sack 1:1001 2001:3001]
        < P. 3001:4001 ack 1
        > . 1 ack 1001 [sack 2001:4001]
        """
    )
