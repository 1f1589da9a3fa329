"""TCP toward the guests: which connection a segment is for, and who takes a new one.

`find` is open to the fast path in `stack`; all else goes through `receive`.  Implements
`gvproxy.tcp.connection.Scheduler`.
"""

from collections.abc import Callable
from hashlib import blake2s
from math import inf
from typing import Protocol

from gvproxy.limits import Quotas, Use
from gvproxy.stack.ip import Ip, Packet, Unreachable
from gvproxy.stack.neighbours import Neighbours
from gvproxy.stack.path import TcpPath
from gvproxy.stack.port import Port, StackConfig, StackCounters, Station
from gvproxy.stack.schedule import Schedule
from gvproxy.tcp import calls, input, output, path_errors
from gvproxy.tcp.connection import Connection, Counters, User
from gvproxy.tcp.memory import Memory, Pool
from gvproxy.tcp.states import LISTEN, SYN_SENT, End
from gvproxy.wire import icmp, ipv4, tcp
from gvproxy.wire.checksum import ones_sum, pseudo_header, valid

EPHEMERAL = range(32768, 61000)  # Linux: ip_local_port_range
MAX_DROPS = 200
"""Connections of guests that have gone that are ended at a time, which takes some 10 ms."""
DROPS = 64
"""The same where nobody waits for their place: some 3 ms."""


class TcpHandler(Protocol):
    """Takes a connection in LISTEN: sets its user, and accepts, aborts or drops it, in time."""

    def __call__(self, connection: Connection, path: TcpPath, now: float) -> None: ...


class Connections:
    """All TCP connections of a stack, by the addresses and ports of the guest's packets.

    `listeners` has the services of the gateway, `forward` takes connections to the outside.
    """

    def __init__(
        self,
        config: StackConfig,
        counters: StackCounters,
        ip: Ip,
        neighbours: Neighbours,
        quotas: Quotas,
        secret: bytes,
        wake: Callable[[float], None],
    ) -> None:
        self._config = config
        self._counters = counters
        self._ip = ip
        self._neighbours = neighbours
        self._quota = quotas.connections
        self._half_open_quota = quotas.half_open
        self._half_open: dict[Connection, Port] = {}  # that guests have opened
        self._buffers = quotas.tcp_buffers
        self.pool = Pool(self._buffers.total)
        """What all connections keep."""
        self._memories: dict[Port | None, Memory] = {}
        self._secret = secret
        self._schedule = Schedule(wake)
        self._touched: list[Connection] = []
        # By port number, for its queue to empty; in order, and each of them once.
        self._waiting: dict[int, dict[Connection, None]] = {}
        self._ephemeral = 0
        self._now = 0.0
        self.tcp_counters = Counters()
        self.find: dict[bytes, Connection] = {}
        self.listeners: dict[tuple[bytes, int], TcpHandler] = {}
        self.forward: TcpHandler | None = None
        self.is_another: Callable[[Station, bytes, Port], bool] = lambda was, mac, port: False
        """See `Switch`."""
        ip.protocols[ipv4.PROTOCOL_TCP] = self.receive
        ip.errors[ipv4.PROTOCOL_TCP] = self._told_unreachable

    # What connections need (gvproxy.tcp.connection.Scheduler)

    def touch(self, connection: Connection) -> None:
        if not connection.touched:
            connection.touched = True
            self._touched.append(connection)

    def schedule(self, connection: Connection, deadline: float) -> None:
        self._schedule.add(connection, deadline)

    def handshake_done(self, connection: Connection) -> None:
        owner = self._half_open.pop(connection, None)
        if owner is not None:
            self._half_open_quota.give(owner)

    def forget(self, connection: Connection) -> None:
        path = _path(connection)
        if self.find.get(path.key) is connection:
            del self.find[path.key]
        self.handshake_done(connection)  # or never will be
        self._give(path.owner)
        if self._waiting and path.station is not None:
            self._waiting.get(path.station.port.number, {}).pop(connection, None)
        self._schedule.forget(connection)

    def _give(self, owner: Port | None) -> None:
        self._quota.give(owner)
        if not self._quota.held(owner):
            self._memories.pop(owner, None)

    def wait_for_path(self, connection: Connection) -> None:
        station = _path(connection).station
        if station is not None:
            self._waiting.setdefault(station.port.number, {})[connection] = None

    # What the stack calls

    def hurry(self, now: float) -> bool:
        """Acknowledge what guests in trouble wait for; tell whether there was any."""
        return bool([c for c in self._touched if output.hurry(c, now, 0)])

    def flush(self, now: float) -> None:
        """End a batch for every connection that was touched."""
        while self._touched:
            touched, self._touched = self._touched, []
            for connection in touched:
                if connection.inbox:
                    _path(connection).earn()
                output.flush(connection, now)

    def run_timers(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        self._schedule.run(now)

    @property
    def deadline(self) -> float:
        """When `run_timers` is due; infinite when nothing waits."""
        return self._schedule.deadline

    @property
    def buffered(self) -> Use:
        """Return how many bytes connections keep."""
        most = max((memory.used for memory in self._memories.values()), default=0)
        limit = self._buffers
        return Use(self.pool.used, most, limit.total, limit.guest, self.tcp_counters.refused)

    @property
    def timers(self) -> int:
        """How many entries wait for their time."""
        return len(self._schedule)

    def port_ready(self, port: Port) -> None:
        """Touch the connections that waited for the queue of `port` to empty."""
        for connection in self._waiting.pop(port.number, ()):
            self.touch(connection)

    def receive(self, packet: Packet, now: float) -> None:
        """Take the segment in `packet`."""
        payload, counters = packet.payload, self.tcp_counters
        length = len(payload)
        if length < tcp.SIZE or not packet.to_us:
            counters.invalid += 1
            return
        _, port, seq, ack, bits, window, _, _ = tcp.HEADER.unpack_from(payload)
        size = (bits >> 12) * 4
        if not tcp.SIZE <= size <= length:
            counters.invalid += 1
            return
        ends = packet.source + packet.destination
        if not packet.trusted:
            total = pseudo_header(ends, ipv4.PROTOCOL_TCP) + length
            if not valid(total + ones_sum(payload, length)):
                counters.checksum_errors += 1
                return
        segment = input.Segment(
            seq,
            ack,
            bits & tcp.FLAGS,
            window,
            tcp.parse_options(bytes(payload[tcp.SIZE : size])),
            payload[size:],
        )
        key = ends + bytes(payload[:4])
        connection, station = self.find.get(key), packet.station
        used = None
        if connection is not None:
            path = _path(connection)
            was = path.station
            if was is not station:
                if was is not None and self.is_another(was, station.mac, station.port):
                    output.close(connection, End.RESET, now)  # its guest has lost its address
                    connection = None
                else:
                    path.attach(station)
        if connection is not None and input.may_reopen(connection, segment):
            used = connection.snd_nxt
            output.close(connection, End.DONE, now)
            connection = None
        if connection is None:
            self._no_connection(key, port, packet, segment, used, now)
            return
        station.port.carried += len(segment.payload)
        input.segment_arrives(connection, segment, now)

    def _told_unreachable(self, error: Unreachable, now: float) -> None:
        """Find whose segment a guest's ICMP error is about."""
        ports, seq = error.transport[:4], int.from_bytes(error.transport[4:8], "big")
        key = error.destination + error.source + ports[2:] + ports[:2]
        connection = self.find.get(key)
        if connection is not None:
            station = _path(connection).station
            if station is None or station.port is not error.station.port:
                return
            if error.code == icmp.FRAGMENTATION_NEEDED:
                path_errors.too_large(connection, seq, error.mtu - ipv4.SIZE - tcp.SIZE)
            elif error.code in icmp.HARD:
                path_errors.unreachable(connection, seq, now)

    def _no_connection(
        self,
        key: bytes,
        port: int,
        packet: Packet,
        segment: input.Segment,
        used: int | None,
        now: float,
    ) -> None:
        """Take the first segment of a connection; an earlier one's numbers went up to `used`."""
        if self._config.is_group(packet.destination) or not packet.destination[0]:
            self.tcp_counters.invalid += 1  # RFC 9293 MUST-57
            return
        handler = self.listeners.get((packet.destination, port))
        if handler is None and packet.destination != self._config.gateway:
            handler = self.forward
        syn = segment.flags & (tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN) == tcp.SYN
        if not syn or handler is None:
            reply = input.reset_reply(segment)
            if reply is not None:
                self.tcp_counters.resets_out += 1
                self._path(key, packet.station).send(*reply, 0, b"", b"", 0)
            return
        if not self._admit(packet.station.port, now):
            self._counters.connections_refused += 1
            return
        connection = self._connection(key, packet.station, now, used)
        self._half_open[connection] = packet.station.port
        connection.state = LISTEN
        input.segment_arrives(connection, segment, now)
        handler(connection, _path(connection), now)

    def _admit(self, owner: Port, now: float) -> bool:
        """Tell whether a guest may open another connection; from here on it holds it."""
        if not (self._quota.has_room(owner) and self._half_open_quota.has_room(owner)):
            self._drop_deserted(now)
        if not self._quota.take(owner):
            return False
        if not self._half_open_quota.take(owner):
            self._quota.give(owner)
            return False
        return True

    def _drop_deserted(self, now: float) -> None:
        """End the connections of guests that have gone; those wait for them to come back.

        What a guest finds again that has come back is its own as far as it has room for it.
        """
        if not self._quota.may_search(now):
            return
        dropped = 0
        for connection in list(self.find.values()):
            path = _path(connection)
            if path.owner is None or path.owner.attached:
                continue
            assert path.station is not None  # it has an owner
            port, half_open = path.station.port, connection in self._half_open
            if port.attached and not half_open and self._quota.has_room(port):
                self._move(connection, port)
            elif dropped < MAX_DROPS:
                dropped += 1
                calls.abort(connection, now)

    def _move(self, connection: Connection, owner: Port) -> None:
        """Have a connection be another port's, and what it keeps."""
        path, kept = _path(connection), output.kept(connection)
        connection.memory.keep(-kept)
        self._give(path.owner)
        self._quota.hold(owner)
        path.owner = owner
        connection.memory = self._memory(owner)
        connection.memory.keep(kept)

    def drop_deserted(self, before: float, now: float) -> float:
        """End a few connections of guests that went at `before` at the latest, and are not back.

        Returns when the next one went whose connections wait, which is no later where there are
        more to be ended; infinity where there is none.
        """
        deserted: list[Connection] = []
        next_left = inf
        for connection in self.find.values():
            station = _path(connection).station
            if station is None or station.port.attached:
                continue
            left = station.port.left
            if left > before:
                next_left = min(next_left, left)
            elif len(deserted) < DROPS:
                deserted.append(connection)
            else:
                next_left = left
                break
        for connection in deserted:
            output.close(connection, End.TIMED_OUT, now)
        return next_left

    def _memory(self, owner: Port | None) -> Memory:
        memory = self._memories.get(owner)
        if memory is None:
            limit = self.pool.limit if owner is None else self._buffers.guest
            memory = self._memories[owner] = Memory(self.pool, limit)
        return memory

    def _path(self, key: bytes, station: Station | None) -> TcpPath:
        return TcpPath(self._config.mac, key, station, self._resolve)

    def _connection(
        self, key: bytes, station: Station | None, now: float, used: int | None = None
    ) -> Connection:
        digest = blake2s(key, key=self._secret, digest_size=8).digest()
        if used is None:
            # RFC 6528: a clock of 4 µs and a secret function of the connection's ends.
            iss = int.from_bytes(digest[:4], "big") + int(now * 250_000) & 0xFFFFFFFF
        else:
            # In TIME-WAIT's place, behind all of its numbers (RFC 9293 MAY-2).
            iss = used + 1 + int.from_bytes(digest[:3], "big") & 0xFFFFFFFF
        mss = self._config.mtu - ipv4.SIZE - tcp.SIZE
        path = self._path(key, station)
        connection = self.find[key] = Connection(
            path,
            self,
            self.tcp_counters,
            self._memory(path.owner),
            mss=mss,
            iss=iss,
            mss_offered=mss,
            keepalive=self._config.keepalive,
            ts_offset=int.from_bytes(digest[4:], "big"),
        )
        return connection

    # What flows and services call

    def outlive(self, owner: Port | None, count: int) -> None:
        """Have a guest hold a connection on that is over, with `count` bytes it has left behind."""
        self._quota.hold(owner)
        self._memory(owner).keep(count)

    def give_back(self, owner: Port | None, count: int) -> None:
        """Take that back."""
        self._memory(owner).keep(-count)
        self._give(owner)

    def open(self, user: User, destination: bytes, port: int, now: float) -> Connection:
        """Open a connection from the gateway to a guest; raises OSError where it cannot be."""
        self._now = now
        if not self._config.is_guest(destination):
            raise OSError("no guest has such an address")
        ends = destination + self._config.gateway + port.to_bytes(2, "big")
        for _ in EPHEMERAL:
            self._ephemeral = (self._ephemeral + 1) % len(EPHEMERAL)
            key = ends + EPHEMERAL[self._ephemeral].to_bytes(2, "big")
            if key not in self.find:
                break
        else:
            raise OSError("no free port toward the guest")
        station = self._neighbours.get(destination)
        if not self._quota.take(None if station is None else station.port):
            raise OSError("there are too many connections")
        connection = self._connection(key, station, now)
        connection.user = user
        calls.open_active(connection, now)
        return connection

    def _resolve(self, path: TcpPath) -> None:
        self._neighbours.resolve(path.guest, self._resolved, self._now)

    def _resolved(self, address: bytes, station: Station, now: float) -> None:
        for connection in self.find.values():
            path = _path(connection)
            if path.station is None and path.guest == address:
                path.attach(station)
                if connection.state is SYN_SENT:
                    connection.snd_nxt = connection.iss  # none has left yet
                    output.emit_syn(connection, now)

    def unreachable(self, connection: Connection, code: int, now: float) -> None:
        """End a connection still in LISTEN with an ICMP error instead of an answer."""
        path = _path(connection)
        if path.station is not None and connection.state is LISTEN:
            quote = ipv4.build_header(path.guest, path.address, ipv4.PROTOCOL_TCP, tcp.SIZE)
            quote += path.key[8:12] + (connection.irs & 0xFFFFFFFF).to_bytes(4, "big")
            source = path.address if code == icmp.PORT_UNREACHABLE else self._config.gateway
            self._ip.send_error(path.station, source, code, quote)
        calls.drop(connection, now)


def _path(connection: Connection) -> TcpPath:
    path = connection.path
    assert isinstance(path, TcpPath)
    return path
