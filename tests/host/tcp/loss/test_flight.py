"""The records of what is on its way: RFC 6675's scoreboard, alone."""

import pytest

from gvproxy.tcp.flight import MAX_RECORDS, Flight, Sent


@pytest.fixture
def flight() -> Flight:
    """Four records of 100 bytes, one second apart."""
    flight = Flight()
    flight.records = [Sent(n * 100, n * 100 + 100, float(n)) for n in range(4)]
    return flight


def _shape(flight: Flight) -> list[tuple[int, int, str]]:
    return [
        (record.start, record.end, "s" * record.sacked + "l" * record.lost + "a" * record.again)
        for record in flight.records
    ]


def test_what_has_arrived_is_one_record(flight: Flight) -> None:
    """However many transmissions it was; each is told once."""
    fresh = flight.sack(50, 350)
    assert [(record.start, record.end) for record in fresh] == [
        (50, 100),
        (100, 200),
        (200, 300),
        (300, 350),
    ]
    assert _shape(flight) == [(0, 50, ""), (50, 350, "s"), (350, 400, "")]
    assert flight.sack(50, 350) == []
    assert flight.sacked == 300


def test_what_was_lost_and_arrives_is_not_lost(flight: Flight) -> None:
    flight.lose(flight.records[0])
    flight.lose(flight.records[1])
    flight.sack(100, 300)
    assert (flight.lost, flight.sacked) == (100, 200)
    assert _shape(flight) == [(0, 100, "l"), (100, 300, "s"), (300, 400, "")]


def test_acknowledgment_of_a_part(flight: Flight) -> None:
    """The newest first transmission is measured, also by a part of it."""
    newest = flight.acknowledge(150, 10.0)
    assert newest is not None
    assert newest.at == 0.0
    assert _shape(flight)[0] == (150, 200, "")
    newest = flight.acknowledge(180, 10.0)
    assert newest is not None
    assert (newest.start, newest.end, newest.at) == (150, 180, 1.0)


def test_acknowledgment_of_parts_that_are_marked(flight: Flight) -> None:
    flight.sack(0, 100)
    flight.lose(flight.records[1])
    flight.acknowledge(50, 10.0)
    assert (flight.sacked, flight.lost) == (50, 100)
    flight.acknowledge(150, 10.0)
    assert (flight.sacked, flight.lost) == (0, 50)


def test_retransmission_acknowledged_too_soon_is_not_believed(flight: Flight) -> None:
    """Later than `believable`, it must have been the original."""
    flight.records[0].again, flight.records[0].at = True, 9.0
    assert flight.acknowledge(100, 8.5) is None
    flight.records[0].again, flight.records[0].at = True, 9.0
    newest = flight.acknowledge(200, 9.5)
    assert newest is not None
    assert newest.at == 9.0


def test_lost_bytes_are_joined_to_be_sent_again(flight: Flight) -> None:
    flight.lose_all()
    assert (flight.lost, flight.lost_run(0), flight.lost_run(3)) == (400, 400, 100)
    record = flight.take_lost(0, 250)
    assert (record.start, record.end, record.lost, flight.lost) == (0, 250, False, 150)
    assert _shape(flight) == [(0, 250, ""), (250, 300, "l"), (300, 400, "l")]


def test_a_guest_that_drops_the_first_has_dropped_all(flight: Flight) -> None:
    """RFC 2018 §8."""
    flight.sack(100, 200)
    flight.lose_all()
    assert (flight.sacked, flight.lost) == (100, 300)
    flight.sack(0, 100)
    flight.lose_all()
    assert (flight.sacked, flight.lost) == (0, 400)


def test_the_last_is_cut_to_size(flight: Flight) -> None:
    assert flight.last(100) is flight.records[3]
    assert flight.last(30).start == 370
    assert _shape(flight)[3:] == [(300, 370, ""), (370, 400, "")]


def test_number_of_records_is_bounded() -> None:
    flight = Flight()
    flight.records = [Sent(n, n + 1, 0.0) for n in range(MAX_RECORDS)]
    assert flight.sack(1, 2) == []
    assert len(flight.records) == MAX_RECORDS
