"""The Ethernet switch: which MAC is behind which port, and frames from one guest to another."""

import logging
from itertools import count

from gvproxy.stack import gso
from gvproxy.stack.port import Port, Station
from gvproxy.wire import ethernet
from taplink import vnet

log = logging.getLogger(__name__)

MAX_STATIONS = 1024
AGEING = 300.0  # IEEE 802.1D-2004, table 7-5


class Switch:
    """Learns stations from the frames they send and delivers frames between ports."""

    def __init__(self) -> None:
        self.ports: dict[int, Port] = {}
        self.stations: dict[bytes, Station] = {}
        self.refused = 0
        self._numbers = count()

    def attach(self, port: Port) -> None:
        """Give the port its number and let frames flow to it."""
        port.number = next(self._numbers)
        self.ports[port.number] = port

    def detach(self, port: Port) -> None:
        """Let the port go.

        Its stations stay until they age: whoever refers to one finds its guest again as soon as
        that speaks through another port.
        """
        del self.ports[port.number]

    def table(self) -> dict[bytes, int]:
        """Return which MAC is behind the port of which number."""
        return {
            mac: station.port.number
            for mac, station in self.stations.items()
            if station.port.number in self.ports
        }

    def learn(self, mac: bytes, port: Port, now: float) -> Station | None:
        """Return the station for a source address; None when there is no place for another."""
        station = self.stations.get(mac)
        if station is None:
            if len(self.stations) >= MAX_STATIONS:
                self._age(now)
                if len(self.stations) >= MAX_STATIONS:
                    self.refused += 1
                    return None
            station = self.stations[mac] = Station(mac, port, now)
        elif station.port is not port:
            log.info("%s moved to port %d", ethernet.format_mac(mac), port.number)
            station.port = port
        station.seen = now
        return station

    def _age(self, now: float) -> None:
        for mac, station in list(self.stations.items()):
            if station.seen + AGEING < now or station.port.number not in self.ports:
                del self.stations[mac]

    def forward(self, port: Port, frame: memoryview) -> None:
        """Deliver a frame of `port` to the station it is for, or to all others."""
        offset = port.offset
        destination = bytes(frame[offset : offset + 6])
        if not ethernet.is_multicast(destination):
            station = self.stations.get(destination)
            if station is not None:
                if station.port is not port:
                    self._deliver(station.port, frame, offset)
                return
        for other in list(self.ports.values()):
            if other is not port:
                self._deliver(other, frame, offset)

    def _deliver(self, port: Port, frame: memoryview, offset: int) -> None:
        meta = bytes(frame[:offset]) or vnet.PLAIN
        body = bytes(frame[offset:])
        if meta[0] & vnet.F_NEEDS_CSUM and not _takes(port.offload, meta[1]):
            if not _sound(meta, len(body)):
                return
            header = _header_length(meta, body)
            for head, payload in gso.complete(meta, body[:header], memoryview(body)[header:]):
                port.send(vnet.PLAIN, head, payload)
        else:
            port.send(meta if port.offload else vnet.PLAIN, body)


def _takes(offload: int, kind: int) -> bool:
    needed = {
        vnet.GSO_NONE: vnet.Offload.CSUM,
        vnet.GSO_TCPV4: vnet.Offload.CSUM | vnet.Offload.TSO4,
        vnet.GSO_TCPV6: vnet.Offload.CSUM | vnet.Offload.TSO6,
    }.get(kind & ~vnet.GSO_ECN)
    return needed is not None and offload & needed == needed


def _sound(meta: bytes, length: int) -> bool:
    """Tell whether the checksum's place lies inside the frame: the guest wrote the header."""
    start, offset = _checksum_place(meta)
    return start >= ethernet.SIZE + 20 and start + max(offset + 2, 20) <= length


def _checksum_place(meta: bytes) -> tuple[int, int]:
    start: int
    offset: int
    _, _, _, _, start, offset, _ = vnet.HEADER.unpack(meta)
    return start, offset


def _header_length(meta: bytes, body: bytes) -> int:
    """Return where the payload begins, from the headers themselves; the guest's word is not."""
    start, _ = _checksum_place(meta)
    if meta[1] & ~vnet.GSO_ECN in (vnet.GSO_TCPV4, vnet.GSO_TCPV6):
        return min(start + (body[start + 12] >> 4) * 4, len(body))
    return len(body)
