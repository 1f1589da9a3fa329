"""Where guests may go: what the NAT table, the closed addresses, our own ports and rules decide."""

import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvproxy.complaint import INTERVAL
from gvproxy.flows import destinations as module
from gvproxy.flows.destinations import LINES, NO_PORT, Destinations, Refusals
from gvproxy.rules import Network, Protocol, Rule, read_network

SUBNET = IPv4Network("192.168.127.0/24")
LOOPBACK = {IPv4Address("192.168.127.254"): IPv4Address("127.0.0.1")}
NAT = LOOPBACK | {
    IPv4Address("169.254.169.254"): IPv4Address("10.1.1.1"),
    IPv4Address("8.8.8.8"): IPv4Address("9.9.9.9"),
}
GUEST = "192.168.127.3"
MAC = b"\2\0\0\0\0\3"
TCP, UDP, ICMP = Protocol


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def resolve(
    destinations: Destinations,
    address: str,
    protocol: Protocol = TCP,
    port: int = 80,
    *,
    guest: str = GUEST,
    mac: bytes = MAC,
    now: float = 0.0,
) -> str | None:
    port = NO_PORT if protocol is ICMP else port
    return destinations.resolve(protocol, packed(address), port, packed(guest), mac, now)


# The NAT table, and what is closed


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize(
    ("guest", "host"),
    [
        # The table comes first, whatever it names.
        ("192.168.127.254", "127.0.0.1"),
        ("169.254.169.254", "10.1.1.1"),
        ("8.8.8.8", "9.9.9.9"),
        ("::ffff:192.168.127.254", "127.0.0.1"),
        # Closed.
        ("0.0.0.0", None),
        ("0.255.255.255", None),
        ("127.0.0.1", None),
        ("127.255.255.255", None),
        ("169.254.0.0", None),
        ("169.254.255.255", None),
        ("192.168.127.0", None),
        ("192.168.127.1", None),
        ("192.168.127.77", None),
        ("192.168.127.255", None),
        ("224.0.0.1", None),
        ("239.255.255.255", None),
        ("240.0.0.1", None),
        ("255.255.255.255", None),
        # The same with a longer name, and what is IPv6's own.
        ("::ffff:0.0.0.0", None),
        ("::ffff:127.0.0.1", None),
        ("::ffff:169.254.170.2", None),
        ("::ffff:192.168.127.77", None),
        ("::ffff:224.0.0.1", None),
        ("::", None),
        ("::1", None),
        ("::127.0.0.1", None),
        ("fd00:ec2::254", None),
        ("fe80::1", None),
        ("ff02::1", None),
        # The neighbours of what is closed, and the private networks.
        ("1.0.0.0", "1.0.0.0"),
        ("126.255.255.255", "126.255.255.255"),
        ("128.0.0.0", "128.0.0.0"),
        ("169.253.255.255", "169.253.255.255"),
        ("169.255.0.0", "169.255.0.0"),
        ("192.168.126.255", "192.168.126.255"),
        ("192.168.128.0", "192.168.128.0"),
        ("223.255.255.255", "223.255.255.255"),
        ("10.0.0.1", "10.0.0.1"),
        ("192.168.1.1", "192.168.1.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_destination(guest: str, host: str | None, protocol: Protocol) -> None:
    destinations = Destinations(NAT, SUBNET)
    assert resolve(destinations, guest, protocol) == host
    assert destinations.counters == Refusals(refused_closed=host is None)


@pytest.mark.parametrize(
    ("guest", "host"),
    [
        ("169.254.169.254", "169.254.169.254"),
        ("169.254.170.2", "169.254.170.2"),
        ("fd00:ec2::254", "fd00:ec2::254"),
        ("127.0.0.1", None),
        ("192.168.127.77", None),
        ("224.0.0.1", None),
    ],
)
def test_metadata_may_be_opened(guest: str, host: str | None) -> None:
    destinations = Destinations({}, SUBNET, link_local=True)
    assert resolve(destinations, guest) == host


# Our own ports


@contextlib.contextmanager
def listening(
    address: str, kind: socket.SocketKind = socket.SOCK_STREAM
) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield sock


OTHER = {IPv4Address("192.168.127.253"): IPv4Address("127.0.0.2")}
OUTSIDE = {IPv4Address("192.168.127.252"): IPv4Address("198.51.100.1")}
"""RFC 5737: nobody has it."""


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("127.0.0.1", {"127.0.0.2", "198.51.100.1"}),
        ("127.0.0.2", {"127.0.0.1", "198.51.100.1"}),
        ("0.0.0.0", {"198.51.100.1"}),
        ("::", {"198.51.100.1"}),
        ("::ffff:127.0.0.1", {"127.0.0.2", "198.51.100.1"}),
        ("::1", {"127.0.0.1", "127.0.0.2", "198.51.100.1"}),
    ],
)
def test_own_ports_are_closed_wherever_they_are_reached(address: str, reached: set[str]) -> None:
    destinations = Destinations(LOOPBACK | OTHER | OUTSIDE, SUBNET)
    with listening(address) as sock:
        destinations.protect(sock)
        port = sock.getsockname()[1]
        doors = [str(guest) for guest in (*LOOPBACK, *OTHER, *OUTSIDE)]
        found = [resolve(destinations, door, port=port) for door in doors]
        assert set(found) - {None} == reached
        assert destinations.counters == Refusals(refused_own_api=found.count(None))
        for door in doors:  # another port, or what is no TCP, is not ours
            assert resolve(destinations, door, port=port ^ 1)
            assert resolve(destinations, door, UDP, port)
            assert resolve(destinations, door, ICMP)


def test_own_ports_of_ipv6_and_of_no_network(tmp_path: object) -> None:
    destinations = Destinations(LOOPBACK, SUBNET, rules=[Rule(allow=True)])
    with listening("::") as sock, socket.socket(socket.AF_UNIX) as unix:
        destinations.protect(unix)
        destinations.protect(sock)
        port = sock.getsockname()[1]
        assert resolve(destinations, "2001:db8::1", port=port) == "2001:db8::1"
        assert resolve(destinations, "192.168.127.254", port=port) is None, "whatever a rule says"


def test_in_doubt_an_address_is_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    assert not module.is_local("198.51.100.1")
    assert module.is_local("127.0.0.77")
    assert module.is_local("::1")
    monkeypatch.setattr(module.socket, "socket", fail)
    assert module.is_local("198.51.100.1")


# Rules


def net(*texts: str) -> tuple[Network, ...]:
    return tuple(read_network(text) for text in texts)


def deny(*networks: str, **more: object) -> Rule:
    return Rule(False, net(*networks), **more)  # type: ignore[arg-type]


def allow(*networks: str, **more: object) -> Rule:
    return Rule(True, net(*networks), **more)  # type: ignore[arg-type]


def test_the_first_rule_that_matches_decides() -> None:
    rules = [allow("10.0.0.5"), deny("10.0.0.0/8"), allow("10.1.0.0/16")]
    destinations = Destinations({}, SUBNET, rules=rules)
    assert resolve(destinations, "10.0.0.5") == "10.0.0.5"
    assert resolve(destinations, "10.0.0.6") is None
    assert resolve(destinations, "10.1.0.1") is None
    assert resolve(destinations, "11.0.0.1") == "11.0.0.1", "none matches"
    assert destinations.counters == Refusals(refused_by_rule=2)
    destinations = Destinations({}, SUBNET, rules=rules[::-1])
    assert resolve(destinations, "10.0.0.5") is None
    assert resolve(destinations, "10.1.0.1") == "10.1.0.1"


def test_no_rule_opens_what_is_closed() -> None:
    destinations = Destinations({}, SUBNET, rules=[allow(), allow("127.0.0.1", "169.254.0.0/16")])
    for address in ("127.0.0.1", "169.254.169.254", "0.0.0.0", "255.255.255.255", "::1"):
        assert resolve(destinations, address) is None


@pytest.mark.parametrize(
    ("rules", "open_"),
    [
        ([deny("127.0.0.0/8")], False),
        ([deny("192.168.127.254")], False),
        ([deny("::ffff:127.0.0.1")], False),
        ([allow("192.168.127.254"), deny()], True),
        ([allow("127.0.0.1"), deny()], True),
        ([allow("127.0.0.2"), deny()], False),
    ],
)
def test_the_nat_entry_is_no_way_around(rules: list[Rule], open_: bool) -> None:
    destinations = Destinations(LOOPBACK, SUBNET, rules=rules)
    for address in ("192.168.127.254", "::ffff:192.168.127.254"):
        for protocol in Protocol:
            assert (resolve(destinations, address, protocol) is not None) == open_


def test_an_ipv4_mapped_address_is_no_way_around() -> None:
    for rule in (deny("10.0.0.0/8"), deny("::ffff:10.0.0.0/104"), deny("::ffff:a01:0/112")):
        destinations = Destinations({}, SUBNET, rules=[rule])
        assert resolve(destinations, "::ffff:10.1.0.1") is None
        assert resolve(destinations, "10.1.0.1") is None
    everything = Destinations({}, SUBNET, rules=[deny("::/0")])
    assert resolve(everything, "10.1.0.1") == "10.1.0.1", "all of IPv6 is none of IPv4"
    assert resolve(everything, "2001:db8::1") is None


def test_guests_by_address_network_and_mac() -> None:
    rules = [
        allow(guests=net("192.168.127.8/29"), macs=frozenset({b"\2\0\0\0\0\7"})),
        allow("10.0.0.0/8", guests=net("192.168.127.4")),
        deny(),
    ]
    destinations = Destinations({}, SUBNET, rules=rules)
    assert resolve(destinations, "10.0.0.1") is None
    assert resolve(destinations, "10.0.0.1", guest="192.168.127.4") == "10.0.0.1"
    assert resolve(destinations, "11.0.0.1", guest="192.168.127.4") is None
    assert resolve(destinations, "11.0.0.1", guest="192.168.127.15") == "11.0.0.1"
    assert resolve(destinations, "11.0.0.1", guest="192.168.127.16") is None
    assert resolve(destinations, "11.0.0.1", mac=b"\2\0\0\0\0\7") == "11.0.0.1"


def test_ports_and_protocols() -> None:
    ports = (range(443, 444), range(8000, 8101))
    rules = [allow("10.0.0.5", ports=ports, protocols=frozenset({TCP})), deny("10.0.0.0/8")]
    destinations = Destinations({}, SUBNET, rules=rules)
    open_ = {443, 8000, 8100}
    for port in (0, 442, 443, 444, 7999, 8000, 8100, 8101, 65535):
        assert (resolve(destinations, "10.0.0.5", TCP, port) is not None) == (port in open_)
        assert resolve(destinations, "10.0.0.5", UDP, port) is None
    assert resolve(destinations, "10.0.0.5", ICMP) is None


def test_a_ping_has_no_port() -> None:
    rules = [deny("10.0.0.0/8", ports=(range(65536),))]
    destinations = Destinations({}, SUBNET, rules=rules)
    assert resolve(destinations, "10.0.0.1", ICMP) == "10.0.0.1"
    assert resolve(destinations, "10.0.0.1", UDP, 0) is None


# An oracle: the same in the words of `ipaddress`

v4_networks = st.builds(
    lambda number, size: IPv4Network((number, size), strict=False),
    st.integers(0x0A000000, 0x0A000007),
    st.integers(28, 32),
)
networks: st.SearchStrategy[Network] = v4_networks | st.builds(
    lambda number, size: IPv6Network((number, size), strict=False),
    st.integers(0x20010DB8 << 96, (0x20010DB8 << 96) + 7),
    st.integers(124, 128),
)
addresses = st.integers(0, 7).map(lambda n: packed(f"10.0.0.{n}")) | st.integers(0, 7).map(
    lambda n: packed(f"2001:db8::{n}")
)
macs = st.sampled_from([b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"])
rules_ = st.builds(
    Rule,
    allow=st.booleans(),
    networks=st.lists(networks, max_size=2).map(tuple),
    ports=st.lists(
        st.builds(lambda a, n: range(a, a + n), st.integers(0, 5), st.integers(1, 3)), max_size=2
    ).map(tuple),
    protocols=st.frozensets(st.sampled_from(Protocol)),
    guests=st.lists(v4_networks, max_size=2).map(tuple),
    macs=st.frozensets(macs, max_size=1),
)
NAT_OF_ORACLE = {IPv4Address("10.0.0.1"): IPv4Address("10.0.0.6")}


def oracle(
    rules: list[Rule], called: bytes, port: int, protocol: Protocol, guest: bytes, mac: bytes
) -> str | None:
    there = ipaddress.ip_address(called)
    real = NAT_OF_ORACLE.get(there, there)  # type: ignore[call-overload]
    here = ipaddress.ip_address(guest)
    for rule in rules:
        by_address = not rule.networks or any(there in n or real in n for n in rule.networks)
        by_port = not rule.ports or (protocol is not ICMP and any(port in p for p in rule.ports))
        by_protocol = not rule.protocols or protocol in rule.protocols
        anyone = not rule.guests and not rule.macs
        by_guest = anyone or mac in rule.macs or any(here in n for n in rule.guests)
        if by_address and by_port and by_protocol and by_guest:
            return str(real) if rule.allow else None
    return str(real)


@given(
    rules=st.lists(rules_, max_size=4),
    called=addresses,
    port=st.integers(0, 8),
    protocol=st.sampled_from(Protocol),
    guest=st.integers(0, 7).map(lambda n: packed(f"10.0.0.{n}")),
    mac=macs,
)
def test_rules_mean_what_ipaddress_says(
    rules: list[Rule], called: bytes, port: int, protocol: Protocol, guest: bytes, mac: bytes
) -> None:
    expected = oracle(rules, called, port, protocol, guest, mac)
    destinations = Destinations(NAT_OF_ORACLE, SUBNET, rules=rules)
    port = NO_PORT if protocol is ICMP else port
    assert destinations.resolve(protocol, called, port, guest, mac, 0.0) == expected
    if len(called) == 4:
        mapped = bytes(10) + b"\xff\xff" + called
        assert destinations.resolve(protocol, mapped, port, guest, mac, 0.0) == expected


# The log


def test_refusals_are_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gvproxy")
    rules = [deny("127.0.0.0/8", where="stack.destinations[0] (a.yaml line 3)")]
    destinations = Destinations(LOOPBACK, SUBNET, rules=rules)
    for _ in range(LINES + 5):
        resolve(destinations, "169.254.169.254", UDP, 53)
    resolve(destinations, "192.168.127.254", port=22)
    resolve(destinations, "192.168.127.254", ICMP)
    who = "192.168.127.3 (02:00:00:00:00:03) may not reach"
    said = [
        f"{who} 192.168.127.254 (127.0.0.1) port 22 by tcp: stack.destinations[0] (a.yaml line 3)",
        f"{who} 192.168.127.254 (127.0.0.1) by icmp: stack.destinations[0] (a.yaml line 3)",
    ]
    closed = f"{who} 169.254.169.254 port 53 by udp: it is closed to guests"
    assert caplog.messages == [closed] * LINES + said, "many of one reason hide none of another"
    assert {record.levelname for record in caplog.records[LINES:]} == {"WARNING"}
    assert destinations.counters == Refusals(refused_closed=LINES + 5, refused_by_rule=2)
    resolve(destinations, "169.254.169.254", UDP, 53, now=INTERVAL)
    assert caplog.messages[-1] == closed


def test_our_own_ports_are_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    destinations = Destinations(LOOPBACK, SUBNET)
    with listening("127.0.0.1") as sock:
        destinations.protect(sock)
        port = sock.getsockname()[1]
        assert resolve(destinations, "192.168.127.254", port=port) is None
    (said,) = caplog.messages
    assert said.endswith(
        f"192.168.127.254 (127.0.0.1) port {port} by tcp: gvproxy itself listens there"
    )
