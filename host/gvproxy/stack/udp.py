"""UDP toward the guests (RFC 768): who takes a datagram, and datagrams out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

from gvproxy.limits import Quota
from gvproxy.stack.ip import Ip, Packet
from gvproxy.stack.port import StackConfig, StackCounters, Station
from gvproxy.stack.sessions import Leave, Sessions, pieces, segment_size
from gvproxy.wire import ethernet, icmp, ipv4, udp
from gvproxy.wire.checksum import checksum, ones_sum, pseudo_header, valid
from taplink import vnet
from taplink.vnet import Offload

_CHECKSUM_ONLY = vnet.HEADER.pack(
    vnet.F_NEEDS_CSUM,
    vnet.GSO_NONE,
    0,
    0,
    ethernet.SIZE + ipv4.SIZE,
    udp.CHECKSUM_OFFSET,
    0,
)
_HEADERS = ethernet.SIZE + ipv4.SIZE + udp.SIZE
_PORTS = Struct("!HH")

_CSUM, _USO4 = int(Offload.CSUM), int(Offload.USO4)


@dataclass(slots=True)
class Datagram:
    """A UDP datagram from a guest; `payload` and `packet` are valid until its handler returns."""

    packet: Packet
    source_port: int
    port: int
    payload: memoryview


DatagramHandler = Callable[[Datagram, float], None]


class Udp:
    """`handlers` has the services of the gateway and of broadcast; `forward` takes the rest."""

    def __init__(
        self, config: StackConfig, counters: StackCounters, ip: Ip, sessions: Quota
    ) -> None:
        self._config = config
        self._counters = counters
        self.ip = ip
        self.handlers: dict[tuple[bytes, int], DatagramHandler] = {}
        self.sessions = Sessions(config.mac, counters, sessions)
        self.forward: DatagramHandler | None = None
        ip.protocols[ipv4.PROTOCOL_UDP] = self.receive

    def receive(self, packet: Packet, now: float) -> None:
        """Take the UDP datagram in `packet`."""
        counters, payload = self._counters, packet.payload
        if len(payload) < udp.SIZE:
            counters.malformed += 1
            return
        source_port, port, length, given = udp.HEADER.unpack_from(payload)
        if not udp.SIZE <= length <= len(payload):
            counters.malformed += 1
            return
        source, destination = packet.source, packet.destination
        if not packet.trusted and given:
            total = pseudo_header(source + destination, ipv4.PROTOCOL_UDP) + length
            if not valid(total + ones_sum(payload[:length], length)):
                counters.udp_checksum_errors += 1
                return
        data, size = payload[udp.SIZE : length], 0
        if packet.meta and packet.meta[1]:
            size = segment_size(packet.meta, len(data))
            if not size:
                counters.malformed += 1
                return
        counters.udp_in += 1
        handler = self.handlers.get((destination, port))
        if handler is None and packet.to_us and any(source):
            if destination == self._config.gateway:
                counters.udp_unreachable += 1
                self.ip.send_unreachable(packet, icmp.PORT_UNREACHABLE)
                return
            handler = self.forward
        if handler is not None:
            self.sessions.flush(now)  # what came before leaves before
            for piece in pieces(data, size) if size else (data,):
                handler(Datagram(packet, source_port, port, piece), now)

    def remember(self, datagram: Datagram, leave: Leave) -> None:
        """Have `leave` take what follows between the same addresses and ports."""
        packet = datagram.packet
        ports = _PORTS.pack(datagram.source_port, datagram.port)
        self.sessions.add(packet.source + packet.destination + ports, packet.station, leave)

    def listen(self, where: tuple[bytes, int], handler: DatagramHandler) -> None:
        """Have `handler` take what is for an address and port."""
        self.handlers[where] = handler
        if where[0] != self._config.gateway:  # to which nobody has a session
            self.sessions.clear()

    def send(
        self,
        station: Station,
        source: bytes,
        source_port: int,
        destination: bytes,
        port: int,
        payload: bytes,
        *,
        mac: bytes | None = None,
        size: int = 0,
    ) -> None:
        """Send a datagram to a guest, in fragments if it has to be; `mac` as for `Ip.send`.

        With `size` the payload is that of several, of so many bytes each but for a smaller last
        one: 64 of them at the most.
        """
        config, counters, link = self._config, self._counters, station.port
        several = 0 < size < len(payload)
        if several and not (link.offload & _USO4 and _fits(size, config.mtu)):
            for piece in pieces(memoryview(payload), size):
                self.send(station, source, source_port, destination, port, bytes(piece), mac=mac)
            return
        length = udp.SIZE + len(payload)
        if ipv4.SIZE + length > ipv4.MAX_PACKET:
            counters.oversized += 1
            return
        counters.udp_out += 1
        pseudo = pseudo_header(source + destination, ipv4.PROTOCOL_UDP) + length
        if several or (link.offload & _CSUM and _fits(len(payload), config.mtu)):
            counters.ip_out += 1
            header = (
                ethernet.HEADER.pack(mac or station.mac, config.mac, ethernet.TYPE_IPV4)
                + ipv4.build_header(source, destination, ipv4.PROTOCOL_UDP, length)
                + udp.HEADER.pack(source_port, port, length, pseudo % 0xFFFF)
            )
            link.send(_super(size) if several else _CHECKSUM_ONLY, header, payload)
            return
        head = udp.HEADER.pack(source_port, port, length, 0)
        total = pseudo + ones_sum(head, udp.SIZE) + ones_sum(payload, len(payload))
        head = udp.HEADER.pack(source_port, port, length, checksum(total))
        self.ip.send(station, source, destination, ipv4.PROTOCOL_UDP, head + payload, mac=mac)


def _fits(size: int, mtu: int) -> bool:
    return ipv4.SIZE + udp.SIZE + size <= mtu


@lru_cache(maxsize=256)
def _super(size: int) -> bytes:
    """Return what says that a frame is to be cut into datagrams of `size` bytes."""
    return vnet.HEADER.pack(
        vnet.F_NEEDS_CSUM,
        vnet.GSO_UDP_L4,
        _HEADERS,
        size,
        ethernet.SIZE + ipv4.SIZE,
        udp.CHECKSUM_OFFSET,
        0,
    )
