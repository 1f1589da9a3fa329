"""RACK alone: which transmission is the newest, and how long the others are waited for."""

import pytest

from gvproxy.tcp.flight import Flight, Sent
from gvproxy.tcp.rack import Rack
from gvproxy.tcp.rtt import RttEstimator


@pytest.fixture
def rtt() -> RttEstimator:
    """A usual round trip of 80 ms, the shortest one of 40."""
    return RttEstimator(srtt=0.08, rttvar=0.01, least=0.04)


def _again(start: int, end: int, at: float) -> Sent:
    record = Sent(start, end, at)
    record.again = True
    return record


def _flight(*times: float) -> Flight:
    """Records of 100 bytes, sent at these times."""
    flight = Flight()
    flight.records = [Sent(100 * i, 100 * i + 100, at) for i, at in enumerate(times)]
    return flight


def test_the_newest_is_the_last_sent_and_of_a_batch_the_furthest() -> None:
    """RFC 8985 §6.2 step 2."""
    rack = Rack()
    rack.arrived(Sent(0, 100, 1.0), 1.04)
    rack.arrived(Sent(100, 200, 1.0), 1.05)
    assert (rack.at, rack.end, rack.rtt) == (1.0, 200, pytest.approx(0.05))
    rack.arrived(Sent(0, 100, 1.0), 1.06)
    rack.arrived(Sent(300, 400, 0.9), 1.07)
    assert (rack.at, rack.end) == (1.0, 200)
    rack.arrived(_again(0, 100, 1.1), 1.15)
    assert (rack.at, rack.end, rack.rtt) == (1.1, 100, pytest.approx(0.05))


def test_what_arrives_behind_another_was_reordered() -> None:
    """Step 3; a retransmission was sent later and may well."""
    rack = Rack()
    rack.arrived(Sent(100, 200, 1.0), 1.1)
    rack.arrived(_again(0, 100, 1.05), 1.1)
    assert not rack.reordered
    rack.arrived(Sent(0, 100, 1.0), 1.1)
    assert rack.reordered


def test_what_was_sent_before_is_lost_and_nothing_else(rtt: RttEstimator) -> None:
    rack = Rack()
    flight = _flight(1.0, 1.01, 1.01, 1.02)
    rack.arrived(flight.records[2], 1.05)
    flight.records[2].sacked = True
    lost, wait = rack.find_lost(flight, rtt, hurry=True, now=1.05)
    assert (lost, wait) == (flight.records[:2], 0)


@pytest.mark.parametrize(
    ("steps", "window"),
    [(1, 0.01), (2, 0.04), (3, 0.06), (6, 0.12), (100, 0.12)],
)
def test_reordering_window(rtt: RttEstimator, steps: int, window: float) -> None:
    """A quarter of the shortest round trip; quarters of the usual one; never a timeout's length."""
    rack = Rack(steps=steps, reordered=True)
    flight = _flight(1.0, 1.0)
    rack.arrived(flight.records[1], 1.05)
    flight.records[1].sacked = True
    lost, wait = rack.find_lost(flight, rtt, hurry=True, now=1.05)
    assert not lost
    assert wait == pytest.approx(window)
    assert rack.find_lost(flight, rtt, hurry=True, now=1.05 + wait) == (flight.records[:1], 0)


def test_hurry_waits_for_nothing_never_seen(rtt: RttEstimator) -> None:
    rack = Rack()
    flight = _flight(1.0, 1.0)
    rack.arrived(flight.records[1], 1.05)
    flight.records[1].sacked = True
    assert rack.find_lost(flight, rtt, hurry=False, now=1.05)[1] == pytest.approx(0.01)
    assert rack.find_lost(flight, rtt, hurry=True, now=1.05)[0]


def test_a_wait_ends_with_the_last_record(rtt: RttEstimator) -> None:
    rack = Rack(reordered=True)
    flight = _flight(1.0, 1.004, 1.005)
    rack.arrived(flight.records[2], 1.05)
    flight.records[2].sacked = True
    lost, wait = rack.find_lost(flight, rtt, hurry=True, now=1.055)
    assert lost == flight.records[:1]
    assert wait == pytest.approx(0.004)


def test_a_wide_window_lasts_for_sixteen_recoveries() -> None:
    """§6.2 step 4; each retransmission in vain starts over."""
    rack = Rack()
    rack.duplicated()
    rack.duplicated()
    assert rack.steps == 3
    for _ in range(15):
        rack.recovered()
    assert rack.steps == 3
    rack.duplicated()
    for _ in range(15):
        rack.recovered()
    assert rack.steps == 4
    rack.recovered()
    assert rack.steps == 1


def test_window_steps_have_an_end() -> None:
    rack = Rack()
    for _ in range(1000):
        rack.duplicated()
    assert rack.steps == 255
