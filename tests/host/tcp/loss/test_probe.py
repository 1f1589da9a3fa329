"""The tail's probe: RFC 8985 §7."""

import pytest

from ..states import enter
from ..trace import Trace

pytestmark = [pytest.mark.probes, pytest.mark.usefixtures("narrow")]


def test_a_lost_tail_costs_a_probe(established: Trace) -> None:
    """Two round trips and the clock's step after it was sent, and no timeout."""
    established(
        """
              ! send 14480
              > P. 1:14481 ack 1
              = timer PROBE
        +0.01 > P. 13033:14481 ack 1
              = tail_probes 1
              = timer RETRANSMIT
        +0.001 < . 1 ack 10137 [sack 13033:14481]
              > . 10137:13033 ack 1
              = recovering True
        +0.001 < . 1 ack 14481
              = recovering False
              = timeouts 0
        """
    )


def test_the_probe_is_new_data_where_there_is_some(established: Trace) -> None:
    """It is allowed one segment past the congestion window."""
    established(
        """
              ! send 64000
              > P. 1:64001 ack 1
              ! send 30000
              > . 64001:65449 ack 1
        +0.01 > P. 65449:66897 ack 1
        """
    )


def test_a_single_segment_gives_the_guest_time(established: Trace) -> None:
    """It may delay its acknowledgment."""
    established(
        """
              ! send 100
              > P. 1:101 ack 1
        +0.06 > P. 1:101 ack 1
              < . 1 ack 101
              = timer NONE
        """
    )


def test_one_probe_a_flight(established: Trace) -> None:
    established(
        """
              ! send 14480
              > P. 1:14481 ack 1
        +0.01 > P. 13033:14481 ack 1
        +0.2  > . 1:1449 ack 1
              = timeouts 1
              = tail_probes 1
        """
    )


def test_a_probe_that_repaired_a_loss_counts_as_one(established: Trace) -> None:
    """RFC 8985 §7.4.2: no D-SACK says otherwise, and more is acknowledged."""
    established(
        """
               ! send 30000
               > P. 1:30001 ack 1
        +0.01  > P. 28553:30001 ack 1
        +0.001 < . 1 ack 30001
               = cwnd 65536
               ! send 1000
               > P. 30001:31001 ack 1
        +0.001 < . 1 ack 31001
               = ssthresh 2896
        """
    )


def test_a_probe_that_was_in_vain_costs_nothing(established: Trace) -> None:
    established(
        """
               ! send 30000
               > P. 1:30001 ack 1
        +0.01  > P. 28553:30001 ack 1
        +0.001 < . 1 ack 30001
        +0.001 < . 1 ack 30001 [sack 28553:30001]
               ! send 1000
               > P. 30001:31001 ack 1
               = timer PROBE
        +0.001 < . 1 ack 31001
               = cwnd 65536
        """
    )


def test_a_fin_is_probed_for_as_well(established: Trace) -> None:
    established(
        """
              ! shutdown
              > F. 1 ack 1
        +0.06 > F. 1 ack 1
              < . 1 ack 2
              = state FIN_WAIT_2
        """
    )


def test_no_probe_without_sack(without_sack: Trace) -> None:
    without_sack("! send 14480\n > P. 1:14481 ack 1\n = timer RETRANSMIT")


def test_a_flight_that_was_probed_waits_for_the_timeout(established: Trace) -> None:
    """RFC 8985 §7.2: the next probe is for another flight."""
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.01  > P. 13033:14481 ack 1
        +0.001 < . 1 ack 1449
               = timer RETRANSMIT
               < . 1 ack 14481 [sack 13033:14481]
               ! send 100
               > P. 14481:14581 ack 1
               = timer PROBE
        """
    )


def test_no_probe_while_recovering(established: Trace) -> None:
    established(
        """
        ! send 14480
        > P. 1:14481 ack 1
        < . 1 ack 1 [sack 1449:5793]
        > . 1:1449 ack 1
        < . 1 ack 5793
        = timer RETRANSMIT
        """
    )


def test_no_probe_before_a_round_trip_is_known(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")(
        """
        +1.2 > S. 0 ack 1
             < . 1 ack 1
           ? established
           ! send 100
           > P. 1:101 ack 1
           = timer RETRANSMIT
        """
    )


def test_no_probe_where_the_timeout_is_sooner(trace: Trace) -> None:
    """Round trips so steady that the timeout is less than two of them."""
    enter(trace, "SYN_RECEIVED")("+0.3 < . 1 ack 1\n ? established")
    trace.bench.c.rtt.rto = 0.5
    trace("! send 30000\n > P. 1:30001 ack 1\n = timer RETRANSMIT")


def test_the_probe_keeps_to_the_guests_window(established: Trace) -> None:
    established(
        """
              < . 1 ack 1 win 2944
              ! send 4344
              > . 1:2897 ack 1
        +0.01 > P. 2897:2945 ack 1
        """
    )


def test_the_probe_is_one_segment_of_many(established: Trace) -> None:
    established(
        """
              ! send 5000
              > P. 1:5001 ack 1
        +0.01 > P. 3553:5001 ack 1
        """
    )


def test_a_probe_that_a_recovery_answers_reduces_once(established: Trace) -> None:
    established(
        """
               ! send 14480
               > P. 1:14481 ack 1
        +0.01  > P. 13033:14481 ack 1
        +0.001 < . 1 ack 10137 [sack 13033:14481]
               > . 10137:13033 ack 1
               = cwnd 3040
               ! send 100
               > P. 14481:14581 ack 1
        +0.001 < . 1 ack 14581
               = cwnd 3040
        """
    )
