"""A guest that has gone silent: RFC 9293 §3.8.4."""

import pytest

from ..states import enter
from ..trace import Trace


@pytest.fixture
def watched(trace: Trace) -> Trace:
    """A connection that is looked after once it was silent for 100 seconds."""
    trace.bench.c.keepalive = 100.0
    return enter(trace, "ESTABLISHED")


def test_a_guest_that_answers_is_left_alone(watched: Trace) -> None:
    watched(
        """
        = timer KEEPALIVE
        +100 > . 0 ack 1
        < . 1 ack 1
        +75  = state ESTABLISHED
        +25  > . 0 ack 1
        < . 1 ack 1
        = state ESTABLISHED
        """
    )


def test_a_guest_that_has_vanished_is_given_up(watched: Trace) -> None:
    watched(
        """
        +100 > . 0 ack 1
        +75  > . 0 ack 1
        +75  > . 0 ack 1
        +75  > . 0 ack 1
        +75  > . 0 ack 1
        +75  > . 0 ack 1
        +75  > . 0 ack 1
        +75  > . 0 ack 1
        +75  > . 0 ack 1
        +75  > R. 1 ack 1
        ? ended TIMED_OUT
        """
    )


def test_whatever_the_guest_sends_counts(watched: Trace) -> None:
    """Data on either path, not only what answers; the probe lies before the window."""
    watched(
        """
        +60 < P. 1:101 ack 1
        ? received 100
        > . 1 ack 101
        +40  = state ESTABLISHED
        +60  > . 0 ack 101
        < . 101 ack 1
        """
    )


def test_data_on_its_way_has_its_own_timer(watched: Trace) -> None:
    watched(
        """
        ! send 100
        > P. 1:101 ack 1
        = timer RETRANSMIT
        < . 1 ack 101
        = timer KEEPALIVE
        +100 > . 100 ack 1
        """
    )


def test_the_guests_own_are_answered(established: Trace) -> None:
    established("< . 0 ack 1\n > . 1 ack 1\n +1 < P. 0:1 ack 1\n > . 1 ack 1")


def test_without_it_nothing_is_waited_for(established: Trace) -> None:
    established("= timer NONE")


def test_a_short_interval_is_the_time_between_probes_too(trace: Trace) -> None:
    """Nobody who asked for ten seconds waits for 75."""
    trace.bench.c.keepalive = 10.0
    enter(trace, "ESTABLISHED")("+10 > . 0 ack 1\n +10 > . 0 ack 1\n = retries 2")


def test_probes_do_not_wait_for_the_next_interval(watched: Trace) -> None:
    """75 seconds between them, however long the silence before the first."""
    watched("+100 > . 0 ack 1\n +75 > . 0 ack 1\n < . 1 ack 1\n = state ESTABLISHED")


def test_both_directions_of_a_half_close_are_watched(watched: Trace) -> None:
    """The user still waits for the guest's data in FIN-WAIT-2."""
    watched(
        """
        ! shutdown
        > F. 1 ack 1
        < . 1 ack 2
        = state FIN_WAIT_2
        +100 > . 1 ack 1
        < . 1 ack 2
        = state FIN_WAIT_2
        """
    )


def test_an_answer_to_the_last_probe_is_in_time(watched: Trace) -> None:
    bench = watched.bench
    bench.advance(bench.now + 100 + 8 * 75 + 1)
    assert len(bench.log) == 9
    bench.log.clear()
    watched("< . 1 ack 1\n +75 = state ESTABLISHED")


def test_probes_of_a_closed_window_are_counted_anew(watched: Trace) -> None:
    """The guest has answered, and closes its window with that."""
    watched(
        """
        +100 > . 0 ack 1
             = retries 1
             < P. 1:101 ack 1 win 0
             ? received 100
             > . 1 ack 101
             = retries 0
        """
    )


def test_an_answered_probe_is_no_retry_of_what_follows(watched: Trace) -> None:
    watched(
        """
        +100 > . 0 ack 1
             < . 1 ack 1
             ! send 14480
             > P. 1:14481 ack 1
        +0.2 > . 1:1449 ack 1
             = retries 1
             = cwnd 1448
        """
    )
