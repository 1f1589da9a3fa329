"""Guests' UDP to the outside: a host socket for each address and port of a guest.

RFC 4787: the mapping is endpoint-independent (one socket whomever the guest talks to, REQ-1), what
comes back is filtered by address (REQ-8: only from whom the guest has sent to), and the guest's
own datagrams keep the mapping alive (REQ-6).  After a silence it is made anew.
"""

import logging
import socket
from asyncio import AbstractEventLoop
from functools import partial
from typing import NamedTuple

from gvproxy.complaint import Complaint
from gvproxy.flows import runs
from gvproxy.flows.destinations import Destinations
from gvproxy.flows.mapping import READS_PER_WAKEUP, Mapping
from gvproxy.flows.table import MappingTable
from gvproxy.limits import Quota, Quotas
from gvproxy.rules import Protocol
from gvproxy.stack.port import Station
from gvproxy.stack.sessions import Run, pieces
from gvproxy.stack.stack import Stack
from gvproxy.stack.udp import Datagram, Udp
from gvproxy.wire import icmp, ipv4, udp

log = logging.getLogger(__name__)

IDLE_TIMEOUT = 300.0  # seconds; RFC 4787 REQ-5: five minutes by default, two at least
SWEEP_INTERVAL = 10.0

Key = tuple[Station, bytes, int]
"""A guest, its address and port: whoever borrows its address gets none of its replies."""


class Peer(NamedTuple):
    """Whom a guest sends to: on the host, and as the guest calls the address."""

    address: runs.Address
    called: bytes


class UdpFlows:
    """All mappings of a stack."""

    def __init__(
        self,
        stack: Stack,
        loop: AbstractEventLoop,
        destinations: Destinations,
        quotas: Quotas,
    ) -> None:
        self.mappings: MappingTable[Key, UdpMapping] = MappingTable(
            loop, quotas.udp_mappings, SWEEP_INTERVAL
        )
        self._stack = stack
        self._loop = loop
        self._destinations = destinations
        self._peers = quotas.peers
        self._complaint = Complaint(log)
        stack.udp.forward = self._forward

    def _forward(self, datagram: Datagram, now: float) -> None:
        packet = datagram.packet
        station, source = packet.station, packet.source
        host = self._destinations.resolve(
            Protocol.UDP, packet.destination, datagram.port, source, station.mac, now
        )
        if host is None:
            self._stack.ip.send_unreachable(packet, icmp.ADMIN_PROHIBITED)
            return
        peer = Peer((host, datagram.port), packet.destination)
        key = station, source, datagram.source_port
        known = self.mappings.use(key, now) is not None
        self._send(key, peer, [datagram.payload], len(datagram.payload), now)
        if known:  # who asks one question, from a port of its own, has no use for it
            self._stack.udp.remember(datagram, partial(self._send, key, peer))

    def _send(self, key: Key, peer: Peer, run: Run, size: int, now: float) -> None:
        mapping = self.mappings.use(key, now)
        if mapping is None:
            try:
                mapping = UdpMapping(self._loop, self._stack.udp, key, self._peers)
            except OSError as error:
                self._complaint.make(now, "no socket for UDP of a guest: %s", error.strerror)
                return
            self.mappings.add(key, mapping, now, key[0].port)
        mapping.send(run, size, peer)

    def close(self) -> None:
        """End all mappings."""
        self.mappings.close()


class UdpMapping(Mapping):
    """One address and port of a guest, and its socket on the host."""

    __slots__ = ("_guest", "_port", "_udp")

    def __init__(self, loop: AbstractEventLoop, stack_udp: Udp, key: Key, peers: Quota) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(("", 0))
        except OSError:
            sock.close()
            raise
        runs.enable(sock)
        station, self._guest, self._port = key
        super().__init__(loop, stack_udp.ip, station, sock, IDLE_TIMEOUT, peers)
        self._udp = stack_udp

    def send(self, run: Run, size: int, peer: Peer) -> None:
        """Send a guest's datagrams of `size` bytes, of which the last may be smaller."""
        self._admit(peer.address[0], peer.called)
        if len(run) == 1 and len(run[0]) == size:
            self._send_one(run[0], peer)
            return
        try:
            runs.send(self._sock, run, size, peer.address)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # an earlier one's; or larger than the path takes, or no network card does
            for piece in (piece for part in run for piece in pieces(part, size)):
                self._send_one(piece, peer)

    def _send_one(self, payload: memoryview, peer: Peer) -> None:
        code = self._send(payload, peer.address)
        if code is not None:
            quote = self._quote(peer.called, peer.address[1])
            self._ip.send_error(self._station, peer.called, code, quote)

    def _read(self) -> None:
        for payload, size, (host, port) in runs.receive(self._sock, READS_PER_WAKEUP):
            source = self._peers.get(host)
            if source is not None:
                self._udp.send(
                    self._station, source, port, self._guest, self._port, payload, size=size
                )

    def _quote(self, destination: bytes, port: int) -> bytes:
        header = ipv4.build_header(self._guest, destination, ipv4.PROTOCOL_UDP, udp.SIZE)
        return header + udp.HEADER.pack(self._port, port, udp.SIZE, 0)
