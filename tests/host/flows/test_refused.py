"""Attacks: a guest's packets to where it may not go, and what each way around is worth."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network

import pytest

from gvproxy.flows.destinations import Refusals
from gvproxy.rules import Protocol, Rule
from gvproxy.wire import icmp, ipv4, tcp, udp
from gvproxy.wire.checksum import checksum, ones_sum, pseudo_header
from tests.manual_loop import ManualLoop

from .guest import GUEST, HOST, MAC, METADATA, Guest

PORT = 5000
LONG = 64
"""Bytes of a datagram that may go the short way."""
LOOPBACK, ANYWHERE, SUBNET_BROADCAST, BROADCAST, MDNS, DOOR = map(
    socket.inet_aton,
    (
        "127.0.0.1",
        "0.0.0.0",
        "192.168.127.255",
        "255.255.255.255",
        "224.0.0.251",
        "192.168.127.253",
    ),
)
CLOSED = [LOOPBACK, METADATA, ANYWHERE, SUBNET_BROADCAST, BROADCAST, MDNS]


@pytest.fixture
def victim() -> Iterator[socket.socket]:
    """What would hear all UDP to a port of the host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.setblocking(False)
        yield sock


def number(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def heard(sock: socket.socket) -> bytes:
    """Return what a socket that does not block has been sent; empty for nothing."""
    try:
        return sock.recv(65535)
    except BlockingIOError:
        return b""


def came(server: socket.socket) -> bool:
    """Tell whether there was a connection to a server."""
    server.setblocking(False)
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def datagram(
    port: int, payload: bytes = b"x", destination: bytes = HOST, source: bytes = GUEST
) -> bytes:
    length = udp.SIZE + len(payload)
    header = udp.HEADER.pack(PORT, port, length, 0)
    pseudo = pseudo_header(source + destination, ipv4.PROTOCOL_UDP) + length
    total = pseudo + ones_sum(header + payload, length)
    return udp.HEADER.pack(PORT, port, length, checksum(total)) + payload


def syn(destination: bytes, port: int) -> bytes:
    segment = tcp.HEADER.pack(PORT, port, 1, 0, 5 << 12 | tcp.SYN, 65535, 0, 0)
    pseudo = pseudo_header(GUEST + destination, ipv4.PROTOCOL_TCP) + tcp.SIZE
    total = pseudo + ones_sum(segment, tcp.SIZE)
    return segment[:16] + checksum(total).to_bytes(2, "big") + segment[18:]


def ping() -> bytes:
    return icmp.build(icmp.ECHO_REQUEST, 0, 7 << 16 | 1, b"x")


def codes(guest: Guest) -> list[int]:
    return [code for _, code, _ in guest.unreachable]


def nothing_left(guest: Guest) -> bool:
    return not (guest.tcp.open or len(guest.udp.mappings) or len(guest.echo.sessions))


@pytest.mark.parametrize("destination", CLOSED, ids=socket.inet_ntoa)
def test_closed_addresses(guest: Guest, server: socket.socket, destination: bytes) -> None:
    guest.frame(destination, ipv4.PROTOCOL_TCP, syn(destination, number(server)))
    guest.frame(destination, ipv4.PROTOCOL_UDP, datagram(number(server), destination=destination))
    guest.frame(destination, ipv4.PROTOCOL_ICMP, ping())
    assert nothing_left(guest)
    # TCP to no single host is no connection at all (RFC 9293 MUST-57).
    as_tcp = destination in (LOOPBACK, METADATA)
    assert guest.destinations.counters == Refusals(refused_closed=2 + as_tcp)
    # Nobody is told what became of a packet for many (RFC 1122 §3.2.2).
    group = destination in (SUBNET_BROADCAST, BROADCAST, MDNS)
    assert codes(guest) == [] if group else [icmp.ADMIN_PROHIBITED] * (2 + as_tcp)


def test_a_broadcast_of_the_hosts_own_network(loop: ManualLoop, victim: socket.socket) -> None:
    """Which of its networks' addresses that is, only the host's kernel knows; it asks for more."""
    guest = Guest(loop, nat={"192.168.127.253": "127.255.255.255"})
    for _ in range(3):  # the short way too
        guest.frame(DOOR, ipv4.PROTOCOL_UDP, datagram(number(victim), bytes(LONG), DOOR))
    guest.frame(DOOR, ipv4.PROTOCOL_TCP, syn(DOOR, number(victim)))
    assert heard(victim) == b""
    assert codes(guest)[:3] == [icmp.ADMIN_PROHIBITED] * 3
    assert not guest.tcp.open
    guest.close()


def test_a_source_route(guest: Guest, victim: socket.socket) -> None:
    """Packets are not forwarded, so nobody follows one (RFC 791 §3.1: LSRR)."""
    route = bytes((131, 7, 4)) + LOOPBACK + b"\0"
    question = datagram(number(victim), destination=METADATA)
    guest.frame(METADATA, ipv4.PROTOCOL_UDP, question, options=route)
    assert codes(guest) == [icmp.ADMIN_PROHIBITED]
    assert heard(victim) == b""


# Fragments


@pytest.fixture
def only_allowed(loop: ManualLoop, victim: socket.socket) -> Iterator[Guest]:
    """A guest that reaches every port but the victim's."""
    guest = Guest(loop, rules=[Rule(False, ports=(range(number(victim), number(victim) + 1),))])
    yield guest
    guest.close()


def send_fragments(guest: Guest, destination: bytes, protocol: int, *pieces: bytes) -> None:
    offset = 0
    for piece in pieces:
        more = 0 if piece is pieces[-1] else ipv4.MORE_FRAGMENTS
        guest.frame(destination, protocol, piece, fragment=more | offset // 8)
        offset += len(piece)


def test_fragments_are_judged_as_one(only_allowed: Guest, victim: socket.socket) -> None:
    guest, port = only_allowed, number(victim)
    whole = datagram(port, b"x" * 16)
    send_fragments(guest, HOST, ipv4.PROTOCOL_UDP, whole[:8], whole[8:])
    assert codes(guest) == [icmp.ADMIN_PROHIBITED]
    segment = syn(HOST, port)  # the port in the first, the flags in another: RFC 1858 §3
    send_fragments(guest, HOST, ipv4.PROTOCOL_TCP, segment[:8], segment[8:16], segment[16:])
    assert codes(guest) == [icmp.ADMIN_PROHIBITED] * 2
    whole = datagram(port, b"x" * 16, METADATA)
    send_fragments(guest, METADATA, ipv4.PROTOCOL_UDP, whole[:8], whole[8:])
    assert codes(guest) == [icmp.ADMIN_PROHIBITED] * 3
    assert guest.destinations.counters == Refusals(refused_closed=1, refused_by_rule=2)
    assert heard(victim) == b""
    assert nothing_left(guest)


def test_a_fragment_over_the_header(only_allowed: Guest, victim: socket.socket) -> None:
    """RFC 1858 §4: an allowed port first, and then another in its place."""
    guest = only_allowed
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as allowed:
        allowed.bind(("127.0.0.1", 0))
        allowed.setblocking(False)
        good, bad = datagram(number(allowed), bytes(16)), datagram(number(victim), bytes(16))
        more = ipv4.MORE_FRAGMENTS
        for first, second in ((good[:8], bad[:16]), (good[:16], bad[:8])):
            guest.frame(HOST, ipv4.PROTOCOL_UDP, first, fragment=more)
            guest.frame(HOST, ipv4.PROTOCOL_UDP, second, fragment=more)
            guest.frame(HOST, ipv4.PROTOCOL_UDP, bad[16:], fragment=2)
            guest.tick(30.0)
        assert heard(victim) == heard(allowed) == b""
        assert nothing_left(guest)
        send_fragments(guest, HOST, ipv4.PROTOCOL_UDP, good[:8], good[8:])
        assert heard(allowed) == bytes(16), "an honest one"


# The daemon's own API


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::"])
def test_our_own_api(loop: ManualLoop, bound: str) -> None:
    guest = Guest(loop, nat={"192.168.127.253": "127.0.0.2"})
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family) as server:
        guest.destinations.protect(server)
        doors = [HOST] if bound == "127.0.0.1" else [HOST, DOOR]
        for door in doors:
            guest.frame(door, ipv4.PROTOCOL_TCP, syn(door, number(server)))
        assert codes(guest) == [icmp.ADMIN_PROHIBITED] * len(doors)
        assert guest.destinations.counters == Refusals(refused_own_api=len(doors))
        assert not came(server)
    guest.close()


# Rules, by each of the protocols


@pytest.mark.parametrize("protocol", Protocol)
def test_a_rule_closes_each_protocol_alone(
    loop: ManualLoop, server: socket.socket, victim: socket.socket, protocol: Protocol
) -> None:
    network = IPv4Network("127.0.0.1")
    guest = Guest(loop, rules=[Rule(False, (network,), protocols=frozenset({protocol}))])
    sends: dict[Protocol, Callable[[], None]] = {
        Protocol.TCP: lambda: guest.frame(HOST, ipv4.PROTOCOL_TCP, syn(HOST, number(server))),
        Protocol.UDP: lambda: guest.frame(HOST, ipv4.PROTOCOL_UDP, datagram(number(victim))),
        Protocol.ICMP: lambda: guest.frame(HOST, ipv4.PROTOCOL_ICMP, ping()),
    }
    sends[protocol]()
    assert codes(guest) == [icmp.ADMIN_PROHIBITED]
    assert nothing_left(guest)
    for other in Protocol:
        if other is not protocol and other is not Protocol.ICMP:  # which not every kernel allows
            sends[other]()
    assert came(server) == (protocol is not Protocol.TCP)
    assert heard(victim) == (b"" if protocol is Protocol.UDP else b"x")
    assert codes(guest) == [icmp.ADMIN_PROHIBITED]
    guest.close()


def test_the_short_way_is_no_way_around(loop: ManualLoop, victim: socket.socket) -> None:
    """What one guest may send, another may not by borrowing its address and port."""
    other = b"\x02\0\0\0\0\3"
    guest = Guest(loop, rules=[Rule(True, macs=frozenset({MAC})), Rule(False)])
    for payload in (b"1" * LONG, b"2" * LONG, b"3" * LONG):
        guest.frame(HOST, ipv4.PROTOCOL_UDP, datagram(number(victim), payload))
        assert heard(victim) == payload
    for _ in range(3):
        guest.frame(HOST, ipv4.PROTOCOL_UDP, datagram(number(victim), b"4" * LONG), mac=other)
        assert heard(victim) == b""
    assert guest.destinations.counters == Refusals(refused_by_rule=3)
    guest.close()


def test_guests_by_their_addresses(loop: ManualLoop, victim: socket.socket) -> None:
    other = socket.inet_aton("192.168.127.3")
    guest = Guest(loop, rules=[Rule(False, guests=(IPv4Network(other),))])
    for source, expected in ((GUEST, b"x"), (other, b""), (GUEST, b"x")):
        question = datagram(number(victim), source=source)
        guest.frame(HOST, ipv4.PROTOCOL_UDP, question, source=source)
        assert heard(victim) == expected
    guest.close()


def test_a_flow_to_one_port_opens_no_other(loop: ManualLoop, victim: socket.socket) -> None:
    guest = Guest(loop, rules=[Rule(False, ports=(range(number(victim), number(victim) + 1),))])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as allowed:
        allowed.bind(("127.0.0.1", 0))
        allowed.setblocking(False)
        for port in [number(allowed), number(victim)] * 4:
            guest.frame(HOST, ipv4.PROTOCOL_UDP, datagram(port))
        assert [heard(allowed) for _ in range(5)] == [b"x"] * 4 + [b""]
        assert heard(victim) == b""
    guest.close()
