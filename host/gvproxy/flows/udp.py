"""Guests' UDP to the outside: a host socket for each address and port of a guest.

RFC 4787: the mapping is endpoint-independent (one socket whomever the guest talks to, REQ-1), what
comes back is filtered by address (REQ-8: only from whom the guest has sent to), and the guest's
own datagrams keep the mapping alive (REQ-6).  After a silence it is made anew.
"""

import logging
import socket
from asyncio import AbstractEventLoop

from gvproxy.complaint import Complaint
from gvproxy.flows.destinations import Destinations
from gvproxy.flows.mapping import Mapping
from gvproxy.flows.table import MappingTable
from gvproxy.stack.port import Station
from gvproxy.stack.stack import Stack
from gvproxy.stack.udp import Datagram, Udp
from gvproxy.wire import icmp, ipv4, udp

log = logging.getLogger(__name__)

IDLE_TIMEOUT = 300.0  # seconds; RFC 4787 REQ-5: five minutes by default, two at least
SWEEP_INTERVAL = 10.0
MAX_MAPPINGS = 4096


class UdpFlows:
    """All mappings of a stack."""

    def __init__(
        self,
        stack: Stack,
        loop: AbstractEventLoop,
        destinations: Destinations,
        limit: int = MAX_MAPPINGS,
    ) -> None:
        self.mappings: MappingTable[tuple[bytes, int], UdpMapping] = MappingTable(
            loop, limit, SWEEP_INTERVAL
        )
        self._stack = stack
        self._loop = loop
        self._destinations = destinations
        self._complaint = Complaint(log)
        stack.udp.forward = self._forward

    def _forward(self, datagram: Datagram, now: float) -> None:
        packet = datagram.packet
        host = self._destinations.resolve(packet.destination)
        if host is None:
            self._stack.ip.send_unreachable(packet, icmp.ADMIN_PROHIBITED)
            return
        key = packet.source, datagram.source_port
        mapping = self.mappings.use(key, now)
        if mapping is None:
            try:
                mapping = UdpMapping(self._loop, self._stack.udp, packet.station, key)
            except OSError as error:
                self._complaint.make(now, "no socket for UDP of a guest: %s", error.strerror)
                return
            self.mappings.add(key, mapping, now)
        mapping.send(datagram, host)

    def close(self) -> None:
        """End all mappings."""
        self.mappings.close()


class UdpMapping(Mapping):
    """One address and port of a guest, and its socket on the host."""

    __slots__ = ("_guest", "_port", "_udp")

    def __init__(
        self, loop: AbstractEventLoop, stack_udp: Udp, station: Station, key: tuple[bytes, int]
    ) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(("", 0))
        super().__init__(loop, stack_udp.ip, station, sock, IDLE_TIMEOUT)
        self._udp = stack_udp
        self._guest, self._port = key

    def send(self, datagram: Datagram, host: str) -> None:
        """Send a guest's datagram to `host`."""
        self._send(datagram.payload, (host, datagram.port), datagram.packet)

    def _arrived(self, payload: bytes, source: bytes, port: int) -> None:
        self._udp.send(self._station, source, port, self._guest, self._port, payload)

    def _quote(self, destination: bytes, port: int) -> bytes:
        header = ipv4.build_header(self._guest, destination, ipv4.PROTOCOL_UDP, udp.SIZE)
        return header + udp.HEADER.pack(self._port, port, udp.SIZE, 0)
