"""A guest for flows: a second stack at the other end of a cable, whose TCP is the same engine.

Its packets are the real ones, so what a test sees is what a kernel would; what a kernel itself
makes of it is shown by tests/system.
"""

import errno
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from gvproxy.flows.destinations import Destinations
from gvproxy.flows.echo import EchoFlows
from gvproxy.flows.tcp import TcpFlows
from gvproxy.flows.udp import UdpFlows
from gvproxy.limits import Limits, Quotas
from gvproxy.rules import Rule
from gvproxy.stack.ip import Packet
from gvproxy.stack.port import StackConfig
from gvproxy.stack.stack import Stack
from gvproxy.stack.udp import Datagram
from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.states import End
from gvproxy.wire import ethernet, ipv4
from gvproxy.wire.checksum import checksum, ones_sum
from taplink.vnet import Offload
from tests.manual_loop import ManualLoop

GATEWAY, GUEST, HOST, OUTSIDE, METADATA = map(
    socket.inet_aton,
    ("192.168.127.1", "192.168.127.2", "192.168.127.254", "192.0.2.1", "169.254.169.254"),
)
GATEWAY_MAC, MAC = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"
CONNECT_TIMEOUT = 60.0
_ALL = int(Offload.CSUM | Offload.TSO4 | Offload.USO4)


class Cable:
    """One end: what is sent here arrives at the other end's stack with the loop's next turn."""

    def __init__(self, loop: ManualLoop, there: Stack) -> None:
        self.number, self.offset, self.offload = -1, 12, _ALL
        self.congested = self.attached = False
        self.carried = 0
        self.left, self.identity = 0.0, ""
        self.other: Cable
        self.sent = 0
        self.cut = False
        """What is sent is lost."""
        self._loop = loop
        self._there = there
        self._frames: list[bytes] = []

    def flush(self) -> None:
        pass

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        self.sent += 1
        if self.cut:
            return True
        if not self._frames:
            self._loop.call_soon(self._arrive)
        self._frames.append(meta + header + bytes(payload))
        return True

    def _arrive(self) -> None:
        frames, self._frames = self._frames, []
        views = [memoryview(frame) for frame in frames]
        while views:
            del views[: self._there.receive(self.other, views, self._loop.now)]


class Socket:
    """A connection as an application in the guest has it."""

    def __init__(self, guest: "Guest", *, reads: bool = True) -> None:
        self._guest = guest
        self.connection: Connection
        self.reads = reads
        self.data = b""
        self.held = 0
        self.told: list[str] = []

    def established(self, now: float) -> None:
        self.told.append("established")

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        data = b"".join(views)
        self.data += data
        if not self.reads:
            self.held += len(data)
            return 0
        return len(data)

    def received_eof(self, now: float) -> None:
        self.told.append("eof")

    def writable(self, now: float) -> None:
        pass

    def ended(self, end: End, now: float) -> None:
        self.told.append(end.name)

    def accept(self, connection: Connection, path: object, now: float) -> None:
        """Be the user of a connection from the host."""
        self.connection = connection
        connection.user = self
        calls.accept(connection, now)

    def send(self, data: bytes) -> None:
        calls.send(self.connection, data, self._guest.loop.now)

    def read(self) -> None:
        """Take what was not read so far, and all that comes."""
        self.reads = True
        held, self.held = self.held, 0
        calls.consumed(self.connection, held, self._guest.loop.now)

    def shutdown(self) -> None:
        calls.shutdown(self.connection, self._guest.loop.now)

    def reset(self) -> None:
        self.connection.user = None
        calls.abort(self.connection, self._guest.loop.now)


class Guest:
    """A guest, the host's stack and its flows; `unreachable` has the ICMP errors it was sent."""

    def __init__(
        self,
        loop: ManualLoop,
        *,
        tcp_limit: int = 4096,
        limits: Limits | None = None,
        nat: Mapping[str, str] | None = None,
        rules: Sequence[Rule] = (),
    ) -> None:
        self.loop = loop
        self.quotas = Quotas(limits)
        self.host = self._stack(GATEWAY, GATEWAY_MAC, 0xFFFFFF00, self.quotas)
        self.stack = self._stack(GUEST, MAC, 0)
        here, there = Cable(loop, self.host), Cable(loop, self.stack)
        self._here = here
        here.other, there.other = there, here
        self.stack.attach(here)
        self.host.attach(there)
        self.host_port = there
        self.gateway = self.stack.switch.learn(GATEWAY_MAC, here, loop.now)
        assert self.gateway is not None
        for address in (GATEWAY, HOST, OUTSIDE, METADATA):
            self.stack.neighbours.learn(address, self.gateway, loop.now)
        station = self.host.switch.learn(MAC, there, loop.now)
        assert station is not None
        self.station = station
        self.host.neighbours.learn(GUEST, station, loop.now)
        self.unreachable: list[tuple[bytes, int, bytes]] = []
        self.echoes: list[tuple[bytes, bytes]] = []
        self.stack.ip.protocols[1] = self._icmp
        table = {"192.168.127.254": "127.0.0.1"} | dict(nat or {})
        destinations = self.destinations = Destinations(
            {IPv4Address(one): IPv4Address(other) for one, other in table.items()},
            IPv4Network("192.168.127.0/24"),
            rules=rules,
        )
        as_loop = loop.as_loop()
        self.tcp = TcpFlows(self.host, as_loop, destinations, CONNECT_TIMEOUT, tcp_limit)
        self.udp = UdpFlows(self.host, as_loop, destinations, self.quotas)
        self.echo = EchoFlows(self.host, as_loop, destinations, self.quotas)

    def _stack(self, address: bytes, mac: bytes, mask: int, quotas: Quotas | None = None) -> Stack:
        network = int.from_bytes(address, "big") & mask
        config = StackConfig(mac, address, network, mask, frozenset({address}))
        return Stack(config, secret=bytes(32), wake=lambda at: None, quotas=quotas)

    def _icmp(self, packet: Packet, now: float) -> None:
        message = bytes(packet.payload)
        if message[0] == 3:
            self.unreachable.append((packet.source, message[1], message[8:]))
        else:
            self.echoes.append((packet.source, message))

    def connect(self, address: bytes, port: int, *, reads: bool = True) -> Socket:
        sock = Socket(self, reads=reads)
        sock.connection = self.stack.connections.open(sock, address, port, self.loop.now)
        return sock

    def ip(self, destination: bytes, protocol: int, payload: bytes) -> None:
        assert self.gateway is not None
        self.stack.ip.send(self.gateway, GUEST, destination, protocol, payload)

    def frame(
        self,
        destination: bytes,
        protocol: int,
        payload: bytes,
        *,
        mac: bytes = MAC,
        source: bytes = GUEST,
        fragment: int = 0,
        options: bytes = b"",
    ) -> None:
        """Have the gateway take a packet that no kernel makes; all fragments are of one."""
        header = ipv4.build_header(
            source, destination, protocol, len(options) + len(payload), fragment=fragment
        )
        if options:
            header = bytes((header[0] + len(options) // 4,)) + header[1:10] + bytes(2) + header[12:]
            total = ones_sum(header + options, ipv4.SIZE + len(options))
            header = header[:10] + checksum(total).to_bytes(2, "big") + header[12:] + options
        eth = ethernet.HEADER.pack(GATEWAY_MAC, mac, ethernet.TYPE_IPV4)
        frame = memoryview(bytes(12) + eth + header + payload)
        self.host.receive(self.host_port, [frame], self.loop.now)
        self.loop.run()

    def plug_in_again(self, identity: str = "") -> None:
        """Come back through another port, after the link was lost."""
        self.host.detach(self.host_port, self.loop.now)
        self.host_port.cut = True
        there = Cable(self.loop, self.stack)
        there.other, self._here.other, there.identity = self._here, there, identity
        self.host.attach(there)
        self.host_port = there

    def send_to(self, destination: bytes, port: int, payload: bytes, source_port: int) -> None:
        assert self.gateway is not None
        self.stack.udp.send(self.gateway, GUEST, source_port, destination, port, payload)

    def bind(self, port: int) -> list[tuple[bytes, int, bytes]]:
        """Return the list that datagrams to `port` of the guest will be in."""
        got: list[tuple[bytes, int, bytes]] = []

        def take(datagram: Datagram, now: float) -> None:
            got.append((datagram.packet.source, datagram.source_port, bytes(datagram.payload)))

        self.stack.udp.handlers[GUEST, port] = take
        return got

    def tick(self, seconds: float) -> None:
        """Let time pass for loop and stacks."""
        self.loop.advance(seconds)
        for stack in (self.stack, self.host):
            stack.run_timers(self.loop.now)
        self.loop.run()

    def close(self) -> None:
        """End all flows; nothing may be left in the loop."""
        self.tcp.close()
        self.udp.close()
        self.echo.close()
        self.loop.run()
        assert self.loop.idle
        assert not self.tcp.open
        assert not self.quotas.half_open.used


def linger_reset(sock: socket.socket) -> None:
    """Close a socket with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def is_reset(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        while sock.recv(65536):
            pass
    except OSError as error:
        return error.errno == errno.ECONNRESET
    return False
