"""Losses that SACK shows: RFC 2018, RFC 6675, RACK (RFC 8985 §6), D-SACK, Eifel."""

import pytest

from gvproxy.tcp import flight, output

from ..trace import Trace

pytestmark = pytest.mark.usefixtures("narrow")


def test_three_segments_behind_a_gap_retransmit_it(established: Trace) -> None:
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.001 < . 1 ack 1 [sack 1449:2897]
               = recovering False
               < . 1 ack 1 [sack 1449:5793]
               > . 1:1449 ack 1
        = cwnd 10136
        = recovering True
        < . 1 ack 14481
        = recovering False
        = retransmits 1
        = timeouts 0
        """
    )


def test_every_gap_is_filled_in_one_round_trip(established: Trace) -> None:
    """What lies before the newest arrival is lost; what lies behind it may still come."""
    established(
        """
        ! send 14480
        > P. 1:14481 ack 1
        < . 1 ack 1 [sack 8689:10137 5793:7241 1449:2897]
        > . 1:1449 ack 1
        > . 2897:5793 ack 1
        > . 7241:8689 ack 1
        < . 1 ack 10137
        = recovering True
        < . 1 ack 14481
        = recovering False
        = retransmits 3
        """
    )


def test_what_has_arrived_is_not_sent_again_after_a_timeout(established: Trace) -> None:
    established(
        """
              ! send 5792
              > P. 1:5793 ack 1
       +0.001 < . 1 ack 1 [sack 1449:2897]
     +0.00025 > . 1:1449 ack 1
        +0.2  > . 1:1449 ack 1
              < . 1 ack 2897
              > P. 2897:5793 ack 1
        """
    )


def test_a_guest_that_changes_its_mind(established: Trace) -> None:
    """RFC 2018 §8: what was reported may be dropped again; a timeout forgets it."""
    established(
        """
              ! send 2896
              > P. 1:2897 ack 1
              < . 1 ack 1 [sack 1:1449]
        +0.2  > . 1:1449 ack 1
              < . 1 ack 1449
              > P. 1449:2897 ack 1
        """
    )


def test_a_retransmission_that_is_lost_is_found(established: Trace) -> None:
    """By what was sent after it and has arrived: no timeout (RFC 8985 §1)."""
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.002 < . 1 ack 1 [sack 1449:14481]
               > . 1:1449 ack 1
        +0.001 ! send 1448
               > P. 14481:15929 ack 1
        +0.002 < . 1 ack 1 [sack 1449:15929]
               > . 1:1449 ack 1
        +0.002 < . 1 ack 15929
               = recovering False
               = timeouts 0
        """
    )


def test_what_was_only_late_is_waited_for_next_time(established: Trace) -> None:
    """Once reordering was seen, a quarter of a round trip passes (RFC 8985 §6.2)."""
    established(
        """
               ! send 1448
               > P. 1:1449 ack 1
               ! send 1448
               > P. 1449:2897 ack 1
        +0.004 < . 1 ack 1 [sack 1449:2897]
               = timer REORDER
        +0.0002 < . 1 ack 2897
               = retransmits 0
               ! send 14480
               > P. 2897:17377 ack 1
        +0.004 < . 1 ack 2897 [sack 4345:17377]
               = timer REORDER
        +0.0001 < . 1 ack 17377
               = retransmits 0
        """
    )


def test_the_wait_for_what_is_late_ends(established: Trace) -> None:
    established(
        """
               ! send 1448
               > P. 1:1449 ack 1
               ! send 1448
               > P. 1449:2897 ack 1
        +0.001 < . 1 ack 1 [sack 1449:2897]
        +0.00025 > . 1:1449 ack 1
               = fast_recoveries 1
        """
    )


def test_a_duplicate_report_widens_the_wait(established: Trace) -> None:
    """RFC 8985 §6.2 step 4: the retransmission was in vain."""
    established(
        """
               ! send 1448
               > P. 1:1449 ack 1
               ! send 1448
               > P. 1449:2897 ack 1
        +0.001 < . 1 ack 1 [sack 1449:2897]
        +0.00025 > . 1:1449 ack 1
        +0.001 < . 1 ack 2897
        +0.001 < . 1 ack 2897 [sack 1:1449]
               = duplicates 1
        """
    )
    assert established.bench.c.rack.steps == 2


def test_a_recovery_for_nothing_is_taken_back(established: Trace) -> None:
    """Eifel (RFC 3522): the acknowledgment echoes the time of the first transmission."""
    established(
        """
              = cwnd 65536
        +0.01 ! send 14480
              > P. 1:14481 ack 1
        +0.01 < . 1 ack 1 [sack 4345:14481 ecr 11]
              > . 1:4345 ack 1
              = cwnd 10136
        +0.01 < . 1 ack 14481 [ecr 11]
              = cwnd 65536
              = undone 1
              = recovering False
        """
    )


def test_a_recovery_that_sent_nothing_again_is_taken_back(established: Trace) -> None:
    """What counted as lost has come before its turn: the batch had the news of both."""
    established(
        """
        +0.01 ! send 14480
              > P. 1:14481 ack 1
        +0.01 < . 1 ack 1 [sack 4345:14481]
              & . 1 ack 14481
              = cwnd 65536
              = undone 1
              = recovering False
        """
    )


def test_a_report_on_an_overtaken_acknowledgment_counts(established: Trace) -> None:
    """D-SACK is in one segment only, and that may come late."""
    established(
        """
        +0.01 ! send 14480
              > P. 1:14481 ack 1
        +0.01 < . 1 ack 1 [sack 4345:14481]
              > . 1:4345 ack 1
              ! send 1448
              > P. 14481:15929 ack 1
        +0.01 < . 1 ack 15929
              = cwnd 10136
              < . 1 ack 14481 [sack 1:4345]
              = cwnd 65536
              = undone 1
        """
    )


def test_a_recovery_from_a_loss_is_not(established: Trace) -> None:
    established(
        """
        +0.01 ! send 14480
              > P. 1:14481 ack 1
        +0.01 < . 1 ack 1 [sack 4345:14481 ecr 11]
              > . 1:4345 ack 1
        +0.01 < . 1 ack 14481 [ecr 21]
              = cwnd 10136
              = undone 0
        """
    )


def test_a_timeout_for_nothing_is_taken_back(established: Trace) -> None:
    established(
        """
        +0.01 ! send 14480
              > P. 1:14481 ack 1
        +0.2  > . 1:1449 ack 1
              = cwnd 1448
        +0.01 < . 1 ack 10137 [ecr 11]
              = undone 1
              = cwnd 65536
              = retransmits 1
              = timer RETRANSMIT
        """
    )


@pytest.mark.parametrize("blocks", ["20001:30000", "5000:4000", "2:2", "14482:14483"])
def test_impossible_ranges_mark_nothing(established: Trace, blocks: str) -> None:
    established(
        f"""
        ! send 14480
        > P. 1:14481 ack 1
        < . 1 ack 1 [sack {blocks}]
        = recovering False
        """
    )
    assert established.bench.c.flight.sacked == 0


def test_a_guest_cannot_cut_the_flight_to_pieces(established: Trace) -> None:
    established("! send 60000\n > P. 1:60001 ack 1")
    for byte in range(2, 60_000, 16):
        segment = established.segment(f". 1 ack 1 [sack {byte}:{byte + 1}]")
        established.bench.arrives(segment)
    assert len(established.bench.c.flight.records) <= flight.MAX_RECORDS + 2


def test_what_was_dropped_after_it_was_reported_is_measured_rightly(established: Trace) -> None:
    """The guest reneges, and reports it again: it was sent when it was sent."""
    established(
        """
               ! send 5792
               > P. 1:5793 ack 1
        +0.01  < . 1 ack 1 [sack 1:1449]
               < . 1 ack 1 [sack 1:2897]
        +0.19  > . 1:1449 ack 1
        +0.001 < . 1 ack 1 [sack 1449:2897]
        """
    )
    assert established.bench.c.rtt.srtt < 0.1
    assert established.bench.c.deadline < established.bench.now + 1


def test_a_server_that_writes_byte_by_byte_fills_no_table(established: Trace) -> None:
    bench = established.bench
    for _ in range(3 * flight.MAX_RECORDS):
        bench.call("send", "1")
    bench.log.clear()
    bench.check()
    assert len(bench.c.flight.records) == flight.MAX_RECORDS


def test_one_acknowledgment_causes_so_many_retransmissions_at_most(established: Trace) -> None:
    bench = established.bench
    established("! send 60000\n > P. 1:60001 ack 1\n +0.01 = state ESTABLISHED")
    for byte in range(2, 2000, 2):
        bench.c.flight.sack(bench.iss + byte, bench.iss + byte + 1)
    bench.arrives(established.segment(". 1 ack 1 [sack 50001:60001]"))
    assert 0 < len(bench.log) <= output.MAX_BURST
    bench.log.clear()
    bench.check()


def test_an_acknowledgment_without_ranges_leaves_the_wait_alone(established: Trace) -> None:
    """Whatever way it takes: what was reported behind the gap has still arrived."""
    established(
        """
                 ! send 1448
                 > P. 1:1449 ack 1
                 ! send 1448
                 > P. 1449:2897 ack 1
                 ! send 1448
                 > P. 2897:4345 ack 1
        +0.004   < . 1 ack 1 [sack 2897:4345]
                 < . 1 ack 1449
                 = timer REORDER
        +0.00025 > . 1449:2897 ack 1
                 = fast_recoveries 1
        """
    )


def test_a_report_of_what_was_never_sent_again_takes_nothing_back(established: Trace) -> None:
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.001 < . 1 ack 1 [sack 1449:14481]
               > . 1:1449 ack 1
        +0.001 < . 1 ack 14481
               = cwnd 10136
               ! send 1448
               > P. 14481:15929 ack 1
        +0.001 < . 1 ack 15929
               < . 1 ack 15929 [sack 14481:15929]
               = cwnd 10136
        """
    )


def test_two_new_ranges_at_once_are_no_reordering(established: Trace) -> None:
    """The newest is named first (RFC 2018 §4)."""
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.001 < . 1 ack 1 [sack 8689:14481 1449:5793]
               > . 1:1449 ack 1
               > . 5793:8689 ack 1
        """
    )
