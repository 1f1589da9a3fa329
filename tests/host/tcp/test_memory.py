"""What all connections keep together is bounded, and each goes on with little."""

import pytest

from .trace import Trace


@pytest.fixture(autouse=True)
def limit(established: Trace) -> None:
    established.bench.memory.limit = 10_000


def test_no_more_is_read_for_a_connection_that_waits_for_its_guest(established: Trace) -> None:
    established(
        """
        ! room 65536
        ! send 10001
        > P. 1:10002 ack 1
        = buffered 10001
        ! room 0
        < . 1 ack 10001
        ? writable
        = buffered 1
        """
    )


def test_each_has_a_segment_at_a_time(established: Trace) -> None:
    """Others keep all there is."""
    established.bench.memory.used = 20_000
    assert established.bench.c.room(established.bench.now) == 1448
    established.bench.memory.used = 0


def test_what_comes_ahead_of_a_gap_is_not_kept(established: Trace) -> None:
    established(
        """
        ! keep
        < P. 1:10002 ack 1
        ? received 10001
        > . 1 ack 10002 win 55552      # promised before
        < P. 20002:20102 ack 1
        > . 1 ack 10002 win 55552
        = refused 1
        ! consumed 10001
        > . 1 ack 10002 win 1048576
        < P. 20002:20102 ack 1
        > . 1 ack 10002 [sack 20002:20102]
        """
    )


def test_a_user_that_is_behind_gets_no_more(established: Trace) -> None:
    established(
        """
        ! keep
        < P. 1:10002 ack 1
        ? received 10001
        > . 1 ack 10002
        < P. 10002:10102 ack 1
        > . 1 ack 10002
        = buffered 10001
        ! consumed 10001
        > . 1 ack 10002 win 1048576
        ! take
        < P. 10002:10102 ack 1
        ? received 100
        > . 1 ack 10102
        """
    )


def test_an_end_takes_no_memory(established: Trace) -> None:
    established(
        """
        ! keep
        < P. 1:10002 ack 1
        ? received 10001
        > . 1 ack 10002
        < F. 10002 ack 1
        ? eof
        > . 1 ack 10003
        """
    )


def test_windows_grow_no_further_than_a_little(established: Trace) -> None:
    established(
        """
        ! send 10001
        > P. 1:10002 ack 1
        < P. 1:2001 ack 1
        ? received 2000
        > . 10002 ack 2001 win 65536
        < P. 2001:4001 ack 10002
        ? received 2000
        > . 10002 ack 4001 win 1048576
        """
    )


def test_what_a_connection_kept_is_free_when_it_ends(established: Trace) -> None:
    established(
        """
        ! keep
        ! send 100
        > P. 1:101 ack 1
        < P. 1:101 ack 1
        & P. 201:301 ack 1
        > . 101 ack 101 [sack 201:301]
        ? received 100
        = buffered 300
        ! abort
        > R. 101 ack 101
        ? ended RESET
        = buffered 0
        """
    )
