"""The gateway's stack: what happens to a batch of frames.

`receive` is the hot path: one struct unpacks Ethernet, IPv4 and TCP of the expected segment, the
raw bytes of addresses and ports find its connection, and `prediction` takes it.  Whatever is not
expected goes through `_frame`, protocol by protocol.  At the batch's end each connection that was
touched hands its data over and acknowledges once.

Who is behind an address is registered: `listeners` and `datagram_handlers` for the addresses that
are the gateway's own, `forward_tcp`, `forward_udp` and `forward_echo` for all others.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2s
from itertools import count
from math import inf
from struct import Struct
from typing import Protocol

from gvproxy.stack.fragments import Reassembler
from gvproxy.stack.path import TcpPath
from gvproxy.stack.port import Port, StackCounters, Station
from gvproxy.stack.schedule import Schedule
from gvproxy.stack.switch import Switch
from gvproxy.tcp import calls, input, output
from gvproxy.tcp.connection import Connection, Counters, State, User
from gvproxy.tcp.prediction import predict
from gvproxy.wire import arp, ethernet, icmp, ipv4, tcp, udp
from gvproxy.wire.checksum import checksum, ones_sum, pseudo_header, valid
from taplink import vnet
from taplink.vnet import Offload

log = logging.getLogger(__name__)

# Ethernet; IPv4's version, total length, fragment and protocol; both addresses and both ports;
# TCP's numbers, offset and flags, window; the option word and TSval of RFC 7323 appendix A
_EXPECTED = Struct("!14sBxH2xHxB2x12sIIHH4xII")
_TIMESTAMPED = (tcp.SIZE + tcp.TIMESTAMPS.size) >> 2 << 12
_FRAGMENTED = ipv4.MORE_FRAGMENTS | ipv4.OFFSET_MASK
_TRUSTED = vnet.F_NEEDS_CSUM | vnet.F_DATA_VALID
_UDP_CHECKSUM_ONLY = vnet.HEADER.pack(
    vnet.F_NEEDS_CSUM,
    vnet.GSO_NONE,
    0,
    0,
    ethernet.SIZE + ipv4.SIZE,
    udp.CHECKSUM_OFFSET,
    0,
)

MAX_CONNECTIONS = 65536
ARP_INTERVAL = 1.0  # RFC 1122 §2.3.2.1: at most one request a second for one address
EPHEMERAL = range(32768, 61000)  # Linux: ip_local_port_range


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


@dataclass(slots=True)
class Datagram:
    """A UDP datagram from a guest; `payload` is valid until the handler returns."""

    station: Station
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    payload: memoryview
    quote: bytes
    """The beginning of its IP packet, for an ICMP error about it."""


@dataclass(slots=True)
class EchoRequest:
    """A ping from a guest to an address that is not the gateway's."""

    station: Station
    source: bytes
    destination: bytes
    identifier: int
    sequence: int
    payload: bytes
    quote: bytes


class TcpHandler(Protocol):
    """Takes a connection in LISTEN: sets its user, and accepts, aborts or drops it, in time."""

    def __call__(self, connection: Connection, path: TcpPath, now: float) -> None: ...


DatagramHandler = Callable[[Datagram, float], None]
EchoHandler = Callable[[EchoRequest, float], None]


@dataclass(slots=True)
class _Unresolved:
    asked: float = -inf
    paths: list[TcpPath] = field(default_factory=list)


class Stack:
    """One virtual network: a switch, and the gateway attached to it."""

    def __init__(
        self, config: StackConfig, *, secret: bytes, wake: Callable[[float], None]
    ) -> None:
        """`secret` keys the initial sequence numbers; `wake(at)` asks for `run_timers` at `at`."""
        self.config = config
        self.switch = Switch()
        self.schedule_ = Schedule(wake)
        self.counters = StackCounters()
        self.tcp_counters = Counters()
        self.connections: dict[bytes, Connection] = {}
        self.neighbours: dict[bytes, Station] = {}
        self.listeners: dict[tuple[bytes, int], TcpHandler] = {}
        self.datagram_handlers: dict[tuple[bytes, int], DatagramHandler] = {}
        self.forward_tcp: TcpHandler | None = None
        self.forward_udp: DatagramHandler | None = None
        self.forward_echo: EchoHandler | None = None
        self._secret = secret
        self._touched: list[Connection] = []
        self._waiting: dict[int, list[Connection]] = {}  # by port, for its queue to empty
        self._unresolved: dict[bytes, _Unresolved] = {}
        self._reassembler = Reassembler()
        self._identification = count(1)
        self._ephemeral = 0
        self._now = 0.0

    # Ports

    def attach(self, port: Port) -> None:
        """Let a port take part; it has a number afterwards."""
        self.switch.attach(port)

    def detach(self, port: Port) -> None:
        """Let a port go.  Connections stay: their guest may come back through another."""
        self.switch.detach(port)
        self._waiting.pop(port.number, None)
        for address in [a for a, s in self.neighbours.items() if s.port is port]:
            del self.neighbours[address]

    def port_ready(self, port: Port, now: float) -> None:
        """Let connections send that waited for the port's queue to empty."""
        for connection in self._waiting.pop(port.number, ()):
            self.touch(connection)
        self.flush(now)

    # What connections need (gvproxy.tcp.connection.Scheduler)

    def touch(self, connection: Connection) -> None:
        if not connection.touched:
            connection.touched = True
            self._touched.append(connection)

    def schedule(self, connection: Connection, deadline: float) -> None:
        self.schedule_.add(connection, deadline)

    def forget(self, connection: Connection) -> None:
        path = connection.path
        assert isinstance(path, TcpPath)
        if self.connections.get(path.key) is connection:
            del self.connections[path.key]
        self.schedule_.forget(connection)

    def wait_for_path(self, connection: Connection) -> None:
        path = connection.path
        assert isinstance(path, TcpPath)
        if path.station is not None:
            self._waiting.setdefault(path.station.port.number, []).append(connection)

    # Time

    def run_timers(self, now: float) -> None:
        """Do what is due; `schedule_.deadline` says when to come back."""
        self._now = now
        self.schedule_.run(now)
        self.flush(now)

    def flush(self, now: float) -> None:
        """End a batch for every connection that was touched."""
        while self._touched:
            touched, self._touched = self._touched, []
            for connection in touched:
                output.flush(connection, now)

    # Frames in

    def receive(self, port: Port, frames: list[memoryview], now: float) -> None:
        """Take a batch of frames from a port; the views are not kept."""
        self._now = now
        offset = port.offset
        least = offset + _EXPECTED.size
        connections, unpack = self.connections, _EXPECTED.unpack_from
        for frame in frames:
            if len(frame) >= least:
                (
                    eth,
                    version,
                    total,
                    fragment,
                    protocol,
                    key,
                    seq,
                    ack,
                    bits,
                    window,
                    word,
                    tsval,
                ) = unpack(frame, offset)
                connection = connections.get(key)
                if connection is not None and connection.timestamps:
                    path = connection.path
                    station = path.station  # type: ignore[attr-defined]
                    end = offset + ethernet.SIZE + total
                    if (
                        eth == path.eth_in  # type: ignore[attr-defined]
                        and station.port is port
                        and protocol == ipv4.PROTOCOL_TCP
                        and version == ipv4.VERSION
                        and not fragment & _FRAGMENTED
                        and bits & 0xF000 == _TIMESTAMPED
                        and word == tcp.TIMESTAMPS_WORD
                        and least <= end + 4 <= len(frame) + 4
                        and (
                            (offset and frame[0] & _TRUSTED) or path.verify(frame, offset + 34, end)  # type: ignore[attr-defined]
                        )
                        and predict(
                            connection,
                            seq,
                            ack,
                            bits & tcp.FLAGS,
                            window,
                            tsval,
                            frame[offset + 66 : end],
                            now,
                        )
                    ):
                        station.seen = now
                        continue
            self._frame(port, frame, offset, now)
        self.flush(now)

    def _frame(self, port: Port, frame: memoryview, offset: int, now: float) -> None:
        if len(frame) < offset + ethernet.SIZE:
            self.counters.malformed += 1
            return
        destination, source, kind = ethernet.HEADER.unpack_from(frame, offset)
        if ethernet.is_multicast(source) or source == self.config.mac:
            self.counters.malformed += 1
            return
        station = self.switch.learn(source, port, now)
        if station is None:
            self.counters.stations_refused += 1
            return
        to_us = destination == self.config.mac
        if not to_us:
            self.switch.forward(port, frame)
        if to_us or ethernet.is_multicast(destination):
            packet = frame[offset + ethernet.SIZE :]
            if kind == ethernet.TYPE_IPV4:
                self._ipv4(station, packet, bool(offset and frame[0] & _TRUSTED), to_us, now)
            elif kind == ethernet.TYPE_ARP:
                self._arp(station, packet)
            else:
                self.counters.unknown_protocol += 1

    def in_subnet(self, address: bytes) -> bool:
        """Tell whether an address belongs to the virtual network."""
        return int.from_bytes(address, "big") & self.config.mask == self.config.network

    def _learn_address(self, address: bytes, station: Station) -> None:
        if address in self.config.owned or not self.in_subnet(address):
            return
        self.neighbours[address] = station
        unresolved = self._unresolved.pop(address, None)
        if unresolved is not None:
            for path in unresolved.paths:
                connection = self.connections.get(path.key)
                path.attach(station, self.config.mac)
                if connection is not None and connection.state is State.SYN_SENT:
                    output.emit_syn(connection, self._now)

    def _arp(self, station: Station, packet: memoryview) -> None:
        if len(packet) < arp.PACKET.size:
            self.counters.malformed += 1
            return
        *prefix, operation, sender_mac, sender, _, target = arp.PACKET.unpack_from(packet)
        if tuple(prefix) != arp.PREFIX or sender_mac != station.mac:
            self.counters.malformed += 1
            return
        if len(self.neighbours) < MAX_CONNECTIONS:
            self._learn_address(sender, station)
        if operation == arp.REQUEST:
            self.counters.arp_requests += 1
            if target in self.config.owned:
                self._send_arp(arp.REPLY, station, target, sender)
        else:
            self.counters.arp_replies += 1

    def _send_arp(self, operation: int, station: Station, source: bytes, target: bytes) -> None:
        mac = self.config.mac
        eth = ethernet.HEADER.pack(station.mac, mac, ethernet.TYPE_ARP)
        body = arp.build(operation, mac, source, station.mac, target)
        station.port.send(vnet.PLAIN, eth + body)

    def _resolve(self, path: TcpPath) -> None:
        """Ask for the MAC of a guest we have not heard of; its segments are lost meanwhile."""
        if path.guest in self.neighbours:
            path.attach(self.neighbours[path.guest], self.config.mac)
            return
        self.counters.unresolved += 1
        unresolved = self._unresolved.setdefault(path.guest, _Unresolved())
        if path not in unresolved.paths:
            unresolved.paths.append(path)
        if self._now - unresolved.asked >= ARP_INTERVAL:
            unresolved.asked = self._now
            everyone = ethernet.HEADER.pack(ethernet.BROADCAST, self.config.mac, ethernet.TYPE_ARP)
            body = arp.build(
                arp.REQUEST, self.config.mac, self.config.gateway, bytes(6), path.guest
            )
            for port in list(self.switch.ports.values()):
                port.send(vnet.PLAIN, everyone + body)

    def _ipv4(
        self, station: Station, packet: memoryview, trusted: bool, to_us: bool, now: float
    ) -> None:
        counters = self.counters
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
        if not self.in_subnet(source) or source in self.config.owned:
            # A guest without an address may speak DHCP and nothing else.
            if any(source) or protocol != ipv4.PROTOCOL_UDP:
                counters.ip_invalid_source += 1
                return
        elif to_us:
            self._learn_address(source, station)
        counters.ip_in += 1
        payload = packet[size:total]
        quote = bytes(packet[: min(size + 8, total)])
        if fragment & _FRAGMENTED:
            counters.fragments_in += 1
            key = source + destination + bytes((protocol,)) + ident.to_bytes(2, "big")
            whole = self._reassembler.add(key, fragment, payload, now)
            counters.reassembly_failures = self._reassembler.failures
            if whole is None:
                return
            counters.reassembled += 1
            payload, trusted = memoryview(whole), False
        if protocol == ipv4.PROTOCOL_UDP:
            self._udp(station, source, destination, payload, trusted, quote, now)
        elif not to_us:
            pass  # a broadcast of something that answers nobody
        elif protocol == ipv4.PROTOCOL_TCP:
            self._tcp(station, source, destination, payload, trusted, now)
        elif protocol == ipv4.PROTOCOL_ICMP:
            self._icmp(station, source, destination, payload, quote, now)
        else:
            counters.unknown_protocol += 1
            self.send_unreachable(station, icmp.PROTOCOL_UNREACHABLE, quote, destination)

    def _icmp(
        self,
        station: Station,
        source: bytes,
        destination: bytes,
        payload: memoryview,
        quote: bytes,
        now: float,
    ) -> None:
        counters = self.counters
        if len(payload) < icmp.SIZE or not valid(ones_sum(payload, len(payload))):
            counters.malformed += 1
            return
        counters.icmp_in += 1
        kind, _, _, rest = icmp.HEADER.unpack_from(payload)
        if kind != icmp.ECHO_REQUEST:
            return
        body = bytes(payload[icmp.SIZE :])
        if destination in self.config.owned:
            counters.icmp_echo += 1
            reply = icmp.build(icmp.ECHO_REPLY, 0, rest, body)
            self.send_ipv4(station, destination, source, ipv4.PROTOCOL_ICMP, reply)
        elif self.forward_echo is not None:
            request = EchoRequest(
                station, source, destination, rest >> 16, rest & 0xFFFF, body, quote
            )
            self.forward_echo(request, now)

    def _udp(
        self,
        station: Station,
        source: bytes,
        destination: bytes,
        payload: memoryview,
        trusted: bool,
        quote: bytes,
        now: float,
    ) -> None:
        counters = self.counters
        if len(payload) < udp.SIZE:
            counters.malformed += 1
            return
        source_port, port, length, given = udp.HEADER.unpack_from(payload)
        if not udp.SIZE <= length <= len(payload):
            counters.malformed += 1
            return
        if not trusted and given:
            total = pseudo_header(source + destination, ipv4.PROTOCOL_UDP) + length
            if not valid(total + ones_sum(payload[:length], length)):
                counters.udp_checksum_errors += 1
                return
        counters.udp_in += 1
        datagram = Datagram(
            station, source, source_port, destination, port, payload[udp.SIZE : length], quote
        )
        handler = self.datagram_handlers.get((destination, port))
        if handler is None:
            if destination == self.config.gateway:
                counters.udp_unreachable += 1
                self.send_unreachable(station, icmp.PORT_UNREACHABLE, quote, destination)
                return
            handler = self.forward_udp
        if handler is not None and (any(source) or port == 67):
            handler(datagram, now)

    def _tcp(
        self,
        station: Station,
        source: bytes,
        destination: bytes,
        payload: memoryview,
        trusted: bool,
        now: float,
    ) -> None:
        length = len(payload)
        if length < tcp.SIZE:
            self.tcp_counters.invalid += 1
            return
        _, port, seq, ack, bits, window, _, _ = tcp.HEADER.unpack_from(payload)
        size = (bits >> 12) * 4
        if not tcp.SIZE <= size <= length:
            self.tcp_counters.invalid += 1
            return
        if not trusted:
            total = pseudo_header(source + destination, ipv4.PROTOCOL_TCP) + length
            if not valid(total + ones_sum(payload, length)):
                self.tcp_counters.checksum_errors += 1
                return
        segment = input.Segment(
            seq,
            ack,
            bits & tcp.FLAGS,
            window,
            tcp.parse_options(bytes(payload[tcp.SIZE : size])),
            payload[size:],
        )
        key = source + destination + bytes(payload[:4])
        connection = self.connections.get(key)
        if connection is not None and input.may_reopen(connection, segment):
            output.close(connection, output.End.DONE, now)
            connection = None
        if connection is not None:
            path = connection.path
            assert isinstance(path, TcpPath)
            if path.station is not station:
                path.attach(station, self.config.mac)
            input.segment_arrives(connection, segment, now)
            return
        handler = self.listeners.get((destination, port))
        if handler is None and destination != self.config.gateway:
            handler = self.forward_tcp
        if segment.flags & (tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN) != tcp.SYN or handler is None:
            self._reset(station, key, segment)
            return
        if len(self.connections) >= MAX_CONNECTIONS:
            self.counters.connections_refused += 1
            return
        connection = self._connection(key, station, now)
        connection.state = State.LISTEN
        input.segment_arrives(connection, segment, now)
        handler(connection, connection.path, now)  # type: ignore[arg-type]

    def _reset(self, station: Station, key: bytes, segment: input.Segment) -> None:
        reply = input.reset_reply(segment)
        if reply is not None:
            self.tcp_counters.resets_out += 1
            path = TcpPath(self.config.mac, key, station, self._resolve)
            path.send(*reply, 0, b"", b"", 0)

    def _connection(self, key: bytes, station: Station | None, now: float) -> Connection:
        digest = blake2s(key, key=self._secret, digest_size=8).digest()
        # RFC 6528: a clock of 4 µs and a secret function of the connection's ends.
        iss = int.from_bytes(digest[:4], "big") + int(now * 250_000) & 0xFFFFFFFF
        mss = self.config.mtu - ipv4.SIZE - tcp.SIZE
        connection = Connection(
            TcpPath(self.config.mac, key, station, self._resolve),
            self,
            self.tcp_counters,
            mss=mss,
            iss=iss,
            mss_offered=mss,
            ts_offset=int.from_bytes(digest[4:], "big"),
        )
        self.connections[key] = connection
        return connection

    # What flows and services call

    def open_tcp(self, user: User, destination: bytes, port: int, now: float) -> Connection:
        """Open a connection from the gateway to a guest; raises OSError when no port is free."""
        self._now = now
        ends = destination + self.config.gateway + port.to_bytes(2, "big")
        for _ in EPHEMERAL:
            self._ephemeral = (self._ephemeral + 1) % len(EPHEMERAL)
            key = ends + EPHEMERAL[self._ephemeral].to_bytes(2, "big")
            if key not in self.connections:
                break
        else:
            raise OSError("no free port toward the guest")
        connection = self._connection(key, self.neighbours.get(destination), now)
        connection.user = user
        calls.open_active(connection, now)
        return connection

    def send_udp(
        self,
        station: Station,
        source: bytes,
        source_port: int,
        destination: bytes,
        destination_port: int,
        payload: bytes,
        *,
        mac: bytes | None = None,
    ) -> None:
        """Send a datagram to a guest, in fragments if it has to be; `mac` overrides its own."""
        self.counters.udp_out += 1
        length = udp.SIZE + len(payload)
        pseudo = pseudo_header(source + destination, ipv4.PROTOCOL_UDP) + length
        port = station.port
        if length + ipv4.SIZE <= self.config.mtu and port.offload & Offload.CSUM:
            self.counters.ip_out += 1
            header = (
                ethernet.HEADER.pack(mac or station.mac, self.config.mac, ethernet.TYPE_IPV4)
                + ipv4.build_header(source, destination, ipv4.PROTOCOL_UDP, length)
                + udp.HEADER.pack(source_port, destination_port, length, pseudo % 0xFFFF)
            )
            port.send(_UDP_CHECKSUM_ONLY, header, payload)
            return
        head = udp.HEADER.pack(source_port, destination_port, length, 0)
        total = pseudo + ones_sum(head, udp.SIZE) + ones_sum(payload, len(payload))
        head = udp.HEADER.pack(source_port, destination_port, length, checksum(total))
        self.send_ipv4(station, source, destination, ipv4.PROTOCOL_UDP, head + payload, mac=mac)

    def send_ipv4(
        self,
        station: Station,
        source: bytes,
        destination: bytes,
        protocol: int,
        payload: bytes,
        *,
        mac: bytes | None = None,
    ) -> None:
        """Send a complete transport message, in fragments where it is larger than the MTU."""
        self.counters.ip_out += 1
        eth = ethernet.HEADER.pack(mac or station.mac, self.config.mac, ethernet.TYPE_IPV4)
        if ipv4.SIZE + len(payload) <= self.config.mtu:
            header = ipv4.build_header(source, destination, protocol, len(payload))
            station.port.send(vnet.PLAIN, eth + header, payload)
            return
        identification = next(self._identification) & 0xFFFF
        step = (self.config.mtu - ipv4.SIZE) & ~7
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
            self.counters.fragments_out += 1
            station.port.send(vnet.PLAIN, eth + header, piece)

    def send_unreachable(
        self, station: Station, code: int, quote: bytes, source: bytes | None = None
    ) -> None:
        """Tell a guest that its packet, quoted, did not arrive (RFC 792, RFC 1122 §3.2.2.1)."""
        self.counters.icmp_out += 1
        message = icmp.build(icmp.UNREACHABLE, code, 0, quote)
        self.send_ipv4(
            station, source or self.config.gateway, quote[12:16], ipv4.PROTOCOL_ICMP, message
        )

    def refuse_unreachable(self, connection: Connection, code: int, now: float) -> None:
        """End a connection still in LISTEN with an ICMP error instead of an answer."""
        path = connection.path
        assert isinstance(path, TcpPath)
        if path.station is not None and connection.state is State.LISTEN:
            quote = ipv4.build_header(path.guest, path.address, ipv4.PROTOCOL_TCP, tcp.SIZE)
            quote += path.key[8:12] + (connection.irs & 0xFFFFFFFF).to_bytes(4, "big")
            self.send_unreachable(path.station, code, quote)
        calls.drop(connection, now)
