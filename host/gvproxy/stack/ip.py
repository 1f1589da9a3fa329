"""IPv4 toward the guests (RFC 791, RFC 1122 §3): packets in, packets out, and ICMP (RFC 792)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from gvproxy.limits import Quota
from gvproxy.stack.fragments import Reassembler
from gvproxy.stack.neighbours import Neighbours
from gvproxy.stack.port import Port, StackConfig, StackCounters, Station
from gvproxy.wire import ethernet, icmp, ipv4
from gvproxy.wire.checksum import ones_sum, valid
from taplink import vnet

FRAGMENTED = ipv4.MORE_FRAGMENTS | ipv4.OFFSET_MASK


@dataclass(slots=True)
class Packet:
    """A whole IPv4 packet from a guest; the views are valid until its handler returns."""

    station: Station
    source: bytes
    destination: bytes
    payload: memoryview
    meta: bytes
    """Its virtio-net header; empty where the link has none, or it came in fragments."""
    to_us: bool
    """Its frame was for the gateway's MAC, not for everyone."""
    head: memoryview
    """Its own first bytes, from the IP header on."""

    @property
    def trusted(self) -> bool:
        """The link vouches for the transport's checksum, or says that it is still to be made."""
        return bool(self.meta and self.meta[0] & vnet.TRUSTED)

    @property
    def quote(self) -> bytes:
        """What an ICMP error about it quotes: the IP header and eight bytes (RFC 792)."""
        return bytes(self.head[: (self.head[0] & 0xF) * 4]) + bytes(self.payload[:8])


@dataclass(slots=True)
class EchoRequest:
    """A ping from a guest to an address that is not the gateway's own."""

    packet: Packet
    identifier: int
    sequence: int
    payload: bytes


@dataclass(slots=True)
class Unreachable:
    """What a guest's "destination unreachable" says of a packet that was sent to it.

    `transport` begins with the transport's header, of which there are eight bytes at least.
    """

    station: Station
    code: int
    mtu: int
    """Of the next hop, where the code is "fragmentation needed"."""
    source: bytes
    destination: bytes
    transport: bytes


Handler = Callable[[Packet, float], None]
ErrorHandler = Callable[[Unreachable, float], None]
EchoHandler = Callable[[EchoRequest, float], None]


class Ip:
    """Validates and dispatches what comes in; builds, checksums and fragments what goes out."""

    def __init__(
        self,
        config: StackConfig,
        counters: StackCounters,
        neighbours: Neighbours,
        quota: Quota,
    ) -> None:
        """`quota` is of packets that come in fragments."""
        self._config = config
        self._counters = counters
        self._neighbours = neighbours
        self._reassembler = Reassembler(quota)
        self._identification = count(1)
        self.protocols: dict[int, Handler] = {ipv4.PROTOCOL_ICMP: self._icmp}
        self.errors: dict[int, ErrorHandler] = {}
        self.forward_echo: EchoHandler | None = None

    # In

    def leave(self, port: Port) -> None:
        """Keep nothing of a port that goes."""
        self._reassembler.leave(port)

    def receive(
        self, station: Station, packet: memoryview, meta: bytes, to_us: bool, now: float
    ) -> None:
        """Take an IPv4 packet of `station`, with what may follow it in its frame.

        `meta` is the frame's virtio-net header, or empty.
        """
        counters, config = self._counters, self._config
        if len(packet) < ipv4.SIZE:
            counters.malformed += 1
            return
        version, _, total, ident, fragment, _, protocol, _, source, destination = (
            ipv4.HEADER.unpack_from(packet)
        )
        size = (version & 0xF) * 4
        if version >> 4 != 4 or size < ipv4.SIZE or not size <= total <= len(packet):
            counters.malformed += 1
            return
        if not valid(ones_sum(packet[:size], size)):
            counters.ip_checksum_errors += 1
            return
        if not config.is_guest(source):
            # A guest without an address may speak DHCP and nothing else.
            if any(source) or protocol != ipv4.PROTOCOL_UDP:
                counters.ip_invalid_source += 1
                return
        elif to_us:
            self._neighbours.learn(source, station, now)
        counters.ip_in += 1
        payload = packet[size:total]
        if fragment & FRAGMENTED:
            counters.fragments_in += 1
            key = source + destination + bytes((protocol,)) + ident.to_bytes(2, "big")
            whole = self._reassembler.add((station.port, key), fragment, payload, now)
            counters.reassembly_failures = self._reassembler.failures
            if whole is None:
                return
            counters.reassembled += 1
            station.port.carried += len(whole)
            payload, meta = memoryview(whole), b""
        handler = self.protocols.get(protocol)
        whole_packet = Packet(station, source, destination, payload, meta, to_us, packet)
        if handler is not None:
            handler(whole_packet, now)
        else:
            counters.unknown_protocol += 1
            self.send_unreachable(whole_packet, icmp.PROTOCOL_UNREACHABLE)

    def _icmp(self, packet: Packet, now: float) -> None:
        counters, payload = self._counters, packet.payload
        if len(payload) < icmp.SIZE or not valid(ones_sum(payload, len(payload))):
            counters.malformed += 1
            return
        counters.icmp_in += 1
        kind, code, _, rest = icmp.HEADER.unpack_from(payload)
        if not packet.to_us:
            return
        if kind == icmp.UNREACHABLE:
            self._unreachable(packet, code, rest & 0xFFFF, now)
        if kind != icmp.ECHO_REQUEST:
            return
        counters.echo_requests += 1
        body = bytes(payload[icmp.SIZE :])
        if packet.destination in self._config.owned:
            self.send_echo_reply(packet.station, packet.destination, packet.source, rest, body)
        elif self.forward_echo is not None:
            self.forward_echo(EchoRequest(packet, rest >> 16, rest & 0xFFFF, body), now)

    def _unreachable(self, packet: Packet, code: int, mtu: int, now: float) -> None:
        """Hand on what a guest says of a packet of ours, whose beginning it quotes."""
        self._counters.unreachable_in += 1
        quote = bytes(packet.payload[icmp.SIZE :])
        size = (quote[0] & 0xF) * 4 if quote else 0
        if size < ipv4.SIZE or len(quote) < size + 8 or quote[0] >> 4 != 4:
            self._counters.malformed += 1
            return
        handler = self.errors.get(quote[9])
        if handler is not None:
            error = Unreachable(packet.station, code, mtu, quote[12:16], quote[16:20], quote[size:])
            handler(error, now)

    # Out

    def send(
        self,
        station: Station,
        source: bytes,
        destination: bytes,
        protocol: int,
        payload: bytes,
        *,
        mac: bytes | None = None,
    ) -> None:
        """Send a complete transport message, in fragments where it is larger than the MTU.

        `mac` takes the place of the station's own: DHCP's broadcasts.
        """
        config = self._config
        self._counters.ip_out += 1
        eth = ethernet.HEADER.pack(mac or station.mac, config.mac, ethernet.TYPE_IPV4)
        if ipv4.SIZE + len(payload) <= config.mtu:
            header = ipv4.build_header(source, destination, protocol, len(payload))
            station.port.send(vnet.PLAIN, eth + header, payload)
            return
        identification = next(self._identification) & 0xFFFF
        step = (config.mtu - ipv4.SIZE) & ~7
        for position in range(0, len(payload), step):
            piece = payload[position : position + step]
            more = ipv4.MORE_FRAGMENTS if position + step < len(payload) else 0
            header = ipv4.build_header(
                source,
                destination,
                protocol,
                len(piece),
                identification=identification,
                fragment=more | position >> 3,
            )
            self._counters.fragments_out += 1
            station.port.send(vnet.PLAIN, eth + header, piece)

    def send_echo_reply(
        self, station: Station, source: bytes, destination: bytes, rest: int, body: bytes
    ) -> None:
        """Answer a ping; `rest` is its identifier and sequence number as one number."""
        self._counters.echo_replies += 1
        message = icmp.build(icmp.ECHO_REPLY, 0, rest, body)
        self.send(station, source, destination, ipv4.PROTOCOL_ICMP, message)

    def send_unreachable(self, packet: Packet, code: int) -> None:
        """Tell a guest that its packet did not arrive, unless that is not done (RFC 1122 §3.2.2).

        The packet's destination is the one who tells, as where a host's own port is closed.
        """
        host = packet.destination[0] and not self._config.is_group(packet.destination)
        if not packet.to_us or not host or not any(packet.source):
            return
        self.send_error(packet.station, packet.destination, code, packet.quote)

    def send_error(self, station: Station, source: bytes, code: int, quote: bytes) -> None:
        """Send "destination unreachable" about the packet that `quote` is the beginning of."""
        self._counters.unreachable_out += 1
        message = icmp.build(icmp.UNREACHABLE, code, 0, quote)
        self.send(station, source, quote[12:16], ipv4.PROTOCOL_ICMP, message)
