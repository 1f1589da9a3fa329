"""A whole stack with four guests: three who do as they like, and one who is honest (`honest`).

The host answers as its services do.  DHCP and DNS are the real ones; users of connections echo,
keep, refuse, or send as much as they may.  A message begins with what it is, the time that passes
first, and a virtio-net header for a guest that has those; then the frame.  Tables are small, so
that a few frames fill them.  What the stack makes of a frame is compared with a second reading
(`judge`).
"""

import socket
from math import inf, isnan
from struct import Struct

from gvproxy.config import configure
from gvproxy.limits import Limit, Limits, Quota
from gvproxy.services.dhcp import DhcpServer
from gvproxy.services.dns import DnsServer
from gvproxy.services.dnsmessage import Query, Rcode, reply
from gvproxy.services.virtual import serve_dhcp, serve_dns
from gvproxy.stack import fragments, gso, neighbours, sessions
from gvproxy.stack.ip import EchoRequest
from gvproxy.stack.path import TcpPath
from gvproxy.stack.sessions import Run
from gvproxy.stack.udp import Datagram
from gvproxy.tcp import calls
from gvproxy.tcp.connection import MAX_SEGMENT, Connection
from gvproxy.tcp.states import ESTABLISHED, LISTEN, End
from gvproxy.wire import icmp, udp
from taplink import vnet
from taplink.vnet import Offload
from tests.fuzz import reading
from tests.fuzz.budget import within
from tests.fuzz.honest import Honest
from tests.fuzz.judge import Judge
from tests.host.services.naming import make_names
from tests.host.stack import bench as lab
from tests.host.stack.bench import GATEWAY, GATEWAY_MAC, GUEST, OTHER

HEAD = Struct(f"!BB{vnet.SIZE}s")
GUESTS = 0x03
"""Which guest: without virtio-net headers, with them and all offloads, or with them and none."""
PLAIN, OFFLOADS, BARE = range(3)
HOST = 3
"""Not a frame: the host does something, which the first byte says."""
MORE = 0x10
"""The next frame, if it is the same guest's, is in the same batch."""
_PASSES = (0, 0, 0, 0, 0.001, 0.005, 0.02, 0.06, 0.2, 0.5, 1.1, 3, 10, 31, 70, 400)
_CONFIG, _NAMES = configure(), make_names()  # neither of which a guest can change
_LIMITS = Limits(
    macs=Limit(32, 8),
    neighbours=Limit(32, 8),
    fragmented_packets=Limit(16, 8),
    connections=Limit(64, 32),
    half_open=Limit(32, 16),
    udp_sessions=Limit(16, 8),
    dhcp_leases=Limit(16, 8),
)
_LIMIT = 8 << 20
_HIGH_WATER = 2 << 20
MAX_BULK = 100_000
"""Bytes that the host sends by itself on a connection."""


class Guest(lab.Port):
    """A port with a queue, as those of `gvproxy.ports` have; it is read while not `stuck`."""

    def __init__(self, bench: lab.Bench, offload: Offload, *, header: bool) -> None:
        super().__init__(offload, header=header)
        self.stuck = False
        self.got: list[bytes] = []
        """The gateway's frames, as they are once the guest's kernel has cut them."""
        self._bench = bench
        self._size = 0
        bench.stack.attach(self)

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        if self._size > _LIMIT:
            return False
        super().send(meta, header, payload)
        self._size += len(header) + len(payload)
        self.congested = self._size > _HIGH_WATER
        return True

    def read(self) -> None:
        """Take all that waits, and look at it."""
        if self.stuck:
            return
        sent, self.sent = self.sent, []
        self._size = 0
        for meta, frame in sent:
            self._look(meta, frame)
        if self.congested:
            self.congested = False
            self._bench.stack.port_ready(self, self._bench.now)

    def _look(self, meta: bytes, frame: bytes) -> None:
        if frame[6:12] != GATEWAY_MAC:
            assert self.offload or len(frame) <= 1518, "a frame of another guest's is too long"
            return
        for one in kernel(meta, frame):
            lab.read(one)
            assert len(one) <= 1514
            self.got.append(one)


def kernel(meta: bytes, frame: bytes) -> list[bytes]:
    """Do what a guest's kernel does with what was left undone."""
    _, kind, _, _, start, _, _ = vnet.HEADER.unpack(meta)
    size = len(frame)
    if kind:
        size = start + (udp.SIZE if kind == vnet.GSO_UDP_L4 else (frame[start + 12] >> 4) * 4)
    return [head + bytes(body) for head, body in gso.complete(meta, frame[:size], frame[size:])]


class Service:
    """The host's end of a guest's connection; the port says how it behaves."""

    def __init__(self, port: int, judge: Judge) -> None:
        self._judge = judge
        self.connection: Connection | None = None
        self.kind = port & 7
        self.held = 0
        self.left = MAX_BULK

    def established(self, now: float) -> None:
        if self.kind == 5:
            self.writable(now)
        if self.kind == 6:
            self.finish(now)

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        size = sum(map(len, views))
        if self.connection is not None:
            self._judge.received(self.connection, views)
        if self.kind == 1:
            self.held += size
            return 0
        c = self.connection
        if self.kind == 0 and c is not None and not c.fin_queued:
            room = c.room(now)
            if room:
                calls.send(c, b"".join(views)[:room], now)
        return size

    def received_eof(self, now: float) -> None:
        if self.kind != 1 and self.connection is not None:
            calls.shutdown(self.connection, now)

    def writable(self, now: float) -> None:
        c = self.connection
        while c is not None and not c.fin_queued and self.left and (room := c.room(now)):
            data = bytes(min(room, self.left, MAX_SEGMENT))
            self.left -= len(data)
            calls.send(c, data, now)

    def ended(self, end: End, now: float) -> None:
        self.connection = None

    def finish(self, now: float) -> None:
        """Let the connection go, as who has closed his socket."""
        c, self.connection = self.connection, None
        if c is not None:
            calls.release(c, now)

    def act(self, what: int, now: float) -> None:
        """Do one of the things that a user may do at any time."""
        c = self.connection
        if c is None:
            return
        match what & 7:
            case 0 if self.held:
                held, self.held = self.held, 0
                calls.consumed(c, held, now)
            case 1 if c.state is ESTABLISHED and not c.fin_queued:
                self.writable(now)
            case 2:
                calls.shutdown(c, now)
            case 3:
                self.finish(now)
            case 4:
                c.user = self.connection = None
                calls.abort(c, now)
            case 5 if c.state is LISTEN:
                calls.accept(c, now)


class Network:
    """The stack, its guests, and what the host has behind it."""

    def __init__(self) -> None:
        self.bench = bench = lab.Bench(limits=_LIMITS)
        self.stack = stack = bench.stack
        stack.detach(bench.port, bench.now)
        self.guests = [
            Guest(bench, Offload.NONE, header=False),
            Guest(bench, lab.ALL | Offload.USO4 | Offload.USO6, header=True),
            Guest(bench, Offload.NONE, header=True),
        ]
        self.services: list[Service] = []
        self._batch: list[bytes] = []
        self._sender = self.guests[0]
        self._serve()
        self.judge = Judge(stack)
        self.honest = Honest(bench)
        stack.connections.forward = self._offer
        stack.connections.listeners[GATEWAY, 80] = self._offer
        for address, port in ((GUEST, 22), (OTHER, 23), (socket.inet_aton("192.168.127.77"), 24)):
            service = Service(port & 1, self.judge)
            self.services.append(service)
            service.connection = stack.connections.open(service, address, port, bench.now)

    def _serve(self) -> None:
        stack = self.stack
        self.dhcp = DhcpServer(
            _CONFIG, lambda now: ["example.org"], self._user, Quota(_LIMITS.dhcp_leases)
        )
        guard = stack.guard
        assert guard is not None
        guard.binding = self.dhcp.owner
        self.dhcp.granted, self.dhcp.is_there = guard.granted, guard.is_there
        serve_dhcp(stack, self.dhcp)
        self.dns = DnsServer(_NAMES, self)  # type: ignore[arg-type]
        serve_dns(stack, self.dns)
        stack.udp.forward = self._datagram
        stack.ip.forward_echo = self._echo

    def _user(self, address: int) -> bytes | None:
        return self.stack.user(address.to_bytes(4, "big"))

    # The host's name servers

    @property
    def resolv_conf(self) -> "Network":
        return self

    def servers(self, now: float) -> tuple[tuple[str, int], ...]:
        return (("192.0.2.53", 53),)

    def forward(
        self, query: Query, message: bytes, answer: object, now: float, owner: object
    ) -> None:
        answer(reply(query, Rcode.SERVFAIL))  # type: ignore[operator]

    # What the host does for guests

    def _offer(self, connection: Connection, path: TcpPath, now: float) -> None:
        self.judge.offered(path)
        service = Service(path.port, self.judge)
        match service.kind:
            case 2:
                calls.abort(connection, now)
                return
            case 3:
                self.stack.connections.unreachable(connection, icmp.PORT_UNREACHABLE, now)
                return
        connection.user, service.connection = service, connection
        self.services.append(service)
        if service.kind != 4:
            calls.accept(connection, now)

    def _datagram(self, datagram: Datagram, now: float) -> None:
        packet = datagram.packet
        self.judge.datagram(datagram)
        assert packet.to_us
        assert any(packet.source)
        assert packet.destination != GATEWAY
        if datagram.port & 1:
            self.stack.ip.send_unreachable(packet, icmp.ADMIN_PROHIBITED)
            return

        owner = packet.station.port

        def leave(run: Run, size: int, now: float) -> None:
            assert owner is self._sender, "another's datagram"
            assert size > 0
            assert all(len(one) % size == 0 for one in run[:-1]), (
                "one that is smaller, not the last"
            )
            assert sum(map(len, run)) <= min(size * sessions.MAX_SEGMENTS, sessions.MAX_PAYLOAD)
            self.judge.run(key, run, size)

        key = packet.source + packet.destination + bytes(packet.payload[:4])
        self.stack.udp.remember(datagram, leave)
        station, source = packet.station, packet.source
        back = packet.destination, datagram.port, source, datagram.source_port
        self.stack.udp.send(station, *back, bytes(datagram.payload), size=1000)

    def _echo(self, request: EchoRequest, now: float) -> None:
        self.judge.echo(request)
        packet, rest = request.packet, request.identifier << 16 | request.sequence
        self.stack.ip.send_echo_reply(
            packet.station, packet.destination, packet.source, rest, request.payload
        )

    # What happens

    def feed(self, message: bytes) -> None:
        """Take one message of an input."""
        if len(message) < HEAD.size:
            return
        what, passes, meta = HEAD.unpack_from(message)
        frame = message[HEAD.size :]
        who = what & GUESTS
        seconds = _PASSES[passes & 15]
        if self._batch and (who == HOST or self.guests[who] is not self._sender or seconds):
            self.receive()
        self.pass_time(seconds)
        if who == HOST:
            self._act(frame[:2].ljust(2, b"\0"))
            return
        self._sender = self.guests[who]
        self._batch.append((meta if self._sender.offset else b"") + frame)
        if not what & MORE:
            self.receive()

    def receive(self) -> None:
        """Give the batch to the stack."""
        batch, self._batch = self._batch, []
        if not batch or not self._sender.attached:
            return
        buffers = [bytearray(frame) for frame in batch]
        everybody = (*self.guests, self.honest.port)
        waiting = [len(port.sent) for port in everybody]
        self.judge.begins(self._sender, batch, self.bench.now)
        before = self.honest.image()
        views = [memoryview(buffer) for buffer in buffers]
        while views and self._sender.attached:
            with within():
                taken = self.stack.receive(self._sender, views, self.bench.now)
            del views[:taken]
        views.clear()
        for buffer in buffers:
            buffer.clear()  # fails where a view is kept
        assert self.honest.image() == before, "another guest has changed a connection"
        said: list[bytes] = []
        for port, count in zip(everybody, waiting, strict=True):
            theirs = [frame for _, frame in port.sent[count:] if frame[6:12] != GATEWAY_MAC]
            assert len(theirs) <= gso.MAX_PIECES * len(batch), "very many frames of few"
            if theirs and len(batch) == 1 and self._sender.offset and not port.offload:
                reading.check_cut(batch[0][: vnet.SIZE], batch[0][vnet.SIZE :], theirs)
            for meta, frame in port.sent[count:]:
                if frame[6:14] == GATEWAY_MAC + b"\x08\0":
                    said += kernel(meta, frame)
        self.judge.ends(said)
        self.honest.hear(quiet=True)
        self.check()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from timer to timer."""
        connections, end = self.stack.connections, self.bench.now + seconds
        for _ in range(20_000):
            if connections.deadline > end:
                break
            self.bench.now = max(self.bench.now, connections.deadline)
            with within():
                self.stack.run_timers(self.bench.now)
            self._read()
        else:
            raise AssertionError("a timer goes off again and again")
        self.bench.now = end
        self._read()

    def _act(self, what: bytes) -> None:
        choice, more = what
        if choice & 0x80:
            guest = self.guests[more % 3]
            match choice & 3:
                case 0:
                    guest.stuck = not guest.stuck
                case 1 if guest.attached:
                    self.stack.detach(guest, self.bench.now)
                case 1:
                    self.stack.attach(guest)
            self._read()
        elif self.services:
            with within():
                self.services[more % len(self.services)].act(choice, self.bench.now)
                self.stack.connections.flush(self.bench.now)
        self.check()

    def _read(self) -> None:
        for guest in self.guests:
            guest.read()
        self.honest.hear()

    def check(self) -> None:
        """Assert that everything is bounded."""
        self._read()
        self.honest.look()
        stack, connections = self.stack, self.stack.connections
        assert len(stack.neighbours._resolutions) <= neighbours.MAX_RESOLUTIONS
        assert not stack.udp.sessions._gathering
        assert all(map(stack.config.is_guest, stack.neighbours._stations))
        assert GATEWAY_MAC not in stack.switch.stations
        reassembler = stack.ip._reassembler
        for parts in reassembler._packets.values():
            assert len(parts.pieces) <= fragments.MAX_PIECES
            assert parts.size == sum(map(len, parts.pieces.values()))
        for held, quota in (
            (stack.switch.stations, stack.switch._quota),
            (stack.neighbours, stack.neighbours._quota),
            (stack.udp.sessions._known, stack.udp.sessions._quota),
            (reassembler, reassembler._quota),
        ):
            assert len(held) == quota.used <= quota.limit.total
            assert quota.shown.most <= quota.limit.guest
        assert not connections._touched
        live = connections.find.values()
        assert connections.timers <= 2 * len(live) + 64
        assert not isnan(connections.deadline)
        kept = sum(
            max(c.out.end - max(c.snd_una, c.iss + 1), 0)
            + c.rcv_held
            + (c.early.size if c.early else 0)
            for c in live
        )
        assert connections.pool.used == kept
        for c in live:
            assert not c.inbox
            assert c.deadline == inf or c.deadline > self.bench.now - 1
        leases = self.dhcp.bound(self.bench.now)
        assert len({lease.address for lease in leases}) == len(leases)

    def finish(self) -> None:
        """End it: the honest guest has what it had, and nobody waits for ever for the others."""
        self.receive()
        self.honest.finish()
        for guest in self.guests:
            guest.stuck = False
        for service in self.services:
            service.finish(self.bench.now)
        self.stack.connections.flush(self.bench.now)
        self.pass_time(4000)
        left = [c for c in self.stack.connections.find.values() if c.user is None]
        assert not left, "connections that nobody has any more are kept"
