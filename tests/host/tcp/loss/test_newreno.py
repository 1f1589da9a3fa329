"""Losses toward a guest without SACK: RFC 5681 §3.2, RFC 6582."""

import pytest

from ..trace import Trace

pytestmark = pytest.mark.usefixtures("narrow")


def test_third_duplicate_retransmits(without_sack: Trace) -> None:
    without_sack(
        """
        ! send 14480
        > P. 1:14481 ack 1
        < . 1 ack 1
        < . 1 ack 1
        = recovering False
        < . 1 ack 1
        > . 1:1449 ack 1
        = recovering True
        = ssthresh 10136
        = cwnd 10136
        < . 1 ack 14481
        = cwnd 10136
        = recovering False
        = fast_recoveries 1
        = timeouts 0
        """
    )


def test_partial_acknowledgment_retransmits_the_next_hole(without_sack: Trace) -> None:
    """RFC 6582 §3.2 step 3."""
    without_sack(
        """
        ! send 14480
        > P. 1:14481 ack 1
        < . 1 ack 1
        & . 1 ack 1
        & . 1 ack 1
        > . 1:1449 ack 1
        < . 1 ack 4345
        > . 4345:5793 ack 1
        = recovering True
        < . 1 ack 14481
        = recovering False
        = timeouts 0
        """
    )


def test_duplicates_let_new_data_out(without_sack: Trace) -> None:
    """Limited transmit (RFC 3042), and what each further duplicate stands for."""
    without_sack(
        """
        ! send 64000
        > P. 1:64001 ack 1
        ! send 14480             # the window of 65536 has 1536 left
        > . 64001:65449 ack 1
        < . 1 ack 1
        > . 65449:66897 ack 1
        < . 1 ack 1
        > . 66897:68345 ack 1
        < . 1 ack 1
        > . 1:1449 ack 1
        """
    )


def test_no_fast_retransmit_for_what_a_timeout_sends_again(without_sack: Trace) -> None:
    """RFC 6582 §3.2 step 2: acknowledged up to `recover` is not past it."""
    without_sack(
        """
             ! send 4344
             > P. 1:4345 ack 1
        +0.2 > . 1:1449 ack 1
             < . 1 ack 4345
             ! send 1000
             > P. 4345:5345 ack 1
             < . 1 ack 4345
             & . 1 ack 4345
             & . 1 ack 4345
             = fast_recoveries 0
        """
    )


def test_what_is_no_duplicate_acknowledgment(without_sack: Trace) -> None:
    """RFC 5681 §2: text, FIN, a new window, or nothing outstanding."""
    without_sack(
        """
        < . 1 ack 1
        < . 1 ack 1
        < . 1 ack 1
        ! send 1000
        > P. 1:1001 ack 1
        < P. 1:11 ack 1
        ? received 10
        > . 1001 ack 11
        < . 11 ack 1 win 65536
        < . 11 ack 1 win 32768
        = dup_acks 0
        """
    )


def test_no_duplicate_counts_where_the_guest_has_sack(established: Trace) -> None:
    """RFC 6675 §2: a duplicate acknowledgment is one that says what has arrived."""
    established(
        """
        ! send 1000
        > P. 1:1001 ack 1
        < . 1 ack 1
        < . 1 ack 1
        < . 1 ack 1
        = dup_acks 0
        = recovering False
        """
    )


def test_fast_retransmit_is_not_measured(without_sack: Trace) -> None:
    without_sack(
        """
              = srtt 0.001
              ! send 1000
              > P. 1:1001 ack 1
        +0.01 < . 1 ack 1
              & . 1 ack 1
              & . 1 ack 1
              > P. 1:1001 ack 1
        +0.05 < . 1 ack 1001
              = srtt 0.001
        """
    )


def test_a_timestamp_measures_what_was_sent_twice(without_sack: Trace) -> None:
    """RFC 7323 §4: the echo says which of the two arrived."""
    without_sack(
        """
              = srtt 0.001
              ! send 1000
              > P. 1:1001 ack 1
        +0.01 < . 1 ack 1
              & . 1 ack 1
              & . 1 ack 1
              > P. 1:1001 ack 1
        +0.05 < . 1 ack 1001 [ecr 11]
              = srtt 0.007
        """
    )


def test_fast_retransmit_brings_nothing_new(without_sack: Trace) -> None:
    """A byte and a FIN are queued, but the window has not let them out."""
    without_sack(
        """
        < . 1 ack 1 win 1024
        ! send 1025
        > . 1:1025 ack 1
        ! shutdown
        < . 1 ack 1 win 1024
        & . 1 ack 1 win 1024
        & . 1 ack 1 win 1024
        > . 1:1025 ack 1
        """
    )


def test_fin_is_sent_again_by_fast_retransmit(without_sack: Trace) -> None:
    without_sack(
        """
        ! send 1000
        > P. 1:1001 ack 1
        ! shutdown
        > F. 1001 ack 1
        < . 1 ack 1
        < . 1 ack 1
        < . 1 ack 1
        > P. 1:1001 ack 1
        < . 1 ack 1001
        > F. 1001 ack 1
        < . 1 ack 1002
        = state FIN_WAIT_2
        """
    )


def test_what_comes_out_of_order_is_acknowledged_each_time(without_sack: Trace) -> None:
    """The guest counts them (RFC 5681 §4.2), also where they come in one batch."""
    without_sack(
        """
        < P. 1001:2001 ack 1
        & P. 2001:3001 ack 1
        & P. 3001:4001 ack 1
        > . 1 ack 1
        > . 1 ack 1
        > . 1 ack 1
        < P. 1:1001 ack 1
        ? received 4000
        > . 1 ack 4001
        """
    )


def test_a_duplicate_for_less_than_a_segment(without_sack: Trace) -> None:
    without_sack("! send 1\n > P. 1:2 ack 1\n < . 1 ack 1")
    assert without_sack.bench.c.flight.sacked == 0
