"""A guest that others may not harm: its connections go on, and nobody speaks in its name.

It has one connection that is idle, one whose data is under way, one that the gateway is opening,
and a session over UDP.  As a kernel does, it answers when it is asked for its address.
"""

import socket

from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.states import CLOSED
from tests.fuzz import reading
from tests.fuzz.judge import image
from tests.fuzz.reading import number
from tests.host.services.dhcpclient import message
from tests.host.stack import bench as lab
from tests.host.stack.bench import GATEWAY, GATEWAY_MAC, VIRTUAL
from tests.host.stack.peer import ACK, Peer, User

MAC = bytes.fromhex("5a94efe40cff")
ADDRESS = socket.inet_aton("192.168.127.9")
LEASED = socket.inet_aton("192.168.127.10")
"""An address that it has a lease of, and does not use."""
NOBODYS = {GATEWAY, VIRTUAL, ADDRESS, LEASED, bytes((*GATEWAY[:3], 0)), bytes((*GATEWAY[:3], 255))}
"""What no frame that another guest sends may come from."""
ANSWER = b"answer"
RENEWAL = 1800.0
"""Seconds; half of a lease."""
DATAGRAM = lab.udp(b"hello" * 8, sport=4002, source=ADDRESS, mac=MAC, destination=lab.OUTSIDE)


class Honest:
    """A guest of a bench's."""

    def __init__(self, bench: lab.Bench) -> None:
        self.port = lab.Port()
        bench.stack.attach(self.port)
        self._bench = bench
        self.idle, self.waiting = (self._connect(port) for port in (4000, 4001))
        self._talk()
        calls.send(self.waiting.connection, ANSWER, bench.now)
        self.opening = User()
        opened = bench.stack.connections.open(self.opening, ADDRESS, 22, bench.now)
        self.opening.connection = opened
        bench.stack.connections.flush(bench.now)
        bench.stack.receive(self.port, [memoryview(DATAGRAM)], bench.now)
        self._renew()
        self.port.take()
        self._connections = self.idle.connection, self.waiting.connection, opened
        self._before = image(self.idle.connection)

    def _connect(self, sport: int) -> Peer:
        peer = Peer(self._bench, sport=sport, dport=80, source=ADDRESS, mac=MAC)
        peer.port = self.port
        return peer.connect()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The idle one, the one with data under way, and the one that is being opened."""
        return self._connections

    def image(self) -> list[object]:
        """Return the state of its connections, which only it and time may change."""
        return [image(c) for c in self._connections]

    def _talk(self) -> None:
        peer, bench = self.idle, self._bench
        before = len(peer.user.data)
        bench.stack.receive(self.port, [memoryview(peer.data(b"hello"))], bench.now)
        assert peer.user.data[before:] == b"hello"
        calls.send(peer.connection, ANSWER, bench.now)
        bench.stack.connections.flush(bench.now)
        segments = [lab.read(frame).data.data for frame in self._taken()]
        data = b"".join(bytes(segment.data) for segment in segments)
        assert data == ANSWER
        peer.note(segments[-1])
        peer.ack = (peer.ack + len(data)) & 0xFFFFFFFF
        frames = [memoryview(peer.make(ACK))]
        bench.stack.receive(self.port, frames, bench.now)
        assert peer.connection.snd_una == peer.connection.snd_nxt
        assert not self._taken()

    def _taken(self) -> list[bytes]:
        """Return the gateway's frames, without its questions."""
        frames = [frame for frame in self.port.take() if frame[6:12] == GATEWAY_MAC]
        return [frame for frame in frames if frame[12:14] != b"\x08\x06"]

    def _renew(self) -> None:
        """Have the lease again, as clients do before it runs out."""
        self._renewed = self._bench.now
        request = message(3, MAC, wanted=socket.inet_ntoa(LEASED))
        where = {"source": bytes(4), "destination": b"\xff" * 4, "to": b"\xff" * 6, "mac": MAC}
        frame = lab.udp(request, sport=68, dport=67, **where)
        self._bench.stack.receive(self.port, [memoryview(frame)], self._bench.now)

    def hear(self, *, quiet: bool = False) -> None:
        """Read what has come, and answer the gateway's questions; with `quiet` nothing else."""
        asked = False
        for frame in self.port.take():
            if frame[6:12] != GATEWAY_MAC:
                _is_honest(frame)
            elif number(frame, 12) == reading.ARP:
                asked |= ADDRESS in (frame[38:42],) or frame[:6] == MAC
            else:
                assert not quiet, "another guest has caused something"
        if self._bench.now - self._renewed > RENEWAL:
            self._renew()
            self.port.take()
        if asked:
            reply = lab.arp(GATEWAY, sender=ADDRESS, mac=MAC, operation=2, to=GATEWAY_MAC)
            self._bench.stack.receive(self.port, [memoryview(reply)], self._bench.now)

    def look(self) -> None:
        """Assert that what is for this guest goes to it."""
        stack = self._bench.stack
        station = stack.switch.stations.get(MAC)
        assert station is not None, "its MAC address is forgotten"
        assert station.port is self.port, "its MAC address is another's"
        assert stack.user(ADDRESS) == MAC
        assert stack.guard is not None
        assert stack.guard.binding(LEASED, self._bench.now) == MAC, "its lease is gone"
        found = stack.neighbours.get(ADDRESS)
        assert found is None or found is station
        for c in self._connections:
            assert c.state is CLOSED or c.path.station is station  # type: ignore[attr-defined]

    def finish(self) -> None:
        """Assert that the idle connection is as it was, and goes on; end the others."""
        assert image(self.idle.connection) == self._before
        assert self.idle.user.told == ["offered", "established"]
        self.hear()
        self._talk()
        self.idle.user.connection = None
        for user in (self.waiting.user, self.opening):
            c, user.connection = user.connection, None
            if c is not None and c.state is not CLOSED:
                calls.release(c, self._bench.now)


def _is_honest(frame: bytes) -> None:
    """Assert that a guest's frame says of itself what it may."""
    assert frame[6:12] != MAC, "another has this guest's MAC address"
    assert not frame[6] & 1
    kind, body = reading.inside(frame)
    if kind == reading.ARP and len(body) >= 28:
        assert body[:6] == b"\0\1\x08\0\6\4"
        assert body[8:14] == frame[6:12], "ARP in another's name"
        assert body[14:18] not in NOBODYS, "ARP for another's address"
    elif kind == reading.IPV4 and len(body) >= 20:
        assert body[12:16] not in NOBODYS, "a packet from another's address"
        assert body[12] < 224
        size, first = (body[0] & 15) * 4, not number(body, 6) & 0x1FFF
        if body[9] == reading.UDP and first:
            assert len(body) >= size + 4, "UDP whose ports nobody can see"
            assert number(body, size) != 67, "a DHCP server"
            assert number(body, size + 2) != 68, "a DHCP server"
