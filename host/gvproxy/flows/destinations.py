"""Which address of the host's network is meant when a guest names one."""

import logging
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from socket import inet_ntoa

log = logging.getLogger(__name__)

_CLOSED = tuple(
    (int(network.network_address), int(network.netmask))
    for network in map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network (RFC 1122 §3.2.1.3)
            "127.0.0.0/8",  # the host's own loopback: only through the NAT table
            "169.254.0.0/16",  # link-local, the clouds' metadata among it
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)


class Destinations:
    """NAT table first, then what is closed to guests, then the address itself."""

    def __init__(self, nat: Mapping[IPv4Address, IPv4Address], subnet: IPv4Network) -> None:
        self._nat = {guest.packed: str(host) for guest, host in nat.items()}
        self._closed = (*_CLOSED, (int(subnet.network_address), int(subnet.netmask)))

    def resolve(self, address: bytes) -> str | None:
        """Return the host's address for a guest's destination, None for one that is closed."""
        host = self._nat.get(address)
        if host is None:
            number = int.from_bytes(address, "big")
            if not any(number & mask == network for network, mask in self._closed):
                host = inet_ntoa(address)
            elif log.isEnabledFor(logging.DEBUG):
                log.debug("%s is closed to guests", inet_ntoa(address))
        return host
