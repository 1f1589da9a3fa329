"""The seam to the transports: a port is one attached guest, a station one MAC behind it."""

from dataclasses import dataclass
from math import inf
from typing import Protocol


class Port(Protocol):
    """One end of a virtual cable."""

    number: int
    """Given by `Switch.attach`."""
    attached: bool
    """From `Switch.attach` to `Switch.detach`."""
    left: float
    """When it was detached, in seconds."""
    identity: str
    """Who is behind it, as far as the link tells: guests of one user have the same, say.

    Empty where that is not known, or its guest cannot come back.
    """
    offset: int
    """Where Ethernet begins in the frames it hands in: behind a virtio-net header, or at 0."""
    offload: int
    """What may be left undone in the frames sent to it: `taplink.vnet.Offload` as a plain number.

    IntFlag's operators are Python code: a microsecond a segment.
    """
    carried: int
    """Bytes of its guest's that went on, to who has a connection or session or to another guest:
    of TCP the text, of all else the packet.  Not what was refused, answered by ourselves or
    dropped."""
    congested: bool
    """True while its queue is so full that bulk data should wait for `Stack.port_ready`."""

    def flush(self) -> None:
        """Send what waits for the end of the batch."""

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        """Queue one frame, or drop and count it when the queue is full; tells which.

        `meta` is a virtio-net header, `vnet.PLAIN` unless `offload` allows more; `header` begins
        with Ethernet.  The payload must not change afterwards.
        """


@dataclass(slots=True, eq=False)
class Station:
    """A MAC address seen behind a port; kept up to date when it moves, so references stay right."""

    mac: bytes
    port: Port
    seen: float  # seconds
    asked: float = -inf
    """When it was last asked whether it is there, because another has its MAC address."""


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Addresses are packed, network byte order."""

    mac: bytes
    gateway: bytes
    network: int
    mask: int
    owned: frozenset[bytes]
    """The addresses that answer ARP and ping: the gateway and all virtual ones."""
    mtu: int = 1500
    keepalive: float = inf
    """Seconds a guest may be silent on a TCP connection until it is asked."""
    reserved: frozenset[bytes] = frozenset()
    """Addresses beside `owned` that no guest may have."""
    source_checks: bool = True
    """Whether guests are kept from sending as others (`sourceguard`)."""

    def in_subnet(self, address: bytes) -> bool:
        """Tell whether an address belongs to the virtual network."""
        return int.from_bytes(address, "big") & self.mask == self.network

    def is_guest(self, address: bytes) -> bool:
        """Tell whether a guest may have an address: one of a host in the subnet, and not ours.

        The subnet's first and last addresses are no host's (RFC 1122 §3.2.1.3).
        """
        number = int.from_bytes(address, "big")
        host = number & ~self.mask
        return (
            number & self.mask == self.network
            and 0 < host < ~self.mask & 0xFFFFFFFF
            and address not in self.owned
        )

    def is_group(self, address: bytes) -> bool:
        """Tell whether an address is no single host: multicast, reserved or a broadcast."""
        return address[0] >= 224 or int.from_bytes(address, "big") == (
            self.network | ~self.mask & 0xFFFFFFFF
        )


@dataclass(slots=True)
class StackCounters:
    """What the stack made of the frames it was given; shown by /stats."""

    malformed: int = 0
    unknown_protocol: int = 0
    oversized: int = 0
    stations_refused: int = 0
    macs_spoofed: int = 0
    addresses_spoofed: int = 0
    dhcp_servers_refused: int = 0
    routers_refused: int = 0
    floods_refused: int = 0
    neighbours_refused: int = 0
    arp_requests: int = 0
    arp_replies: int = 0
    ip_in: int = 0
    ip_out: int = 0
    ip_invalid_source: int = 0
    ip_checksum_errors: int = 0
    fragments_in: int = 0
    fragments_out: int = 0
    reassembled: int = 0
    reassembly_failures: int = 0
    icmp_in: int = 0
    echo_requests: int = 0
    echo_replies: int = 0
    unreachable_in: int = 0
    unreachable_out: int = 0
    udp_in: int = 0
    udp_out: int = 0
    udp_checksum_errors: int = 0
    udp_unreachable: int = 0
    connections_refused: int = 0
    unresolved: int = 0
