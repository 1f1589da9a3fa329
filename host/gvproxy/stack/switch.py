"""The Ethernet switch: which MAC is behind which port, and frames from one guest to another."""

import logging
from collections.abc import Callable
from itertools import count

from gvproxy.complaint import Complaint
from gvproxy.limits import Quota
from gvproxy.stack import gso
from gvproxy.stack.port import Port, StackCounters, Station
from gvproxy.wire import ethernet, ipv4, ipv6, tcp, udp
from taplink import vnet

log = logging.getLogger(__name__)

AGEING = 300.0  # IEEE 802.1D-2004, table 7-5
FLOOD_RATE = 1000.0
"""Frames a second from one port that go to all others, each of which they cost as much again.

A super-frame is as many as may have to be made of it.
"""
FLOOD_BURST = 1000.0
_VLAN_TAG = 4
_NEEDED = {
    vnet.GSO_NONE: int(vnet.Offload.CSUM),
    vnet.GSO_TCPV4: int(vnet.Offload.CSUM | vnet.Offload.TSO4),
    vnet.GSO_TCPV6: int(vnet.Offload.CSUM | vnet.Offload.TSO6),
    vnet.GSO_UDP_L4: int(vnet.Offload.CSUM | vnet.Offload.USO4 | vnet.Offload.USO6),
}
"""What a port has to take for a frame of a kind; plain numbers (see `Port.offload`)."""


class Switch:
    """Learns stations from the frames they send and delivers frames between ports."""

    def __init__(self, mtu: int, counters: StackCounters, quota: Quota) -> None:
        """Frames above `mtu` reach only ports with offloads; `quota` is of MAC addresses."""
        self.ports: dict[int, Port] = {}
        self.stations: dict[bytes, Station] = {}
        self.appeared: Callable[[bytes, Port], None] = lambda mac, port: None
        """Called with a MAC address that is new, or behind another port than before."""
        self.may_move: Callable[[Station, Port, float], bool] = self._says_that_it_moves
        """Asked whether a station may appear behind another port, where its own is attached or its
        guest is another's."""
        self.is_another: Callable[[Station, bytes, Port], bool] = lambda was, mac, port: False
        """Tells whether a MAC address behind a port is of another guest's than a station was."""
        self._largest = ethernet.SIZE + _VLAN_TAG + mtu
        self._counters = counters
        self._numbers = count()
        self._quota = quota
        self._moved = Complaint(log)
        self._refused = Complaint(log)
        self._flooded = Complaint(log)
        self._floods: dict[int, tuple[float, float]] = {}  # by port: frames left, and as of when

    def attach(self, port: Port) -> None:
        """Give the port its number and let frames flow to it."""
        port.number = next(self._numbers)
        port.attached = True
        self.ports[port.number] = port

    def detach(self, port: Port) -> None:
        """Let the port go.

        Its stations stay until they age: whoever refers to one finds its guest again as soon as
        that speaks through another port, and no guest that has taken its place.
        """
        port.attached = False
        del self.ports[port.number]
        self._floods.pop(port.number, None)

    def table(self) -> dict[bytes, int]:
        """Return which MAC is behind the port of which number."""
        return {
            mac: station.port.number
            for mac, station in self.stations.items()
            if station.port.attached
        }

    def learn(self, mac: bytes, port: Port, now: float) -> Station | None:
        """Return the station for a source address; None when there is no place for another."""
        station = self.stations.get(mac)
        if station is None:
            if not self._quota.has_room(port) and self._quota.may_search(now):
                self._age(port, now)
            if not self._quota.take(port):
                self._counters.stations_refused += 1
                text = "no place for %s of port %d, which has %d MAC addresses"
                self._refused.make(
                    now, text, ethernet.format_mac(mac), port.number, self._quota.held(port)
                )
                return None
            station = self.stations[mac] = Station(mac, port, now)
            self.appeared(mac, port)
        elif station.port is not port:
            another = self.is_another(station, mac, port)
            if (another or station.port.attached) and not self.may_move(station, port, now):
                return None
            self._quota.give(station.port)
            self._quota.hold(port)
            if another:
                station = self.stations[mac] = Station(mac, port, now)
            else:  # its guest has come back
                station.port = port
            self.appeared(mac, port)
        station.seen = now
        return station

    def _says_that_it_moves(self, station: Station, port: Port, now: float) -> bool:
        text = "%s moved to port %d"
        self._moved.make(now, text, ethernet.format_mac(station.mac), port.number)
        return True

    def _age(self, port: Port, now: float) -> None:
        """Make room for `port`: its own that were silent for long, and where all have many those of
        guests that have gone.

        Others keep what they have: whoever came next could take it, and they were refused.
        """
        full = self._quota.held(port) < self._quota.limit.guest
        for station in list(self.stations.values()):
            aged = station.port is port and station.seen + AGEING < now
            if aged or (full and not station.port.attached):
                del self.stations[station.mac]
                self._quota.give(station.port)

    def forward(self, port: Port, frame: memoryview, now: float) -> None:
        """Deliver a frame of `port` to the station it is for, or to all others."""
        offset = port.offset
        destination = bytes(frame[offset : offset + 6])
        if not ethernet.is_multicast(destination):
            station = self.stations.get(destination)
            if station is not None and station.port.attached:
                if station.port is not port and self._deliver(station.port, frame, offset):
                    port.carried += len(frame)
                return
        if len(self.ports) > 1 and self._may_flood(port, _pieces(frame, offset), now):
            for other in list(self.ports.values()):
                if other is not port:
                    self._deliver(other, frame, offset)

    def _may_flood(self, port: Port, count: int, now: float) -> bool:
        left, since = self._floods.get(port.number, (FLOOD_BURST, now))
        left = min(FLOOD_BURST, left + (now - since) * FLOOD_RATE)
        if left < count:
            self._counters.floods_refused += 1
            text = "port %d sends more than %d frames a second to everyone"
            self._flooded.make(now, text, port.number, FLOOD_RATE)
            return False
        self._floods[port.number] = left - count, now
        return True

    def _deliver(self, port: Port, frame: memoryview, offset: int) -> bool:
        """Send a frame to `port`; tells whether it, or some of it, was queued."""
        meta = bytes(frame[:offset]) or vnet.PLAIN
        body = bytes(frame[offset:])
        if meta[0] & vnet.F_NEEDS_CSUM:
            header = _header_length(meta, body)
            if not header:
                self._counters.malformed += 1
                return False
            if not _takes(port.offload, meta[1]):
                pieces = gso.complete(meta, body[:header], memoryview(body)[header:])
                sent = [self._send_plain(port, head, payload) for head, payload in pieces]
                return any(sent)
        if port.offload:
            return port.send(meta, body)
        return self._send_plain(port, body)

    def _send_plain(self, port: Port, header: bytes, payload: bytes | memoryview = b"") -> bool:
        if len(header) + len(payload) > self._largest:
            self._counters.oversized += 1
            return False
        return port.send(vnet.PLAIN, header, payload)


def _pieces(frame: memoryview, offset: int) -> int:
    """Return how many frames may have to be made of one."""
    if not offset or not frame[1]:
        return 1
    return 1 + len(frame) // max(frame[4] | frame[5] << 8, 1)


def _takes(offload: int, kind: int) -> bool:
    needed = _NEEDED.get(kind & ~vnet.GSO_ECN)
    return needed is not None and offload & needed == needed


def _header_length(meta: bytes, body: bytes) -> int:
    """Return where the payload of an unfinished frame begins, 0 where `meta` points elsewhere.

    The guest wrote `meta`, so `hdr_len` in it is not used.  A checksum belongs behind an IP header:
    whoever completes it, be it the guest that gets it, would write over what the frame has been
    judged by.
    """
    _, kind, _, _, start, offset, _ = vnet.HEADER.unpack(meta)
    least = _network_end(body)
    if not least or start < least or start + offset + 2 > len(body):
        return 0
    if kind & ~vnet.GSO_ECN in (vnet.GSO_TCPV4, vnet.GSO_TCPV6):
        if start + tcp.SIZE > len(body):
            return 0
        header: int = start + (body[start + 12] >> 4) * 4
        # The checksum's field lies in the header.
        return header if start + offset + 2 <= header <= len(body) else 0
    if kind == vnet.GSO_UDP_L4:
        return start + udp.SIZE if offset == udp.CHECKSUM_OFFSET else 0
    return len(body)


def _network_end(body: bytes) -> int:
    """Return where IP's header ends in a frame, at the earliest; 0 for what is no IP."""
    kind, at = ethernet.behind_tags(body, ethernet.SIZE, body[12] << 8 | body[13])
    if kind == ethernet.TYPE_IPV4:
        return at + max((body[at] & 0xF) * 4 if at < len(body) else 0, ipv4.SIZE)
    return at + ipv6.SIZE if kind == ethernet.TYPE_IPV6 else 0
