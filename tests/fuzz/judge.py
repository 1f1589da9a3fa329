"""Compares what the stack makes of a guest's frames with a second reading of them (`reading`).

`begins` and `ends` stand around a batch.  In between, whatever the stack passes on has to be in the
batch's frames, or in fragments that came before: packets, datagrams, pings, ICMP errors, the bytes
of connections.  What answers quote has been sent, and a batch in which nothing is valid changes
nothing.  Outside of a batch nothing is judged.
"""

from collections.abc import Callable, Sequence
from functools import partial

from gvproxy.stack import ip, udp
from gvproxy.stack.fragments import TIMEOUT
from gvproxy.stack.ip import EchoRequest, Unreachable
from gvproxy.stack.path import TcpPath
from gvproxy.stack.sessions import Run
from gvproxy.stack.stack import Stack
from gvproxy.stack.udp import Datagram
from gvproxy.tcp.connection import Connection
from tests.fuzz import reading
from tests.fuzz.reading import Packet, Segment, number
from tests.host.stack import bench as lab

_SYN = 2
_UNREACHABLE, _ECHO_REPLY = 3, 0
_MOST = 65535 - 20

Piece = tuple[int, bytes, bool, float]
"""A fragment: where it belongs, its bytes, whether more follow, and when it came."""


class Judge:
    """Stands between the layers of a stack; `place` is made once all its users are there."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._judging = False
        self._port: lab.Port | None = None
        self._packets: list[Packet] = []
        self._taken: list[tuple[bytes, bytes]] = []  # both addresses, and the payload
        self._pieces: dict[tuple[int, bytes], list[Piece]] = {}
        self._segments: dict[bytes, list[Segment]] = {}
        self._delivered: dict[Connection, int] = {}
        self._now = 0.0
        self._before: object = None
        for protocol, handler in stack.ip.protocols.items():
            stack.ip.protocols[protocol] = partial(self._packet, protocol, handler)
        for protocol, told in stack.ip.errors.items():
            stack.ip.errors[protocol] = partial(self._error, protocol, told)
        for where, take in stack.udp.handlers.items():
            stack.udp.handlers[where] = partial(self._served, take)

    # Around a batch

    def begins(self, port: lab.Port, frames: Sequence[bytes], now: float) -> None:
        """Read the frames that `port` is about to hand in."""
        self._judging, self._port, self._now = True, port, now
        found = (reading.packet(f[: port.offset], f[port.offset :]) for f in frames)
        self._packets = [one for one in found if one is not None and one.mac != lab.GATEWAY_MAC]
        self._taken = []
        for one in self._packets:
            if not one.whole:
                piece = one.offset, one.payload, one.more, now
                self._pieces.setdefault((port.number, one.key), []).append(piece)
            elif one.to == lab.GATEWAY_MAC and (segment := reading.segment(one)) is not None:
                self._segments.setdefault(one.ends + one.payload[:4], []).append(segment)
        arp = any(reading.is_arp(frame[port.offset :]) for frame in frames)
        worthless = not arp and not any(map(self._counts, self._packets))
        self._before = self.image() if worthless else None

    def ends(self, said: Sequence[bytes]) -> None:
        """Look at what has come of it: `said` are the gateway's IPv4 frames to anybody."""
        if self._before is not None:
            assert self.image() == self._before, "what is not valid has changed something"
            assert not said, "what is not valid was answered"
        for frame in said:
            answer = reading.packet(b"", frame)
            assert answer is not None
            if answer.protocol == reading.TCP:
                assert _is_host(answer.ends[:4]), "an answer from a group"
            if answer.protocol == reading.ICMP and answer.whole:
                self._answer(answer)
        self._judging = False

    def _counts(self, one: Packet) -> bool:
        """Tell whether a packet may change anything, be it that its source becomes known."""
        neighbours, source = self._stack.neighbours, one.ends[:4]
        known = source not in neighbours._resolutions and neighbours._stations.get(source)
        if not one.whole or (one.sound and (not known or known.mac != one.mac)):
            return True
        if one.protocol == reading.TCP:
            return one.to == lab.GATEWAY_MAC and reading.segment(one) is not None
        if one.protocol == reading.UDP:
            return bool(reading.datagrams(one))
        if not one.sound:
            return False
        return one.protocol != reading.ICMP or reading.message(one) is not None

    def image(self) -> object:
        """Return what a guest may change of the stack by what is valid."""
        stack = self._stack
        return (
            {key: image(c) for key, c in stack.connections.find.items()},
            {address: one.mac for address, one in stack.neighbours._stations.items()},
            len(stack.ip._reassembler),
        )

    # What the stack passes on

    def _packet(self, protocol: int, handler: ip.Handler, packet: ip.Packet, now: float) -> None:
        if self._judging:
            self._look_at_packet(protocol, packet, now)
            if packet.to_us:
                self._taken.append((packet.source + packet.destination, bytes(packet.payload)))
        handler(packet, now)

    def _look_at_packet(self, protocol: int, packet: ip.Packet, now: float) -> None:
        assert packet.station.port is self._port
        assert lab.config().is_guest(packet.source) or (
            packet.source == bytes(4) and protocol == reading.UDP
        ), "a packet of nobody's"
        payload, ends = bytes(packet.payload), packet.source + packet.destination
        assert len(payload) <= _MOST, "a packet that no header can tell the length of"
        for one in self._packets:
            if (one.ends, one.protocol, one.mac) != (ends, protocol, packet.station.mac):
                continue
            if not one.sound or packet.to_us != (one.to == lab.GATEWAY_MAC):
                continue
            if one.whole:
                if one.payload == payload and one.meta == packet.meta:
                    return
            elif not packet.meta and self._is_whole(one.key, payload, now):
                return
        raise AssertionError("a packet that nobody has sent")

    def _is_whole(self, key: bytes, payload: bytes, now: float) -> bool:
        """Tell whether fragments that came make a payload, from its first byte to the last."""
        assert self._port is not None
        pieces = self._pieces.get((self._port.number, key), [])
        places = {0}
        for offset, data, more, since in sorted(pieces):
            end = offset + len(data)
            fits = offset in places and now - since <= TIMEOUT and data == payload[offset:end]
            if fits and (more or end == len(payload)):
                places.add(end)
        lasts = {offset + len(data) for offset, data, more, _ in pieces if not more}
        return len(payload) in places & lasts

    def _error(
        self, protocol: int, handler: Callable[[Unreachable, float], None], error: Unreachable,
        now: float,
    ) -> None:  # fmt: skip
        """Judge what is passed on of a guest's "destination unreachable"."""
        if not self._judging:
            handler(error, now)
            return
        _, message = self._taken[-1]
        assert message[:1] == b"\3", "what everybody is told is believed"
        quote = message[8:]
        size = (quote[0] & 15) * 4
        assert (error.code, error.mtu) == (message[1], number(message, 6))
        assert len(quote) >= size + 8, "less is quoted than has to be"
        assert size >= 20
        assert quote[0] >> 4 == 4
        assert quote[9] == protocol
        assert quote[12:20] == error.source + error.destination
        assert quote[size:] == error.transport
        ports, seq = quote[size : size + 4], number(quote, size + 4, 4)
        key = error.destination + error.source + ports[2:] + ports[:2]
        connection = self._stack.connections.find.get(key)
        before = None if connection is None else image(connection)
        flying = connection is not None and _is_flying(connection, seq)
        handler(error, now)
        if connection is not None and not flying:
            assert image(connection) == before, "an error about what is not on its way"

    def _served(self, take: udp.DatagramHandler, datagram: Datagram, now: float) -> None:
        self.datagram(datagram)
        take(datagram, now)

    def datagram(self, datagram: Datagram) -> None:
        """Judge a datagram that came the long way."""
        if not self._judging:
            return
        packet = datagram.packet
        ports, body = bytes(packet.payload[:4]), bytes(datagram.payload)
        assert (datagram.source_port, datagram.port) == (number(ports, 0), number(ports, 2))
        one = Packet(b"", b"", packet.meta, bytes(packet.head[:20]), bytes(packet.payload))
        assert body in reading.datagrams(one), "a datagram that nobody has sent"

    def run(self, key: bytes, run: Run, size: int) -> None:
        """Judge datagrams that came the short way: each of `size`, but for a smaller last one."""
        sent: list[bytes] = []
        for one in self._packets:
            if one.whole and one.ends + one.payload[:4] == key and one.to == lab.GATEWAY_MAC:
                sent += reading.datagrams(one)
        for view in map(bytes, run):
            for at in range(0, len(view), size):
                assert view[at : at + size] in sent, "a datagram that nobody has sent"

    def echo(self, request: EchoRequest) -> None:
        """Judge a ping to the outside."""
        body = bytes(request.packet.payload)
        assert request.packet.to_us, "a ping to everybody is passed on"
        assert body[0] == 8
        head = request.identifier.to_bytes(2, "big") + request.sequence.to_bytes(2, "big")
        assert body[4:] == head + request.payload

    def offered(self, path: TcpPath) -> None:
        """Judge a connection that a guest opens."""
        assert _is_host(path.address), "a connection to a group"
        where = path.address, path.port
        assert where in self._stack.connections.listeners or where[0] != lab.GATEWAY
        for one in self._packets:
            if one.ends + one.payload[:4] == path.key and one.sound and one.whole:
                segment = reading.segment(one)
                if segment is not None and segment.flags & 0x17 == _SYN:
                    return
        raise AssertionError("a connection that nobody has opened")

    def received(self, connection: Connection, views: list[memoryview | bytes]) -> None:
        """Judge the next bytes of a connection: each of them was sent, for that very place."""
        path = connection.path
        assert isinstance(path, TcpPath)
        segments = self._segments.get(path.key, [])
        start = self._delivered.get(connection, 0)
        data = b"".join(views)
        self._delivered[connection] = start + len(data)
        first, at = connection.irs + 1 + start, 0
        while at < len(data):
            at += (
                max((_covers(one, first + at, data[at:]) for one in segments), default=0) or _lie()
            )

    # What answers say

    def _answer(self, answer: Packet) -> None:
        body = reading.message(answer)
        assert body is not None
        back = answer.ends[4:] + answer.ends[:4]
        if body[0] == _ECHO_REPLY:
            assert any(
                ends == back and sent[0] == 8 and sent[4:] == body[4:] for ends, sent in self._taken
            ), "a ping that nobody has sent is answered"
            return
        assert body[0] == _UNREACHABLE
        assert _is_host(answer.ends[:4]), "an answer from a group"
        quote = body[8:]
        size = (quote[0] & 15) * 4
        assert size >= 20
        assert len(quote) <= size + 8
        assert quote[12:16] == answer.ends[4:] != bytes(4)
        assert not lab.config().is_group(quote[16:20]), "what is for a group is answered"
        sent = {(ends, payload[:8]) for ends, payload in self._taken}
        ours = [one for one in self._packets if one.to == lab.GATEWAY_MAC]
        sent |= {(one.ends, one.payload[:8]) for one in ours}
        for (_, key), pieces in self._pieces.items():
            sent |= {(key[:8], payload[:8]) for offset, payload, *_ in pieces if not offset}
        assert (quote[12:20], quote[size:]) in sent, "an answer quotes what nobody has sent"
        if quote[9] != reading.TCP:  # of which the header is made anew
            assert quote[:size] in [one.header for one in ours], (
                "an answer quotes another packet's header"
            )


def image(c: Connection) -> tuple[object, ...]:
    """Return what a segment, or an error, changes of a connection."""
    numbers = c.state, c.snd_una, c.snd_nxt, c.snd_wnd, c.rcv_nxt, c.rcv_held, c.out.end
    return (*numbers, c.mss, c.congestion.cwnd, c.challenge_at)


def _is_host(address: bytes) -> bool:
    return 0 < address[0] < 224 and address != bytes((*lab.GATEWAY[:3], 255))


def _is_flying(c: Connection, seq: int) -> bool:
    return (seq - c.snd_una) % (1 << 32) < c.snd_nxt - c.snd_una


def _covers(one: Segment, seq: int, data: bytes) -> int:
    """Return how many bytes of `data`, which is to begin at `seq`, a segment has."""
    into = (seq - one.seq - bool(one.flags & _SYN)) % (1 << 32)
    count = min(len(one.data) - into, len(data))
    return count if count > 0 and one.data[into : into + count] == data[:count] else 0


def _lie() -> int:
    raise AssertionError("a connection has bytes that nobody has sent there")
