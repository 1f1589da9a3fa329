"""Guests' pings to the outside, through unprivileged ping sockets (icmp(7), ping_group_range).

The kernel gives each socket its own identifier, so there is a socket for each identifier of a
guest.  Where ping sockets are not allowed, that is said once and pings are dropped.
"""

import errno
import logging
import socket
from asyncio import AbstractEventLoop

from gvproxy.complaint import Complaint
from gvproxy.flows.destinations import NO_PORT, Destinations
from gvproxy.flows.mapping import READS_PER_WAKEUP, Mapping
from gvproxy.flows.runs import MAX_DATAGRAM
from gvproxy.flows.table import MappingTable
from gvproxy.limits import Quota, Quotas
from gvproxy.rules import Protocol
from gvproxy.stack.ip import EchoRequest, Ip
from gvproxy.stack.port import Station
from gvproxy.stack.stack import Stack
from gvproxy.wire import icmp, ipv4

log = logging.getLogger(__name__)

IDLE_TIMEOUT = 60.0  # seconds; RFC 5508 REQ-1
SWEEP_INTERVAL = 10.0

Key = tuple[Station, bytes, int]
"""A guest, its address and identifier."""


class EchoFlows:
    """All ping sessions of a stack."""

    def __init__(
        self, stack: Stack, loop: AbstractEventLoop, destinations: Destinations, quotas: Quotas
    ) -> None:
        self.sessions: MappingTable[Key, EchoSession] = MappingTable(
            loop, quotas.pings, SWEEP_INTERVAL
        )
        self._stack = stack
        self._loop = loop
        self._destinations = destinations
        self._peers = quotas.peers
        self._complaint = Complaint(log)
        self._forbidden = False
        stack.ip.forward_echo = self._forward

    def _forward(self, request: EchoRequest, now: float) -> None:
        packet = request.packet
        station, source = packet.station, packet.source
        host = self._destinations.resolve(
            Protocol.ICMP, packet.destination, NO_PORT, source, station.mac, now
        )
        if host is None:
            self._stack.ip.send_unreachable(packet, icmp.ADMIN_PROHIBITED)
            return
        key = station, source, request.identifier
        session = self.sessions.use(key, now)
        if session is None:
            try:
                session = EchoSession(self._loop, self._stack.ip, key, self._peers)
            except OSError as error:
                self._warn(error, now)
                return
            self.sessions.add(key, session, now, station.port)
        session.send(request, host)

    def _warn(self, error: OSError, now: float) -> None:
        if error.errno not in (errno.EACCES, errno.EPERM):
            self._complaint.make(now, "no socket for a guest's ping: %s", error.strerror)
        elif not self._forbidden:
            self._forbidden = True  # and will be for as long as we run
            log.warning(
                "guests cannot ping the outside: no ping socket (%s; net.ipv4.ping_group_range)",
                error.strerror,
            )

    def close(self) -> None:
        """End all sessions."""
        self.sessions.close()


class EchoSession(Mapping):
    """One identifier of a guest's pings, and its socket on the host."""

    __slots__ = ("_guest", "_identifier")

    def __init__(self, loop: AbstractEventLoop, ip: Ip, key: Key, peers: Quota) -> None:
        sock = socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
        )
        station, self._guest, self._identifier = key
        super().__init__(loop, ip, station, sock, IDLE_TIMEOUT, peers)

    def send(self, request: EchoRequest, host: str) -> None:
        """Send a guest's ping to `host`; the kernel puts its own identifier in."""
        message = icmp.build(icmp.ECHO_REQUEST, 0, request.sequence, request.payload)
        packet = request.packet
        self._admit(host, packet.destination)
        code = self._send(message, (host, 0))
        if code is not None:
            self._ip.send_unreachable(packet, code)

    def _read(self) -> None:
        for _ in range(READS_PER_WAKEUP):
            payload, (host, *_) = self._sock.recvfrom(MAX_DATAGRAM)
            source = self._peers.get(host)
            if source is None or len(payload) < icmp.SIZE or payload[0] != icmp.ECHO_REPLY:
                continue
            rest = self._identifier << 16 | int.from_bytes(payload[6:8], "big")
            body = payload[icmp.SIZE :]
            self._ip.send_echo_reply(self._station, source, self._guest, rest, body)

    def _quote(self, destination: bytes, port: int) -> bytes:
        header = ipv4.build_header(self._guest, destination, ipv4.PROTOCOL_ICMP, icmp.SIZE)
        return header + icmp.build(icmp.ECHO_REQUEST, 0, self._identifier << 16, b"")
