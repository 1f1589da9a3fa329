"""A recovery's course: what may be sent meanwhile, its timer, and what takes it back."""

import pytest

from ..trace import Trace

pytestmark = pytest.mark.usefixtures("narrow")


def test_what_is_sent_again_keeps_to_the_congestion_window(established: Trace) -> None:
    """RFC 6675 §5: what counts as lost is not on its way, what was sent again is."""
    established(
        """
             ! send 30000
             > P. 1:30001 ack 1
        +0.2 > . 1:1449 ack 1
             < . 1 ack 1 [sack 29001:30001]
             = cwnd 1448
             < . 1 ack 1449 [sack 29001:30001]
             > . 1449:4345 ack 1
        """
    )


def test_a_part_of_a_segment_is_not_sent_again(established: Trace) -> None:
    """The budget ends in the middle of one, and others are on their way: it waits."""
    established(
        """
               ! send 20272
               > P. 1:20273 ack 1
        +0.001 < . 1 ack 1 [sack 1449:2897 4345:5793 17377:20273]
               > . 1:1449 ack 1
               > . 2897:4345 ack 1
               > . 5793:15929 ack 1
               = cwnd 14190
        """
    )


def test_first_retransmission_restarts_the_timer(established: Trace) -> None:
    """RFC 6675 §5 (4.1), RFC 6298 (5.1): what was sent again has all its time."""
    established(
        """
              ! send 14480
              > P. 1:14481 ack 1
        +0.15 < . 1 ack 1 [sack 1449:14481]
              > . 1:1449 ack 1
        +0.1  = timeouts 0
        +0.1  > . 1:1449 ack 1
              = timeouts 1
        """
    )


def test_further_losses_are_one_reduction(established: Trace) -> None:
    """RFC 5681 §3.2: once for the data that was on its way."""
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.001 < . 1 ack 1 [sack 1449:5793]
               > . 1:1449 ack 1
               = cwnd 10136
       +0.0005 < . 1 ack 1 [sack 1449:5793 8689:14481]
               > . 5793:8689 ack 1
               = cwnd 10136
               = fast_recoveries 1
       +0.0005 < . 1 ack 5793
               = timer RETRANSMIT
               = recovering True
       +0.001  < . 1 ack 14481
               = recovering False
        """
    )


def test_window_stays_while_recovering(established: Trace) -> None:
    established(
        """
        ! send 60000
        > P. 1:60001 ack 1
        < . 1 ack 1 [sack 1449:60001]
        > . 1:1449 ack 1
        = cwnd 42000
        ! send 40000
        > P. 60001:100001 ack 1
        < . 1 ack 50001
        = cwnd 42000
        """
    )


def test_one_duplicate_report_of_two_takes_nothing_back(established: Trace) -> None:
    """RFC 3708: one of both retransmissions was needed."""
    established(
        """
        ! send 14480
        > P. 1:14481 ack 1
        < . 1 ack 1 [sack 5793:14481]
        > . 1:5793 ack 1
        < . 1 ack 14481
        < . 1 ack 14481 [sack 1:1449]
        = undone 0
        = cwnd 10136
        < . 1 ack 14481 [sack 1449:5793]
        = undone 1
        = cwnd 65536
        """
    )


def test_one_segment_less_than_three_waits(established: Trace) -> None:
    """RFC 8985 §6.2: until then it may just be late."""
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.001 < . 1 ack 1 [sack 1449:4344]
               = recovering False
               = timer REORDER
        < . 1 ack 14481
        = retransmits 0
        """
    )


def test_reordering_goes_on_while_its_wait_runs(established: Trace) -> None:
    """When nothing came, the flight is looked after by its own timer."""
    established(
        """
               ! send 1448
               > P. 1:1449 ack 1
        +0.001 ! send 1448
               > P. 1449:2897 ack 1
        +0.001 < . 1 ack 1 [sack 1449:2897]
               > . 1:1449 ack 1
        +0.2   > . 1:1449 ack 1
               = timeouts 1
        """
    )


def test_old_blocks_say_nothing(established: Trace) -> None:
    """An acknowledgment that was overtaken; its ranges lie below SND.UNA."""
    established(
        """
        ! send 14480
        > P. 1:14481 ack 1
        < . 1 ack 5793
        < . 1 ack 1 [sack 1449:2897]
        = snd_una 5793
        = recovering False
        < . 1 ack 5793 [sack 4345:8689 5000:8689]
        = recovering False
        """
    )
    assert established.bench.c.flight.sacked == 2896


def test_repeated_timeouts_are_one_reduction(established: Trace) -> None:
    """RFC 5681 §3.1: ssthresh is of the first."""
    established(
        """
             ! send 30000
             > P. 1:30001 ack 1
        +0.2 > . 1:1449 ack 1
             = ssthresh 21000
        +0.4 > . 1:1449 ack 1
             = ssthresh 21000
        """
    )


def test_duplicates_of_a_timeouts_retransmission_start_nothing(without_sack: Trace) -> None:
    """RFC 6582 §3.2 step 2, in the middle of it."""
    without_sack(
        """
             ! send 14480
             > P. 1:14481 ack 1
        +0.2 > . 1:1449 ack 1
             < . 1 ack 1449
             > . 1449:4345 ack 1
             < . 1 ack 1449
             & . 1 ack 1449
             & . 1 ack 1449
             > . 4345:8689 ack 1    # three have left the path
             = fast_recoveries 0
             = timed_out True
        """
    )


def test_a_new_acknowledgment_ends_the_count_of_duplicates(without_sack: Trace) -> None:
    without_sack(
        """
        ! send 64000
        > P. 1:64001 ack 1
        < . 1 ack 1
        < . 1 ack 1
        < . 1 ack 1449
        = dup_acks 0
        < . 1 ack 1449
        < . 1 ack 1449
        = fast_recoveries 0
        """
    )
    assert without_sack.bench.c.flight.sacked == 2 * 1448


@pytest.mark.parametrize("fin", ["", "! shutdown\n > F. 14481 ack 1\n"])
def test_recovery_ends_with_all_that_was_on_its_way(established: Trace, fin: str) -> None:
    end = 14482 if fin else 14481
    established(
        f"""
        ! send 14480
        > P. 1:14481 ack 1
        {fin}
        < . 1 ack 1 [sack 1449:5793]
        > . 1:1449 ack 1
        < . 1 ack 14480
        = recovering True
        < . 1 ack {end}
        = recovering False
        """
    )


def test_an_acknowledgment_too_soon_for_the_retransmission(established: Trace) -> None:
    """RFC 8985 §6.2 step 2: it is of the original, and tells nothing of what was sent meanwhile."""
    established(
        """
                ! send 14480
                > P. 1:14481 ack 1
        +0.01   < . 1 ack 1 [sack 1449:5793]
                > . 1:1449 ack 1
        +0.0001 < . 1 ack 5793
                = retransmits 1
        """
    )


def test_duplicates_make_room_until_the_next_acknowledgment(without_sack: Trace) -> None:
    without_sack(
        """
        ! send 64000
        > P. 1:64001 ack 1
        < . 1 ack 1
        < . 1 ack 1
        ! room 4432
        < . 1 ack 1449
        = cwnd 66984
        ! room 4432
        """
    )


def test_partial_acknowledgments_after_a_timeout_repeat_nothing(without_sack: Trace) -> None:
    """What was sent again is on its way; what follows it comes next."""
    without_sack(
        """
             ! send 14480
             > P. 1:14481 ack 1
        +0.2 > . 1:1449 ack 1
             < . 1 ack 1449
             > . 1449:4345 ack 1
             < . 1 ack 2897
             > . 4345:7241 ack 1
        """
    )


@pytest.mark.parametrize("blocks", ["5000:20000", "1:20000", "14000:14482"])
def test_ranges_that_reach_beyond_what_was_sent_mark_nothing(
    established: Trace, blocks: str
) -> None:
    established(f"! send 14480\n > P. 1:14481 ack 1\n +0.001 < . 1 ack 1 [sack {blocks}]")
    assert established.bench.c.flight.sacked == 0


def test_duplicate_report_behind_a_gap(established: Trace) -> None:
    """RFC 2883 §4.2: the first block lies within the second."""
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.001 < . 1 ack 1 [sack 4345:7241]
               < . 1 ack 1 [sack 5793:7241 4345:7241]
               = duplicates 1
        """
    )
    assert established.bench.c.flight.sacked == 2896


def test_after_a_recovery_for_nothing_what_is_late_is_waited_for(established: Trace) -> None:
    """RFC 8985 §6.2 step 3: reordering was seen, though not by RACK itself."""
    established(
        """
        +0.01 ! send 14480
              > P. 1:14481 ack 1
        +0.01 < . 1 ack 1 [sack 4345:14481 ecr 11]
              > . 1:4345 ack 1
        +0.01 < . 1 ack 14481 [ecr 11]
              = undone 1
              ! send 14480
              > P. 14481:28961 ack 1
        +0.01 < . 1 ack 14481 [sack 18825:28961]
              = timer REORDER
              = retransmits 1
        """
    )
