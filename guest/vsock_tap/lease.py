"""What a DHCP server grants: read from its reply, and checked before anything depends on it.

When to ask for a lease, and how long it is kept, is the client's affair (`dhcp`).
"""

import math
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from vsock_tap.dhcp_message import Option, Reply

MIN_LEASE = 10.0
"""Seconds; a shorter lease is taken for this long, lest a server keeps the client busy."""
INFINITE = 0xFFFFFFFF
"""A lease time that never ends (RFC 2131 §3.3)."""
MAX_PREFIX_LENGTH = 30
"""The smallest subnet with room for a guest and a router, between its two reserved addresses."""
_NO_HOSTS = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))
"""This network, loopback, multicast and reserved addresses (RFC 6890 §2.2.2)."""


class LeaseError(Exception):
    """A reply grants nothing that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a server granted; `duration` is in seconds and may be infinite."""

    address: IPv4Address
    prefix_length: int
    server: IPv4Address
    router: IPv4Address | None
    nameservers: tuple[IPv4Address, ...]
    search: tuple[str, ...]
    mtu: int | None
    duration: float

    def __str__(self) -> str:
        span = "for ever" if math.isinf(self.duration) else f"{self.duration:.0f} s"
        return f"{self.address}/{self.prefix_length} from {self.server}, {span}"


def read_lease(reply: Reply) -> Lease:
    """Return what a reply grants; raises LeaseError.

    A router that cannot be one is left out: the guest still reaches its own network.
    """
    address = reply.yiaddr
    prefix_length = reply.prefix_length()
    server = reply.address(Option.SERVER_IDENTIFIER)
    seconds = reply.number(Option.LEASE_TIME, 4)
    if prefix_length is None:
        raise LeaseError("no subnet mask, or one with gaps")
    if server is None:
        raise LeaseError("no server identifier")
    if seconds is None:
        raise LeaseError("no lease time")
    if not 1 <= prefix_length <= MAX_PREFIX_LENGTH:
        raise LeaseError(f"a subnet is a /1 to /{MAX_PREFIX_LENGTH}, not a /{prefix_length}")
    network = IPv4Interface((address, prefix_length)).network
    if not _is_host(address, network):
        raise LeaseError(f"no address of a host in {network}")
    routers = (
        router
        for router in reply.addresses(Option.ROUTER)
        if router != address and _is_host(router, network)
    )
    return Lease(
        address=address,
        prefix_length=prefix_length,
        server=server,
        router=next(routers, None),
        nameservers=reply.addresses(Option.DOMAIN_NAME_SERVER),
        search=reply.search_domains(),
        mtu=reply.number(Option.INTERFACE_MTU, 2),
        duration=math.inf if seconds == INFINITE else max(float(seconds), MIN_LEASE),
    )


def _is_host(address: IPv4Address, network: IPv4Network) -> bool:
    return (
        address in network
        and address not in (network.network_address, network.broadcast_address)
        and not any(address in special for special in _NO_HOSTS)
    )
