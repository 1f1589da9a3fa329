"""Which round trips are measured, and the timeouts that come of it, on connections."""

import pytest

from gvproxy.tcp.rtt import RttEstimator

from ..states import enter
from ..trace import Trace


def test_the_first_one_is_the_handshakes(trace: Trace) -> None:
    """RFC 6298 (2.2): R, and half of it for its variation."""
    enter(trace, "SYN_RECEIVED")("+0.2 < . 1 ack 1\n ? established\n = srtt 0.2\n = rto 0.6")


def test_an_echo_of_nonsense_is_no_measurement(established: Trace) -> None:
    """A guest may say what it likes: no round trip is a minute long, or lies in the future."""
    established(
        """
             ! send 1000
             > P. 1:1001 ack 1
        +0.2 > P. 1:1001 ack 1
             < . 1 ack 501 [ecr -3600000]
             = srtt 0.001
             < . 1 ack 1001 [ecr 90000]
             = srtt 0.001
        """
    )


def test_an_echo_of_a_retransmission_is_one(established: Trace) -> None:
    established(
        """
             ! send 1000
             > P. 1:1001 ack 1
       +0.2  > P. 1:1001 ack 1
       +0.009 < . 1 ack 1001 [ecr 201]
             = srtt 0.002
        """
    )


def test_a_timeout_has_an_upper_end(established: Trace) -> None:
    """RFC 6298 (2.5): a minute."""
    established("! send 100\n > P. 1:101 ack 1")
    bench = established.bench
    bench.advance(bench.now + 250)
    assert bench.c.rtt.rto == 60
    times = [entry.at for entry in bench.log]
    assert times[-1] - times[-2] == pytest.approx(60)


@pytest.mark.probes
def test_probe_timeout_is_two_round_trips() -> None:
    """RFC 8985 §7.2, and a floor for a guest that is kept from running."""
    estimator = RttEstimator()
    estimator.sample(0.1)
    assert estimator.pto == pytest.approx(0.2)
    estimator.sample(0.02)
    assert estimator.pto == pytest.approx(0.18)
    estimator = RttEstimator()
    estimator.sample(0.001)
    assert estimator.pto == 0.01


def test_variation_decays_with_steady_round_trips() -> None:
    """RFC 6298 (2.3): SRTT plus four variations, which a jump widens and rest narrows."""
    estimator = RttEstimator()
    for _ in range(60):
        estimator.sample(1.0)
    assert estimator.rto == pytest.approx(1.001, abs=1e-4)
    estimator.sample(2.0)
    assert estimator.rto == pytest.approx(1.125 + 4 * 0.25, abs=1e-3)


def test_the_shortest_is_kept() -> None:
    estimator = RttEstimator()
    for rtt in (0.3, 0.1, 0.2):
        estimator.sample(rtt)
    assert estimator.least == 0.1


def test_the_guest_is_gone_after_twelve_retransmissions(established: Trace) -> None:
    """Nearly six minutes: RFC 9293 §3.8.3 wants R2 to be a hundred seconds at least."""
    established("! send 100\n > P. 1:101 ack 1")
    bench = established.bench
    began = bench.now
    bench.advance(began + 1000)
    *again, reset, told = bench.log
    assert [entry.flags for entry in again] == [0x18] * 12
    assert (reset.flags, told.what) == (0x14, "ended TIMED_OUT")
    assert told.at - began == pytest.approx(342.2)
