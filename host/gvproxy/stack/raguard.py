"""What no guest is for another's IPv6: a router (RA-Guard, RFC 6105), or a DHCPv6 server
(DHCPv6-Shield, RFC 7610).

Whoever were believed would be the victim's router and its resolver, also where the victim uses IPv4
alone.  Extension headers and fragments hide nothing of this (RFC 7113): what a packet is has to be
seen in its first fragment.  Who has which address guests tell each other (neighbour discovery), and
nobody checks it.
"""

import logging
from struct import Struct

from gvproxy.complaint import Complaint
from gvproxy.stack.port import StackCounters, Station
from gvproxy.wire import ethernet, ipv6

log = logging.getLogger(__name__)

MAX_EXTENSIONS = 8
"""Headers of a packet; RFC 8200 §4.1 has six of them at most before what they are for."""

DHCP_CLIENT, DHCP_SERVER = 546, 547  # RFC 8415 §7.2
_ROUTERS = {ipv6.ROUTER_ADVERTISEMENT, ipv6.REDIRECT}
_JUDGED = ipv6.EXTENSIONS | {ipv6.PROTOCOL_ICMP, ipv6.PROTOCOL_UDP}
_PORTS = Struct("!HH")


class RouterGuard:
    """Judges IPv6 packets of one guest for others; the time is in seconds."""

    def __init__(self, counters: StackCounters) -> None:
        self._counters = counters
        self._routers = Complaint(log)
        self._servers = Complaint(log)

    def permits(self, station: Station, frame: memoryview, at: int, now: float) -> bool:
        """Judge the packet that begins at `at` of a frame of `station`."""
        if len(frame) < at + ipv6.SIZE:
            return True  # nobody can read it
        protocol = frame[at + ipv6.NEXT_HEADER]
        at += ipv6.SIZE
        if protocol in ipv6.EXTENSIONS:
            protocol, at = _behind_extensions(frame, at, protocol)
        # Deviation: RFC 7113 §3 has what is unknown refused, unless told otherwise.  Numbers that
        # stand for further headers are known here; all others are protocols, and guests' own.
        if protocol not in _JUDGED:
            return True
        if protocol == ipv6.PROTOCOL_ICMP and len(frame) > at:
            return frame[at] not in _ROUTERS or self._refuse_router(station, now)
        if protocol == ipv6.PROTOCOL_UDP and len(frame) >= at + _PORTS.size:
            source, destination = _PORTS.unpack_from(frame, at)
            if source != DHCP_SERVER and destination != DHCP_CLIENT:
                return True
            return self._refuse_server(station, now)
        self._counters.malformed += 1
        return False

    def _refuse_router(self, station: Station, now: float) -> bool:
        self._counters.routers_refused += 1
        text = "guest %d (%s) acts as an IPv6 router, and is refused: no guest is another's"
        self._routers.make(now, text, station.port.number, ethernet.format_mac(station.mac))
        return False

    def _refuse_server(self, station: Station, now: float) -> bool:
        self._counters.dhcp_servers_refused += 1
        text = "guest %d (%s) answers DHCPv6 clients, and is refused: no guest is their server"
        self._servers.make(now, text, station.port.number, ethernet.format_mac(station.mac))
        return False


def _behind_extensions(frame: memoryview, at: int, kind: int) -> tuple[int, int]:
    """Return protocol and place of what stands behind extension headers.

    An extension header where there are too many, or the frame ends in one.  Behind the header of
    a later fragment is nothing that can be read.
    """
    for _ in range(MAX_EXTENSIONS):
        if kind not in ipv6.EXTENSIONS or len(frame) < at + ipv6.EXTENSION_UNIT:
            break
        size = ipv6.EXTENSION_UNIT
        if kind == ipv6.FRAGMENT:
            if (frame[at + 2] << 8 | frame[at + 3]) & ipv6.OFFSET_MASK:
                return ipv6.NO_NEXT_HEADER, at
        elif kind == ipv6.AUTHENTICATION:  # RFC 4302 §2.2
            size = (frame[at + 1] + 2) * 4
        else:
            size += frame[at + 1] * ipv6.EXTENSION_UNIT
        kind, at = frame[at], at + size
    return kind, at
