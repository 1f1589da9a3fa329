"""A guest that takes all it can get: of each table the others find what they need."""

import pytest

from gvproxy.limits import Limit, Limits
from gvproxy.stack.sessions import Run

from .bench import OTHER, OTHER_MAC, OUTSIDE, Bench, Port, echo, ip, tcp, udp
from .peer import SYN, Peer


@pytest.fixture
def pair() -> tuple[Bench, Port]:
    """Return a stack whose tables have room for ten, and the port of another guest."""
    ten = Limit(10, 8)
    bench = Bench(
        limits=Limits(connections=ten, half_open=ten, fragmented_packets=ten, udp_sessions=ten)
    )
    bench.meet()
    other = bench.attach()
    bench.meet(OTHER, OTHER_MAC, other)
    bench.sent()
    return bench, other


def syns(bench: Bench, count: int) -> None:
    bench.stack.connections.forward = lambda connection, path, now: None  # nobody decides
    for port in range(count):
        bench.give(tcp(flags=SYN, sport=1000 + port, destination=OUTSIDE))


def test_half_open_connections(pair: tuple[Bench, Port]) -> None:
    bench, other = pair
    syns(bench, 50)
    assert bench.quotas.half_open.held(bench.port) == 8
    peer = Peer(bench, source=OTHER, mac=OTHER_MAC)
    peer.port = other
    peer.connect()
    assert bench.quotas.half_open.held(other) == 0, "it is open"
    assert bench.quotas.connections.held(other) == 1


def test_connections(pair: tuple[Bench, Port]) -> None:
    bench, other = pair
    for port in range(8):
        Peer(bench, sport=1000 + port).connect()
    assert bench.give(tcp(flags=SYN, sport=3000, destination=OUTSIDE)) == []
    assert bench.quotas.connections.refused == 1
    peer = Peer(bench, source=OTHER, mac=OTHER_MAC)
    peer.port = other
    peer.connect()


def test_connections_of_a_guest_that_went_make_room(pair: tuple[Bench, Port]) -> None:
    bench, other = pair
    for port in range(8):
        Peer(bench, sport=1000 + port).connect()
    bench.stack.detach(bench.port, bench.now)
    for port in range(8):
        peer = Peer(bench, sport=1000 + port, source=OTHER, mac=OTHER_MAC)
        peer.port = other
        peer.connect()
    assert bench.quotas.connections.used == len(bench.stack.connections.find) == 8


def plug_in_again(bench: Bench) -> None:
    """Have the first guest leave, and come back with the same MAC address."""
    bench.stack.detach(bench.port, bench.now)
    bench.port = bench.attach()
    bench.meet()
    bench.sent()
    bench.now += 2


def test_connections_of_a_guest_that_comes_back_are_its_own(pair: tuple[Bench, Port]) -> None:
    """Each time it finds others to open, as if the earlier ones were another's."""
    bench, other = pair
    number, peers = 0, []
    for _ in range(5):
        while bench.quotas.connections.has_room(bench.port):
            number += 1
            peers.append(Peer(bench, sport=1000 + number).connect())
        plug_in_again(bench)
    other.take()
    peer = Peer(bench, source=OTHER, mac=OTHER_MAC)
    peer.port = other
    peer.connect()
    quota, connections = bench.quotas.connections, bench.stack.connections
    assert quota.held(bench.port) <= 8
    assert quota.used == len(connections.find) == quota.held(bench.port) + 1
    assert set(connections._memories) == {bench.port, other}


def test_what_a_connection_keeps_comes_back_with_its_guest(pair: tuple[Bench, Port]) -> None:
    bench, _ = pair
    held = Peer(bench).connect()
    held.user.received = lambda views, now: 0  # type: ignore[method-assign]
    held.give(held.data(bytes(1000)))
    assert bench.stack.connections.buffered.used == 1000
    plug_in_again(bench)
    bench.stack.connections._drop_deserted(bench.now)
    memories = bench.stack.connections._memories
    assert held.connection.memory is memories[bench.port]
    assert [memory.used for memory in memories.values()] == [1000]
    assert bench.stack.connections.buffered.used == 1000


def test_half_open_connections_of_a_guest_that_went_make_room(pair: tuple[Bench, Port]) -> None:
    bench, other = pair
    for _ in range(5):
        syns(bench, 10)
        plug_in_again(bench)
    other.take()
    peer = Peer(bench, source=OTHER, mac=OTHER_MAC)
    peer.port = other
    peer.connect()


def test_fragments_and_short_ways_of_a_guest_that_went(pair: tuple[Bench, Port]) -> None:
    bench, _ = pair
    udp_in = bench.stack.udp
    udp_in.forward = lambda datagram, now: udp_in.remember(datagram, lambda *run: None)
    for _ in range(5):
        bench.give(*fragments(10), *(udp(sport=n, destination=OUTSIDE) for n in range(8)))
        assert bench.quotas.fragmented_packets.used == bench.quotas.udp_sessions.used == 8
        plug_in_again(bench)
        assert bench.quotas.fragmented_packets.used == bench.quotas.udp_sessions.used == 0


def test_memory_of_a_guest_that_reads_nothing(pair: tuple[Bench, Port]) -> None:
    bench, other = pair
    greedy = Peer(bench).connect()
    modest = Peer(bench, source=OTHER, mac=OTHER_MAC)
    modest.port = other
    modest.connect()
    memory = greedy.connection.memory
    memory.keep(memory.limit + 1)
    assert memory.scarce
    assert not modest.connection.memory.scarce
    used = bench.stack.connections.buffered
    assert (used.used, used.most) == (memory.limit + 1, memory.limit + 1)
    memory.keep(-memory.limit - 1)


def fragments(count: int, **where: object) -> list[bytes]:
    body = bytes(16)
    return [
        ip(body, 17, destination=OUTSIDE, id=number, _flags_offset=0x2000, **where)  # type: ignore[arg-type]
        for number in range(count)
    ]


def test_fragments(pair: tuple[Bench, Port]) -> None:
    """Each gives up its own: the other's packet is complete in the end."""
    bench, other = pair
    body = bytes(udp(bytes(64), destination=OUTSIDE))[34:]
    where = {"source": OTHER, "mac": OTHER_MAC, "destination": OUTSIDE, "id": 5}
    got: list[int] = []
    bench.stack.udp.forward = lambda datagram, now: got.append(len(datagram.payload))
    bench.give(ip(body[:40], 17, _flags_offset=0x2000, **where), port=other)  # type: ignore[arg-type]
    bench.give(*fragments(500))
    assert bench.quotas.fragmented_packets.held(bench.port) == 8
    bench.give(ip(body[40:], 17, _flags_offset=5, **where), port=other)  # type: ignore[arg-type]
    assert bench.counters.reassembled == 1
    assert bench.quotas.fragmented_packets.held(other) == 0


def test_short_ways_of_datagrams(pair: tuple[Bench, Port]) -> None:
    bench, other = pair
    taken: list[int] = []

    def leave(run: Run, size: int, now: float) -> None:
        taken.append(len(run))

    bench.stack.udp.forward = lambda datagram, now: bench.stack.udp.remember(datagram, leave)
    where = {"source": OTHER, "mac": OTHER_MAC, "destination": OUTSIDE}
    bench.give(udp(bytes(100), **where), port=other)  # type: ignore[arg-type]
    for port in range(100):
        bench.give(udp(bytes(100), sport=port, destination=OUTSIDE))
    assert bench.quotas.udp_sessions.held(bench.port) <= 8
    bench.give(udp(bytes(100), **where), port=other)  # type: ignore[arg-type]
    assert taken == [1]


def test_everything_is_given_back(pair: tuple[Bench, Port]) -> None:
    """Whatever is held is let go when connections end and time has passed."""
    bench, _ = pair
    syns(bench, 20)
    bench.give(*fragments(20), echo())
    for connection in list(bench.stack.connections.find.values()):
        bench.stack.connections.unreachable(connection, 1, bench.now)
    bench.now += 60
    bench.give(*fragments(1))
    bench.stack.udp.sessions.clear()
    quotas = bench.quotas
    tables = (quotas.connections, quotas.half_open, quotas.udp_sessions)
    assert [table.used for table in tables] == [0, 0, 0]
    assert quotas.fragmented_packets.used == 1
    assert bench.stack.connections._memories == {}
