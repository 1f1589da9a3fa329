"""The text of segments: order, gaps, overlaps, SACK, timestamps, delayed acknowledgments."""

from ..trace import Trace


def test_batch_is_handed_over_and_acknowledged_once(established: Trace) -> None:
    established(
        """
        < . 1:1449 ack 1
        & . 1449:2897 ack 1
        & P. 2897:3000 ack 1
        ? received 2999
        > . 1 ack 3000
        """
    )


def test_answer_takes_the_acknowledgment_along(established: Trace) -> None:
    established(
        """
        ! on_received send 50
        < P. 1:101 ack 1
        ? received 100
        > P. 1:51 ack 101
        """
    )


def test_gap_is_reported_at_once_and_filled(established: Trace) -> None:
    """RFC 5681 §4.2, RFC 2018 §4."""
    established(
        """
        < . 1001:2001 ack 1
        > . 1 ack 1 [sack 1001:2001]
        < . 3001:4001 ack 1
        > . 1 ack 1 [sack 3001:4001 1001:2001]
        < . 1:1001 ack 1
        ? received 2000
        > . 1 ack 2001 [sack 3001:4001]
        < . 2001:3001 ack 1
        ? received 2000
        > . 1 ack 4001 []
        """
    )


def test_newest_block_comes_first_and_three_fit(established: Trace) -> None:
    established(
        """
        < . 1001:2001 ack 1
        & . 3001:4001 ack 1
        & . 5001:6001 ack 1
        & . 7001:8001 ack 1
        & . 2001:2501 ack 1
        > . 1 ack 1 [sack 1001:2001]
        > . 1 ack 1 [sack 3001:4001 1001:2001]
        > . 1 ack 1 [sack 5001:6001 3001:4001 1001:2001]
        > . 1 ack 1 [sack 7001:8001 5001:6001 3001:4001]
        > . 1 ack 1 [sack 1001:2501 7001:8001 5001:6001]
        """
    )


def test_overlapping_pieces(established: Trace) -> None:
    established(
        """
        < . 501:1001 ack 1
        & . 801:1501 ack 1
        & . 401:1601 ack 1
        > . 1 ack 1 [sack 501:1001]
        > . 1 ack 1 [sack 501:1501]
        > . 1 ack 1 [sack 401:1601]
        < . 1:701 ack 1
        ? received 1600
        > . 1 ack 1601 []
        """
    )


def test_old_data_is_acknowledged_again(established: Trace) -> None:
    established(
        """
        < . 1:1001 ack 1
        ? received 1000
        > . 1 ack 1001
        < . 1:1001 ack 1
        > . 1 ack 1001
        < . 501:1501 ack 1
        ? received 500
        > . 1 ack 1501
        """
    )


def test_fin_ahead_of_a_gap_is_kept(established: Trace) -> None:
    established(
        """
        < FP. 1001:2001 ack 1
        > . 1 ack 1 [sack 1001:2001]
        < . 1:1001 ack 1
        ? received 2000
        ? eof
        > . 1 ack 2002
        """
    )


def test_fin_alone_ahead_of_a_gap_is_kept(established: Trace) -> None:
    established(
        """
        < F. 1001 ack 1
        > . 1 ack 1
        < P. 1:1001 ack 1
        ? received 1000
        ? eof
        > . 1 ack 1002
        = state CLOSE_WAIT
        """
    )


def test_what_came_before_is_reported(established: Trace) -> None:
    """D-SACK (RFC 2883): below the acknowledgment, or inside what is reported anyway."""
    established(
        """
        < P. 1:1001 ack 1
        ? received 1000
        > . 1 ack 1001
        < P. 1:1001 ack 1
        > . 1 ack 1001 [sack 1:1001]
        < P. 501:1501 ack 1
        ? received 500
        > . 1 ack 1501 [sack 501:1001]
        < P. 2001:3001 ack 1
        > . 1 ack 1501 [sack 2001:3001]
        < P. 2001:3001 ack 1
        > . 1 ack 1501 [sack 2001:3001 2001:3001]
        < P. 3001:4001 ack 1
        > . 1 ack 1501 [sack 2001:4001]
        """
    )


def test_urgent_data_is_data(established: Trace) -> None:
    """RFC 9293 MUST-31 wants urgent data of any length to work; it stays in the stream."""
    established("< PU. 1:101 ack 1\n ? received 100\n > . 1 ack 101")


def test_user_that_consumes_old_data_while_it_is_given_new(established: Trace) -> None:
    """… must not see its count of held bytes overwritten."""
    established(
        """
        ! keep
        < . 1:1001 ack 1
        ? received 1000
        > . 1 ack 1001
        ! on_received consumed 1000
        < . 1001:3001 ack 1
        ? received 2000
        > . 1 ack 3001
        = rcv_held 2000
        """
    )


def test_delayed_acknowledgment(established: Trace) -> None:
    """RFC 9293 §3.8.6.3; it waited in vain once and does not wait again."""
    established.bench.c.interactive = True
    established(
        """
              < P. 1:101 ack 1
              ? received 100
        +0.01 > . 1 ack 101
              < P. 101:201 ack 1
              ? received 100
              > . 1 ack 201
        """
    )


def test_delayed_acknowledgment_rides_along(established: Trace) -> None:
    established.bench.c.interactive = True
    established(
        """
               < P. 1:101 ack 1
               ? received 100
        +0.005 ! send 50
               > P. 1:51 ack 101
               < P. 101:201 ack 51
               ? received 100
        +0.01  > . 51 ack 201
        """
    )


def test_two_full_segments_end_the_delay(established: Trace) -> None:
    established.bench.c.interactive = True
    established(
        """
        < . 1:1449 ack 1
        ? received 1448
        < . 1449:2897 ack 1
        ? received 1448
        > . 1 ack 2897
        """
    )


def test_echo_is_of_the_first_segment_that_waits(established: Trace) -> None:
    """RFC 7323 §4.3: so that the guest measures our waiting as well."""
    established(
        """
        < . 1:101 ack 1 [val 100]
        & . 101:201 ack 1 [val 200]
        ? received 200
        > . 1 ack 201 [ecr 100]
        """
    )


def test_echo_in_face_of_a_gap(established: Trace) -> None:
    """RFC 7323 §4.3 (B), (C)."""
    established(
        """
        < . 101:201 ack 1 [val 200]
        > . 1 ack 1 [ecr 1 sack 101:201]
        < . 1:101 ack 1 [val 300]
        ? received 200
        > . 1 ack 201 [ecr 300]
        """
    )


def test_old_duplicate_is_known_by_its_timestamp(established: Trace) -> None:
    """PAWS: in the window, and yet from before the numbers wrapped."""
    established(
        """
        < . 1:101 ack 1 [val 300]
        ? received 100
        > . 1 ack 101
        < . 101:201 ack 1 [val 299]
        > . 1 ack 101 [ecr 300]
        < R 101 [val 1]
        ? ended RESET
        """
    )


def test_blind_segment_does_not_set_the_timestamp(established: Trace) -> None:
    """RFC 7323 §5.3: only a segment that is acceptable."""
    established(
        """
        < . -5000:-4000 ack 1 [val 1000000000]
        > . 1 ack 1
        < P. 1:101 ack 1
        ? received 100
        > . 1 ack 101
        """
    )


def test_segment_without_timestamps_is_taken(established: Trace) -> None:
    established("< P. 1:101 ack 1 [nots]\n ? received 100\n > . 1 ack 101")


def test_each_repetition_is_reported(established: Trace) -> None:
    """The guest counts them, to see that all it sent again was in vain (RFC 2883 §4, RFC 3708)."""
    established(
        """
        < P. 1:3001 ack 1
        ? received 3000
        > . 1 ack 3001
        < . 1:1001 ack 1
        & . 1001:2001 ack 1
        & . 2001:3001 ack 1
        > . 1 ack 3001 [sack 1:1001]
        > . 1 ack 3001 [sack 1001:2001]
        > . 1 ack 3001 [sack 2001:3001]
        """
    )


def test_what_lies_behind_the_end_is_dropped(established: Trace) -> None:
    established(
        """
        < P. 2001:3001 ack 1
        > . 1 ack 1 [sack 2001:3001]
        < FP. 1:1001 ack 1
        ? received 1000
        ? eof
        > . 1 ack 1002
        = buffered 0
        """
    )
