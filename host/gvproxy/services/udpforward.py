"""A UDP port of the host that leads to one of a guest's.

Each client has a port of the gateway's address, from which the guest sees it come and to which it
answers.  Only the guest's answers pass, and they leave by the address the client had sent to.
"""

import asyncio
import logging
import socket
import struct
from asyncio import AbstractEventLoop
from collections.abc import Sequence

from gvproxy.complaint import Complaint
from gvproxy.flows.table import MappingTable
from gvproxy.limits import Owner, Quota
from gvproxy.stack.port import Port
from gvproxy.virtual import VirtualNetwork

log = logging.getLogger(__name__)

IDLE_TIMEOUT = 90.0
"""Seconds until a silent client is forgotten, as in Go's gvproxy (UDPConnTrackTimeout)."""
SWEEP_INTERVAL = 10.0
MAX_CLIENTS = 1024
"""Of one port."""
READS_PER_WAKEUP = 64
_MAX_DATAGRAM = 65535
_ANCILLARY = socket.CMSG_SPACE(20) if hasattr(socket, "CMSG_SPACE") else 0

_IP_PKTINFO = 8  # linux/in.h
_INFO_V4 = struct.Struct("@i4s4s")  # ip(7): interface, local address, destination
_INFO_V6 = struct.Struct("@16si")  # ipv6(7): address, interface

Ancillary = Sequence[tuple[int, int, bytes]]


def listen(host: str, port: int) -> socket.socket:
    """Open a port of the host's; no `host` means every address.  Raises OSError, ValueError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not host and socket.has_dualstack_ipv6():
        family = socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
        _learn_destinations(sock)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _learn_destinations(sock: socket.socket) -> None:
    """Have the kernel say which of its addresses a datagram was sent to."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _from_there(ancillary: Ancillary) -> Ancillary:
    """Return what makes an answer leave by the address that a datagram came to.

    The interface is the routes' to choose, but for an address that needs one (RFC 4007 §6).
    """
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            address, interface = _INFO_V6.unpack(data)
            if address[:2] != b"\xfe\x80":
                interface = 0
            return [(level, kind, _INFO_V6.pack(address, interface))]
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, _, address = _INFO_V4.unpack(data)
            return [(level, kind, _INFO_V4.pack(0, address, bytes(4)))]
    return ()


class UdpForward:
    """One published port; owns its socket, and has the reader of it until `close`."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        network: VirtualNetwork,
        sock: socket.socket,
        guest: tuple[str, int],
        quota: Quota,
        owner: Port | None = None,
    ) -> None:
        """`sock` is one of `listen`; `guest` is where it leads, address and port.

        `quota` is of the clients of all ports; `owner` is the guest that has published this one.
        """
        self.sock = sock
        self.guest = guest
        self._loop = loop
        self._network = network
        self._quota = quota
        self._owner = owner
        self._clients: MappingTable[tuple[object, ...], _Client] = MappingTable(
            loop, quota, SWEEP_INTERVAL
        )
        self._complaint = Complaint(log)
        loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Give the port back, and forget its clients."""
        self._clients.close()
        self._loop.remove_reader(self.sock.fileno())
        self.sock.close()

    def _readable(self) -> None:
        for _ in range(READS_PER_WAKEUP):
            try:
                payload, ancillary, _, source = self.sock.recvmsg(_MAX_DATAGRAM, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of an earlier answer
            self._arrived(payload, _from_there(ancillary), source)

    def _arrived(self, payload: bytes, ancillary: Ancillary, source: tuple[object, ...]) -> None:
        now = self._loop.time()
        key = *source, *ancillary
        client = self._clients.use(key, now)
        if client is None:
            client = _Client(self, source, ancillary)
            if not self._bind(client):
                self._complaint.make(now, "a datagram is lost: the gateway has no port left")
                return
            self._clients.add(key, client, now, self._owner)
        client.transport.sendto(payload, self.guest)

    def _bind(self, client: "_Client") -> bool:
        """Give a client a port, in place of its forward's oldest client where there is none."""
        clients, quota, owner = self._clients, self._quota, self._owner
        if len(clients) >= MAX_CLIENTS or not quota.has_room(owner):
            clients.evict(owner)
        if not quota.has_room(owner):
            quota.refused += 1
            return False
        for _ in range(2):
            try:
                client.transport = self._network.bind(client)
            except OSError:
                if not clients.evict(owner):
                    return False
            else:
                return True
        return False


class _Client(asyncio.DatagramProtocol):
    """Whoever sends to the published port, at a port of the gateway's."""

    transport: asyncio.DatagramTransport

    def __init__(
        self, forward: UdpForward, source: tuple[object, ...], ancillary: Ancillary
    ) -> None:
        self._forward = forward
        self._source = source
        self._ancillary = ancillary
        self.used = 0.0  # the table's, as is the next
        self.owner: Owner = None
        self.idle_timeout = IDLE_TIMEOUT

    def close(self) -> None:
        self.transport.close()

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        if source == self._forward.guest:
            try:
                self._forward.sock.sendmsg([data], self._ancillary, 0, self._source)
            except OSError as error:  # BlockingIOError among them: it is lost, as on any link
                log.debug("no answer to %s: %s", self._source[0], error.strerror)
