"""Which address of the host's network is meant when a guest names one."""

import logging
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from socket import inet_ntoa

from gvproxy.config import LOOPBACK

log = logging.getLogger(__name__)

_LINK_LOCAL = IPv4Network("169.254.0.0/16")
"""The clouds' metadata, with a machine's credentials, is among it."""
_CLOSED = (
    IPv4Network("0.0.0.0/8"),  # this network (RFC 1122 §3.2.1.3)
    IPv4Network("127.0.0.0/8"),  # the host's own loopback: only through the NAT table
    _LINK_LOCAL,
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv4Network("240.0.0.0/4"),  # reserved, and broadcast
)


class Destinations:
    """NAT table first, then what is closed to guests, then the address itself."""

    def __init__(
        self,
        nat: Mapping[IPv4Address, IPv4Address],
        subnet: IPv4Network,
        *,
        link_local: bool = False,
    ) -> None:
        """`link_local` opens 169.254.0.0/16, as `-ec2-metadata-access` does in Go's gvproxy."""
        self.loopback = next((guest for guest, host in nat.items() if host == LOOPBACK), None)
        """Where guests reach the host's 127.0.0.1, if anywhere."""
        self._nat = {guest.packed: str(host) for guest, host in nat.items()}
        self._closed = tuple(
            (int(network.network_address), int(network.netmask))
            for network in (*_CLOSED, subnet)
            if not (link_local and network is _LINK_LOCAL)
        )

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
