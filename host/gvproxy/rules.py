"""Where guests may go, as it is written down: what is closed to all of them, and a user's rules.

Read next: `flows.destinations`, which decides by them.  An IPv4-mapped IPv6 address is the IPv4
address, here as there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network

LINK_LOCAL: tuple[Network, ...] = (IPv4Network("169.254.0.0/16"), IPv6Network("fd00:ec2::/32"))
"""The clouds' metadata, with a machine's credentials, is among it."""
NO_HOSTS: tuple[Network, ...] = (
    IPv4Network("0.0.0.0/8"),  # this network (RFC 1122 §3.2.1.3); Linux takes it for loopback
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv4Network("240.0.0.0/4"),  # reserved, and broadcast
    IPv6Network("::/96"),  # unspecified, loopback, and what was IPv4-compatible once
    IPv6Network("fe80::/10"),  # means nothing without an interface
    IPv6Network("ff00::/8"),  # multicast
)
LOOPBACKS = IPv4Network("127.0.0.0/8")
"""The host's own: only through the NAT table."""
_MAPPED = IPv6Network("::ffff:0:0/96")
_ANY = "any"


class Protocol(StrEnum):
    """What guests reach the outside by."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    """Pings; they have no port."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows or denies; what is empty says nothing, and matches all.

    A destination matches by the address that is dialled or by the one that the guest calls, which
    differ behind the NAT table; a guest by one of its addresses or `macs`.
    """

    allow: bool
    networks: tuple[Network, ...] = ()
    ports: tuple[range, ...] = ()
    protocols: frozenset[Protocol] = frozenset()
    guests: tuple[Network, ...] = ()
    macs: frozenset[bytes] = frozenset()
    where: str = ""
    """What the log calls it."""


def read_destination(text: str) -> tuple[Network, ...]:
    """Read one, where "any" is empty; raises ValueError with what it must be."""
    return () if text == _ANY else (read_network(text),)


def read_network(text: str) -> Network:
    """Read an address or a network; raises ValueError with what it must be."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or "%" in text:
        raise ValueError(f"must be an IP address or network, not {text!r}")
    address, _, _ = text.partition("/")
    if ip_network(address).network_address != network.network_address:
        raise ValueError(f"must be a network such as {network}, not {text!r}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        network = IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
    nobody = network.network_address
    if nobody.is_unspecified and network.num_addresses == 1:  # closed, whatever the rules
        raise ValueError(
            f"must not be {text}, which is nobody's address; all of them are {nobody}/0"
        )
    return network


def read_ports(text: str) -> range:
    """Read a port or `first-last`; raises ValueError with what it must be."""
    first, separator, last = text.partition("-")
    ends = (first, last if separator else first)
    if all(end.isascii() and end.isdecimal() and len(end) <= 5 for end in ends):
        low, high = map(int, ends)
        if high == 0:  # RFC 6335 §6
            raise ValueError("must not be 0 alone, which is nobody's port")
        if low <= high <= 65535:
            return range(low, high + 1)
    raise ValueError(f"must be a port or a range such as 8000-8100, not {text!r}")


def wrong_nat(nat: Mapping[IPv4Address, IPv4Address], *, link_local: bool) -> str:
    """Return what is wrong with a NAT table; empty where nothing is.

    It is the user's own word for where guests get, the host's loopback included, but it is not to
    open the cloud's metadata unnoticed, nor 0.0.0.0, which is another name of loopback.
    """
    for guest, host in nat.items():
        if any(host in network for network in NO_HOSTS):
            return f"nat {guest} leads to {host}, which is no address of a host"
        if not link_local and any(host in network for network in LINK_LOCAL):
            return f"nat {guest} leads to {host}, which takes -ec2-metadata-access"
    return ""
