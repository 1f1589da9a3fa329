"""Which address of the host's network a guest means, and whether it may go there.

In this order: what the NAT table says; what is closed to all guests, unless the table names it; the
ports where the daemon itself listens, by whatever address they are reached; the user's rules, of
which the first that matches decides.  The decision is made once for a connection, and for each
datagram that goes the long way: none of it changes while the daemon runs.

Addresses are compared as numbers in one space where IPv4 and IPv6 have different ones, and an
IPv4-mapped IPv6 address the one of the IPv4 address.
"""

import errno
import logging
import socket
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from gvproxy.complaint import Complaint
from gvproxy.config import LOOPBACK
from gvproxy.rules import LINK_LOCAL, LOOPBACKS, NO_HOSTS, Network, Protocol, Rule
from gvproxy.wire import ethernet

log = logging.getLogger(__name__)

NO_PORT = -1
"""A ping's."""
LINES = 5
"""Refusals for one reason that are logged in a minute; all are counted."""
_MAPPED = bytes(10) + b"\xff\xff"
_IPV6 = 1 << 128

Span = tuple[int, int]
"""The first and the last number of a network."""


@dataclass(slots=True)
class Refusals:
    """How often guests asked for what they may not have."""

    refused_closed: int = 0
    refused_own_api: int = 0
    refused_by_rule: int = 0


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A rule with numbers in place of addresses."""

    rule: Rule
    networks: tuple[Span, ...]
    guests: tuple[Span, ...]

    def matches(
        self, protocol: Protocol, called: int, real: int, port: int, guest: int, mac: bytes
    ) -> bool:
        rule = self.rule
        if rule.protocols and protocol not in rule.protocols:
            return False
        if self.networks and not (_within(real, self.networks) or _within(called, self.networks)):
            return False
        if rule.ports and not any(port in ports for ports in rule.ports):
            return False
        anyone = not (self.guests or rule.macs)
        return anyone or mac in rule.macs or _within(guest, self.guests)


class Destinations:
    """Decides for all guests of a network."""

    def __init__(
        self,
        nat: Mapping[IPv4Address, IPv4Address],
        subnet: IPv4Network,
        *,
        link_local: bool = False,
        rules: Sequence[Rule] = (),
    ) -> None:
        """`link_local` opens 169.254.0.0/16, as `-ec2-metadata-access` does in Go's gvproxy."""
        self.counters = Refusals()
        self.loopback = next((guest for guest, host in nat.items() if host == LOOPBACK), None)
        """Where guests reach the host's 127.0.0.1, if anywhere."""
        self._nat = {guest.packed: host.packed for guest, host in nat.items()}
        closed = (*NO_HOSTS, LOOPBACKS, subnet, *(() if link_local else LINK_LOCAL))
        spans = sorted(_spans(closed))  # no two overlap: the subnet is one of hosts
        self._closed_from = [first for first, _ in spans]
        self._closed_to = [-1, *(last for _, last in spans)]  # with what is below all of them
        self._own: dict[int, set[IPv4Address | IPv6Address]] = {}
        self._rules = tuple(
            _Compiled(rule, _spans(rule.networks), _spans(rule.guests)) for rule in rules
        )
        self._closed_asked = Complaint(log, logging.INFO, LINES)
        self._own_asked = Complaint(log, burst=LINES)
        self._denied = Complaint(log, burst=LINES)

    def protect(self, sock: socket.socket) -> None:
        """Let no guest reach what listens at `sock`, of whatever family."""
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            host, port, *_ = sock.getsockname()
            self._own.setdefault(port, set()).add(ip_address(unmapped(_packed(host))))

    @property
    def own_ports(self) -> Collection[int]:
        """The ports of those, as they are at any time."""
        return self._own.keys()

    def resolve(
        self,
        protocol: Protocol,
        destination: bytes,
        port: int,
        source: bytes,
        mac: bytes,
        now: float,
    ) -> str | None:
        """Return the host's address for a destination of the guest with `source` and `mac`.

        None, which is counted and logged, where it may not go there.
        """
        if len(destination) != 4:
            destination = unmapped(destination)
        real = self._nat.get(destination, destination)
        counters = self.counters
        if real is destination and self._is_closed(number(real)):
            counters.refused_closed += 1
            complaint, why = self._closed_asked, "it is closed to guests"
        elif protocol is Protocol.TCP and port in self._own and self._is_own(real, port):
            counters.refused_own_api += 1
            complaint, why = self._own_asked, "gvproxy itself listens there"
        else:
            ends = destination, real, port, source, mac
            rule = self._denying(protocol, *ends) if self._rules else None
            if rule is None:
                return _text(real)
            counters.refused_by_rule += 1
            complaint, why = self._denied, rule.where
        guest, place = f"{_text(source)} ({ethernet.format_mac(mac)})", _text(destination)
        if real is not destination:
            place += f" ({_text(real)})"
        if port != NO_PORT:
            place += f" port {port}"
        complaint.make(now, "%s may not reach %s by %s: %s", guest, place, protocol, why)
        return None

    def _denying(
        self,
        protocol: Protocol,
        destination: bytes,
        real: bytes,
        port: int,
        source: bytes,
        mac: bytes,
    ) -> Rule | None:
        """Return the rule that decides, where it denies."""
        ends = number(destination), number(real), port, number(source), mac
        for one in self._rules:
            if one.matches(protocol, *ends):
                return None if one.rule.allow else one.rule
        return None

    def _is_closed(self, value: int) -> bool:
        return value <= self._closed_to[bisect_right(self._closed_from, value)]

    def _is_own(self, real: bytes, port: int) -> bool:
        """Tell whether we are what listens at a port of whose number we have one."""
        listening = self._own[port]
        return ip_address(real) in listening or (
            any(address.is_unspecified for address in listening) and is_local(_text(real))
        )


def is_local(host: str) -> bool:
    """Tell whether an address is one of this machine's own; in doubt it is.

    The kernel knows best: others cannot be bound to.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def unmapped(address: bytes) -> bytes:
    """Return the IPv4 address that is meant by an IPv4-mapped one, and others as they are."""
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def number(address: bytes) -> int:
    """Return a packed address' number."""
    if len(address) != 4:
        address = unmapped(address)
    value = int.from_bytes(address, "big")
    return value if len(address) == 4 else _IPV6 | value


def _spans(networks: Collection[Network]) -> tuple[Span, ...]:
    spans = []
    for one in networks:
        space = 0 if one.version == 4 else _IPV6
        spans.append((space | int(one.network_address), space | int(one.broadcast_address)))
    return tuple(spans)


def _within(value: int, spans: tuple[Span, ...]) -> bool:
    for first, last in spans:  # noqa: SIM110 - a generator takes twice as long
        if first <= value <= last:
            return True
    return False


def _packed(host: str) -> bytes:
    return ip_address(host.partition("%")[0]).packed


def _text(address: bytes) -> str:
    if len(address) == 4:
        return socket.inet_ntoa(address)
    return socket.inet_ntop(socket.AF_INET6, address)
