"""The retransmission timeout: RFC 6298, RFC 5681 §3.1, RFC 8985 §6.3."""

import pytest

from gvproxy.tcp.rtt import MAX_RTO, MIN_RTO, RttEstimator

from ..trace import Trace


def test_timeout_backs_off_and_slow_starts(established: Trace) -> None:
    established(
        """
             ! send 30000
             > P. 1:30001 ack 1
        +0.2 > . 1:1449 ack 1
             = cwnd 1448
             = ssthresh 21000
        +0.4 > . 1:1449 ack 1
        +0.8 > . 1:1449 ack 1
        +0.1 < . 1 ack 1449
             > . 1449:4345 ack 1     # twice the window; slow start
        +0.1 < . 1 ack 4345
             > . 4345:10137 ack 1
             < . 1 ack 30001         # and it had all of it
             = timer NONE
        """
    )


def test_round_trip_is_not_measured_by_what_was_sent_twice(established: Trace) -> None:
    """Karn's algorithm; the RTO stays backed off until a valid measurement (RFC 6298 §5)."""
    established(
        """
              ! send 1000
              > P. 1:1001 ack 1
        +0.2  > P. 1:1001 ack 1
        +0.01 < . 1 ack 1001
              = rto 0.4
              ! send 1000
              > P. 1001:2001 ack 1
        +0.01 < . 1 ack 2001
              = rto 0.2
        """
    )


def test_timer_restarts_with_each_acknowledgment(established: Trace) -> None:
    """RFC 6298 (5.3)."""
    established(
        """
              ! send 1000
              > P. 1:1001 ack 1
              ! send 1000
              > P. 1001:2001 ack 1
        +0.15 < . 1 ack 1001
              = timer RETRANSMIT
        +0.15 = state ESTABLISHED
        """
    )


def test_connection_is_given_up(established: Trace) -> None:
    established("! send 100\n > P. 1:101 ack 1").bench.advance(established.bench.now + 282)
    assert len(established.bench.log) == 11
    assert all(entry.payload for entry in established.bench.log)
    established.bench.log.clear()
    established.bench.advance(established.bench.now + 61)
    *_, reset, told = established.bench.log
    assert reset.flags == 0x14
    assert told.what == "ended TIMED_OUT"


def test_window_does_not_grow_while_it_is_not_used(established: Trace) -> None:
    """RFC 7661: an application-limited sender learns nothing about the path."""
    established("! send 1000\n > P. 1:1001 ack 1\n < . 1 ack 1001\n = cwnd 65536")


def test_window_grows_when_it_is_used(established: Trace) -> None:
    established("! send 60000\n > P. 1:60001 ack 1\n < . 1 ack 60001\n = cwnd 125536")


def test_acknowledgment_of_what_counts_as_lost(established: Trace) -> None:
    """It had most of it; what is left is sent again."""
    established(
        """
             ! send 10000
             > P. 1:10001 ack 1
        +0.2 > . 1:1449 ack 1
             < . 1 ack 8689
             > P. 8689:10001 ack 1
        """
    )


def test_retransmission_keeps_to_a_window_that_shrank(established: Trace) -> None:
    established(
        """
             ! send 10000
             > P. 1:10001 ack 1
             < . 1 ack 1 win 512
        +0.2 > . 1:513 ack 1
        """
    )


def test_measurement() -> None:
    """RFC 6298 (2.2), (2.3): R, then the smoothed one."""
    estimator = RttEstimator()
    estimator.sample(0.8)
    assert (estimator.srtt, estimator.rttvar, estimator.rto) == pytest.approx((0.8, 0.4, 2.4))
    estimator.sample(0.4)
    assert (estimator.srtt, estimator.rttvar, estimator.rto) == pytest.approx((0.75, 0.4, 2.35))
    estimator.sample(1.75)
    assert (estimator.srtt, estimator.rttvar, estimator.rto) == pytest.approx((0.875, 0.55, 3.075))
    for _ in range(10):
        estimator.back_off()
    assert estimator.rto == MAX_RTO


def test_measurement_of_nothing() -> None:
    """A round trip shorter than the clock's step is one too, and the RTO has a floor."""
    estimator = RttEstimator()
    estimator.sample(0.0)
    assert estimator.srtt > 0
    assert estimator.rto == MIN_RTO
