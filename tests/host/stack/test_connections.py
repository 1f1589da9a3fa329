"""TCP connections of a stack: who takes them, where their guest is, and when they wait."""

import socket

import dpkt
import pytest

from gvproxy.limits import Limit, Limits
from gvproxy.stack import connections as module
from gvproxy.stack.path import TcpPath
from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.states import State
from gvproxy.wire import icmp
from taplink.vnet import Offload

from .bench import (
    ALL,
    GATEWAY,
    GUEST,
    MAC,
    OTHER_MAC,
    OUTSIDE,
    Bench,
    arp,
    break_at,
    ip,
    tcp,
)
from .peer import ACK, FIN, RST, SYN, Peer, User


def test_a_syn_to_a_closed_port_of_the_gateway_is_reset() -> None:
    bench = Bench()
    bench.stack.connections.forward = User()
    (answer,) = bench.give(tcp(flags=SYN, seq=9, dport=81, destination=GATEWAY))
    segment = answer.data.data
    assert (segment.flags, segment.seq, segment.ack) == (RST | ACK, 0, 10)
    assert (segment.sport, segment.dport, answer.data.src) == (81, 5000, GATEWAY)
    assert bench.stack.connections.tcp_counters.resets_out == 1
    assert not bench.stack.connections.find


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (ACK, (RST, 77, 0)),
        (FIN | ACK, (RST, 77, 0)),
        (SYN | ACK, (RST, 77, 0)),
        (FIN, (RST | ACK, 0, 1004)),
        (SYN | FIN, (RST | ACK, 0, 1005)),
        (0, (RST | ACK, 0, 1003)),
        (RST, None),
        (RST | ACK, None),
    ],
)
def test_what_belongs_to_no_connection_is_reset(
    flags: int, answer: tuple[int, int, int] | None
) -> None:
    """RFC 9293 §3.10.7.1, for the outside as for the gateway."""
    for destination in (GATEWAY, OUTSIDE):
        bench = Bench()
        bench.stack.connections.forward = lambda c, path, now: pytest.fail("offered")
        sent = bench.give(tcp(b"abc", flags=flags, ack=77, destination=destination))
        got = [(s.data.data.flags, s.data.data.seq, s.data.data.ack) for s in sent]
        assert got == ([answer] if answer else [])


def test_services_of_the_gateway_and_the_outside() -> None:
    bench = Bench()
    service, outside = User(), User()
    bench.stack.connections.listeners[GATEWAY, 80] = service
    bench.stack.connections.forward = outside
    bench.give(tcp(flags=SYN, destination=GATEWAY), tcp(flags=SYN, destination=OUTSIDE))
    assert service.told == outside.told == ["offered"]
    assert service.connection is not outside.connection


def test_two_guests_ports_are_two_connections() -> None:
    bench = Bench()
    one, two = Peer(bench).connect(), Peer(bench, sport=5001).connect()
    one.give(one.data(b"one"))
    two.give(two.data(b"two"))
    assert (one.user.data, two.user.data) == (b"one", b"two")
    assert one.connection.iss != two.connection.iss


def test_the_user_may_take_its_time() -> None:
    bench = Bench()
    peer = Peer(bench)
    peer.user.accept = False
    bench.stack.connections.forward = peer.user
    assert peer.give(peer.syn()) == []
    assert peer.give(peer.syn()) == [], "a second SYN finds the decision still open"
    assert peer.user.told == ["offered"]
    calls.accept(peer.connection, bench.now)
    (answer,) = bench.sent()
    assert answer.data.data.flags == SYN | ACK


@pytest.mark.parametrize(
    ("code", "source"),
    [
        (icmp.PORT_UNREACHABLE, OUTSIDE),
        (icmp.HOST_UNREACHABLE, GATEWAY),
        (icmp.ADMIN_PROHIBITED, GATEWAY),
    ],
)
def test_a_connection_that_cannot_be_made_is_unreachable(code: int, source: bytes) -> None:
    """The guest finds its SYN by the ports and the sequence number in the quote."""
    bench = Bench()
    peer = Peer(bench)
    peer.user.accept = False
    bench.stack.connections.forward = peer.user
    syn = peer.syn()
    peer.give(syn)
    bench.stack.connections.unreachable(peer.connection, code, bench.now)
    (error,) = bench.sent()
    message = error.data.data
    assert (message.type, message.code, error.data.src) == (3, code, source)
    quote = bytes(message)[8:]
    assert quote[12:28] == syn[26:42]
    assert (quote[9], quote[:2]) == (6, b"\x45\0")
    assert not bench.stack.connections.find
    bench.stack.connections.unreachable(peer.connection, code, bench.now)
    assert bench.sent() == [], "it is decided once"


def test_the_table_is_bounded() -> None:
    bench = Bench(limits=Limits(connections=Limit(2, 2)))
    peers = [Peer(bench, sport=port).connect() for port in (1, 2)]
    assert bench.give(tcp(flags=SYN, sport=3, destination=OUTSIDE)) == []
    assert bench.counters.connections_refused == 1
    peers[0].give(peers[0].make(RST))
    Peer(bench, sport=3).connect()


def test_what_is_wrong_with_a_segment_is_counted() -> None:
    bench = Bench()
    bench.stack.connections.forward = lambda c, path, now: pytest.fail("offered")
    syn = tcp(flags=SYN, destination=OUTSIDE)
    for offset in (0, 4, 6, 15):  # in words, of 5
        segment = syn[34:46] + bytes((offset << 4,)) + syn[47:]
        bench.give(ip(segment, 6, destination=OUTSIDE))
    bench.give(ip(syn[34:53], 6, destination=OUTSIDE))
    counters = bench.stack.connections.tcp_counters
    assert counters.invalid == 5
    bench.give(break_at(syn, 50))
    assert counters.checksum_errors == 1
    assert bench.port.take() == []


def test_a_syn_takes_the_place_of_time_wait() -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    calls.shutdown(peer.connection, bench.now)
    (fin,) = bench.sent()
    assert fin.data.data.flags & FIN
    peer.ack = (peer.ack + 1) & 0xFFFFFFFF
    peer.give(peer.make(FIN | ACK))
    old = peer.connection
    assert old.state is State.TIME_WAIT
    assert peer.user.told[-2:] == ["eof", "DONE"]
    again = Peer(bench)
    again.clock = 200
    again.connect()
    assert again.connection is not old
    assert old.state is State.CLOSED
    assert 0 < (again.connection.iss - old.snd_nxt) & 0xFFFFFFFF <= 1 << 24


# Where the guest is


def test_a_connection_goes_on_when_its_guest_comes_back_elsewhere() -> None:
    bench = Bench(ALL)
    peer = Peer(bench).connect()
    peer.give(peer.data(b"before "))
    bench.stack.detach(bench.port, bench.now)
    calls.send(peer.connection, b"lost on the way", bench.now)
    bench.port.take()
    peer.port = new = bench.attach()
    peer.give(peer.data(b"after"))
    assert peer.user.data == b"before after"
    assert bench.port.take() == []
    bench.now += 1
    bench.stack.run_timers(bench.now)
    assert [frame.data.data.data for frame in bench.sent(new)] == [b"", b"lost on the way"]


def test_a_connection_follows_an_address_to_another_mac() -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    peer.where["mac"] = OTHER_MAC
    (answer, *_) = bench.give(peer.data(b"a"), peer.data(bytes(3000)))
    assert answer.dst == OTHER_MAC
    path = peer.connection.path
    assert isinstance(path, TcpPath)
    assert path.station is not None
    assert path.station.mac == OTHER_MAC


def test_opening_toward_a_guest_asks_for_it_first() -> None:
    bench, user = Bench(), User()
    bench.stack.connections.open(user, GUEST, 22, bench.now)
    (request,) = bench.sent()
    assert request.data.tpa == GUEST
    (syn,) = bench.give(arp(GATEWAY, operation=2))
    segment = syn.data.data
    assert (syn.dst, syn.data.src, segment.flags, segment.dport) == (MAC, GATEWAY, SYN, 22)
    assert segment.sport in module.EPHEMERAL
    numbers = {"sport": 22, "dport": segment.sport, "destination": GATEWAY}
    (answer,) = bench.give(tcp(flags=SYN | ACK, ack=segment.seq + 1, **numbers))
    assert answer.data.data.flags == ACK
    assert user.told == ["established"]
    assert bench.stack.connections.tcp_counters.retransmits == 0, "the SYN had waited for ARP"


@pytest.mark.parametrize("address", ["224.0.0.1", "255.255.255.255", "192.168.127.255", "0.0.0.1"])
@pytest.mark.parametrize("flags", [SYN, ACK])
def test_a_segment_for_a_group_is_nobodys(address: str, flags: int) -> None:
    """RFC 9293 MUST-57: neither answered nor passed on."""
    bench = Bench()
    bench.stack.connections.forward = lambda c, path, now: pytest.fail("offered")
    destination = socket.inet_aton(address)
    assert bench.give(tcp(flags=flags, destination=destination)) == []
    assert bench.stack.connections.tcp_counters.invalid == 1


@pytest.mark.parametrize(
    "address", ["192.168.127.255", "192.168.127.0", "192.168.127.1", "10.0.0.1"]
)
def test_opening_to_what_is_no_guest(address: str) -> None:
    bench = Bench()
    with pytest.raises(OSError, match="no guest"):
        bench.stack.connections.open(User(), socket.inet_aton(address), 22, bench.now)


def run_out(bench: Bench) -> float:
    """Let the timers go off until none is left; return the seconds that took."""
    began = bench.now
    while bench.stack.connections.deadline < float("inf"):
        bench.now = bench.stack.connections.deadline
        bench.stack.run_timers(bench.now)
    assert not bench.stack.connections.find
    return bench.now - began


def test_opening_asks_again_when_nobody_answers() -> None:
    bench, user = Bench(), User()
    bench.stack.connections.open(user, GUEST, 22, bench.now)
    assert run_out(bench) == 3
    assert user.told == ["UNREACHABLE"]
    assert [request.data.tpa for request in bench.sent()] == [GUEST] * 2


def test_opening_to_a_guest_that_has_gone() -> None:
    bench, user = Bench(), User()
    bench.meet()
    bench.stack.detach(bench.port, bench.now)
    bench.stack.connections.open(user, GUEST, 22, bench.now)
    assert run_out(bench) == 3
    assert user.told == ["UNREACHABLE"]


def test_opening_to_a_guest_that_is_silent() -> None:
    bench, user = Bench(), User()
    bench.meet()
    bench.stack.connections.open(user, GUEST, 22, bench.now)
    assert run_out(bench) > 60
    assert user.told == ["TIMED_OUT"]


def test_opening_to_a_known_guest_is_refused_there() -> None:
    bench, user = Bench(), User()
    bench.meet()
    bench.port.take()
    bench.stack.connections.open(user, GUEST, 22, bench.now)
    (syn,) = bench.sent()
    segment = syn.data.data
    numbers = {"sport": 22, "dport": segment.sport, "destination": GATEWAY}
    bench.give(tcp(flags=RST | ACK, seq=0, ack=segment.seq + 1, **numbers))
    assert user.told == ["RESET"]


def test_ephemeral_ports_differ_and_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EPHEMERAL", range(40_000, 40_003))
    bench = Bench()
    bench.meet()
    opened = [bench.stack.connections.open(User(), GUEST, 22, bench.now) for _ in range(3)]
    assert {path(c).port for c in opened} == {40_000, 40_001, 40_002}
    with pytest.raises(OSError, match="no free port"):
        bench.stack.connections.open(User(), GUEST, 22, bench.now)
    bench.stack.connections.open(User(), GUEST, 23, bench.now)


def path(connection: Connection) -> TcpPath:
    assert isinstance(connection.path, TcpPath)
    return connection.path


# Congestion


def test_a_congested_port_makes_connections_wait() -> None:
    bench = Bench(ALL)
    peer = Peer(bench).connect()
    assert peer.connection.room(bench.now) > 0
    bench.port.congested = True
    assert peer.connection.room(bench.now) == 0
    peer.give(peer.data(b"x"))
    assert "writable" not in peer.user.told
    bench.port.congested = False
    bench.stack.port_ready(bench.port, bench.now)
    assert peer.user.told.count("writable") == 1
    bench.stack.port_ready(bench.port, bench.now)
    assert peer.user.told.count("writable") == 1


def test_detaching_wakes_those_who_wait() -> None:
    bench = Bench(ALL)
    peer = Peer(bench).connect()
    bench.port.congested = True
    peer.connection.room(bench.now)
    bench.port.congested = False
    bench.stack.detach(bench.port, bench.now)
    assert "writable" in peer.user.told


def test_waiting_takes_no_memory_over_time() -> None:
    """A guest that never reads, and sends on for ever, is in the list once; closed, not at all."""
    bench = Bench(ALL)
    peer = Peer(bench).connect()
    bench.port.congested = True
    peer.connection.room(bench.now)
    for _ in range(100):
        peer.give(peer.data(b"x"))
    waiting = bench.stack.connections._waiting
    assert sum(map(len, waiting.values())) == 1
    peer.give(peer.make(RST))
    assert peer.user.told[-1] == "RESET"
    assert sum(map(len, waiting.values())) == 0


def test_the_addresses_of_a_path_are_the_guests_view() -> None:
    bench = Bench()
    peer = Peer(bench, sport=1234, dport=443).connect()
    p = path(peer.connection)
    assert (p.guest, p.guest_port) == (GUEST, 1234)
    assert (p.address, p.port) == (socket.inet_aton("9.9.9.9"), 443)
    assert isinstance(bench.port.offload, int)
    assert not Offload(bench.port.offload)
    assert dpkt.tcp.TH_SYN == SYN
