"""What both windows allow, where the simple cases end: RFC 9293 §3.8.6, SHLD-15 to SHLD-17."""

import pytest

from ..states import enter
from ..trace import Trace


def test_new_data_waits_for_a_window_that_shrank(established: Trace) -> None:
    """SHLD-15; what is beyond it on its way is left there until its timer says so."""
    established(
        """
             ! send 2000
             > P. 1:2001 ack 1
             < . 1 ack 1 win 1024
             ! send 1000
        +0.2 > . 1:1025 ack 1
             < . 1 ack 2001 win 1024
             > P. 2001:3001 ack 1
        """
    )


@pytest.mark.usefixtures("narrow")
def test_what_has_arrived_makes_room(established: Trace) -> None:
    """RFC 6675 §5: it is not on its way any more, and the user may go on."""
    established(
        """
               ! send 60000
               > P. 1:60001 ack 1
        +0.001 < . 1 ack 1 [sack 1449:60001]
               > . 1:1449 ack 1
               = cwnd 42000
               ! room 40552
               ! send 40552
               > P. 60001:100553 ack 1
        """
    )


def test_room_is_half_the_guests_largest_window(established: Trace) -> None:
    """RFC 9293 §3.8.6.2.1 (3), for a guest whose window never was a segment's size."""
    established.bench.c.max_snd_wnd = 0
    established(
        """
        < . 1 ack 1 win 1024
        ! send 400
        > P. 1:401 ack 1
        ! room 624
        ! send 300
        > P. 401:701 ack 1
        ! room 0
        < . 1 ack 401 win 1024
        ? writable
        """
    )


def test_small_window_is_used_by_halves(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")(
        """
        < . 1 ack 1 win 1024
        ? established
        ! send 3000
        > . 1:1025 ack 1
        < . 1 ack 401 win 768
        < . 1 ack 513 win 1024
        > . 1025:1537 ack 1
        """
    )


def test_data_behind_data_that_waits(established: Trace) -> None:
    """Small enough for the window itself, it stays in its order."""
    established(
        """
        < . 1 ack 1 win 2048
        ! send 2000
        > P. 1:2001 ack 1
        ! send 100
        ! send 10
        < . 1 ack 2001 win 2048
        > P. 2001:2111 ack 1
        """
    )


def test_what_exceeds_one_window_waits(established: Trace) -> None:
    """Each of both alone: the guest's, and the congestion window."""
    established(
        """
        < . 1 ack 1 win 1024
        ! send 1025
        > . 1:1025 ack 1
        < . 1 ack 1025 win 131072
        > P. 1025:1026 ack 1
        < . 1 ack 1026 win 131072
        ! send 65000
        > P. 1026:66026 ack 1
        ! send 1000
        < . 1 ack 66026 win 131072
        > P. 66026:67026 ack 1
        """
    )


def test_timer_is_the_oldest_datas(established: Trace) -> None:
    """RFC 6298 (5.1): what is sent later does not put it off."""
    established(
        """
              ! send 1000
              > P. 1:1001 ack 1
        +0.1  ! send 1000
              > P. 1001:2001 ack 1
        +0.1  > . 1:1449 ack 1
        """
    )


def test_probes_start_over_once_the_window_was_open(established: Trace) -> None:
    established(
        """
             < . 1 ack 1 win 0
             ! send 2000
        +0.2 > . 0 ack 1
        +0.4 > . 0 ack 1
             < . 1 ack 1 win 512
             > . 1:513 ack 1
             < . 1 ack 513 win 0
        +0.2 > . 512 ack 1
        """
    )


def test_a_closed_window_counts_nothing_against_the_guest(established: Trace) -> None:
    """Retransmissions that were in vain before it opened are not counted after."""
    established(
        """
             ! send 100
             > P. 1:101 ack 1
        +0.2 > P. 1:101 ack 1
        +0.4 > P. 1:101 ack 1
             = retries 2
             < . 1 ack 1 win 0
             = retries 0
        """
    )


def test_a_retransmission_backs_off_and_the_next_measurement_takes_it_back(
    established: Trace,
) -> None:
    """RFC 6298 (5.5)."""
    established(
        """
              ! send 100
              > P. 1:101 ack 1
        +0.2  > P. 1:101 ack 1
              = rto 0.4
        +0.4  > P. 1:101 ack 1
              = rto 0.8
        +0.001 < . 1 ack 101
              ! send 100
              > P. 101:201 ack 1
        +0.001 < . 1 ack 201
              = rto 0.2
        """
    )
