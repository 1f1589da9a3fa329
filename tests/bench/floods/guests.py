"""Guests that are sockets: one that only sends what it was given, one with a little TCP."""

import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from time import monotonic

from gvproxy.wire import ipv4, tcp
from taplink import vnet
from tests.bench.floods import frames

PATIENCE = 10.0
_AT_ONCE = 256 << 10
_LENGTH = Struct("<H")
_TAPLINK_LENGTH = Struct(">I")
_ETH_IP = 34
_PROTOCOL = 23
CONNECT = b"POST /connect HTTP/1.1\r\nHost: gvproxy\r\n\r\n"
_UPGRADE = (
    b"POST /connect HTTP/1.1\r\nHost: gvproxy\r\nConnection: Upgrade\r\nUpgrade: taplink/1\r\n"
    b"Taplink-Offload: csum,tso4\r\n\r\n"
)
OPTIONS = tcp.build_syn_options(1460, 7, False, None)


@dataclass(slots=True)
class Stop:
    """When an attack ends: when it is asked to, or with `once` when all was sent once."""

    once: bool = False
    asked: bool = False
    begun: Callable[[], None] = lambda: None
    """Is called when all is made that is to be sent."""


def connect(path: Path) -> socket.socket:
    """Be gvforwarder."""
    sock = _connected(path)
    sock.sendall(CONNECT)
    return sock


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))  # waits where many are waiting already
    sock.settimeout(PATIENCE)
    return sock


def upgrade(path: Path) -> socket.socket:
    """Be an agent whose tap has offloads."""
    sock = _connected(path)
    sock.sendall(_UPGRADE)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(4096)
    return sock


def pack_super(frame: bytes, header_length: int, size: int) -> bytes:
    """Write a TCP super-frame as an agent does: to be cut into `size` bytes, and unfinished."""
    meta = vnet.HEADER.pack(
        vnet.F_NEEDS_CSUM, vnet.GSO_TCPV4, header_length, size, _ETH_IP, tcp.CHECKSUM_OFFSET, 0
    )
    return _TAPLINK_LENGTH.pack(len(meta) + len(frame)) + meta + frame


def blast(
    sock: socket.socket, data: bytes, stop: Stop, others: Sequence[socket.socket] = ()
) -> float:
    """Send `data` again and again, as fast as it is taken; return how often it was sent.

    What arrives, there and at `others`, is read and dropped.
    """
    view, junk = memoryview(data), bytearray(1 << 20)
    position = sent = 0
    sockets = {each.fileno(): each for each in (sock, *others)}
    poll = select.poll()
    for each in sockets.values():
        each.setblocking(False)
        poll.register(each, select.POLLIN)
    poll.modify(sock, select.POLLIN | select.POLLOUT)
    stop.begun()
    while not stop.asked and not (stop.once and sent >= len(data)):
        for descriptor, events in poll.poll(100):
            if events & select.POLLIN and not sockets[descriptor].recv_into(junk):
                raise EOFError("the daemon has closed a guest's link")
            if events & select.POLLOUT:
                count = sock.send(view[position : position + _AT_ONCE])
                sent += count
                position = (position + count) % len(data)
    return sent / len(data)


@dataclass(slots=True)
class Peer:
    """One connection of a talker's."""

    destination: bytes
    ports: tuple[int, int]
    snd_nxt: int
    rcv_nxt: int


class Talker:
    """A guest whose TCP opens connections and sends what it is told to: nothing is sent again."""

    def __init__(self, path: Path) -> None:
        self.sock = connect(path)
        self.peers: dict[int, Peer] = {}
        """By our port."""
        self.sent = 0
        self._received = bytearray()

    def close(self) -> None:
        self.sock.close()

    def send(self, *wanted: bytes) -> None:
        """Send frames."""
        self.sent += len(wanted)
        self.sock.settimeout(PATIENCE)
        self.sock.sendall(frames.pack(wanted))

    def open(
        self,
        stop: Stop,
        destination: bytes,
        port: int,
        count: int,
        options: bytes = OPTIONS,
    ) -> None:
        """Open connections from ports 10000 on, as many as are taken; each has an ACK after it."""
        for first in range(10000, 10000 + count, 50):
            if stop.asked:
                break
            numbers = range(first, min(first + 50, 10000 + count))
            self.send(
                *(
                    frames.segment(destination, (own, port), 0, 0, tcp.SYN, options=options)
                    for own in numbers
                )
            )
            waiting, deadline = set(numbers), monotonic() + 1
            while waiting and monotonic() < deadline:
                for own, seq, flags, _ in self.receive(0.1):
                    if own not in waiting:
                        continue
                    waiting.discard(own)
                    if flags & tcp.RST:
                        continue
                    peer = self.peers[own] = Peer(destination, (own, port), 1, seq + 1)
                    self.tell(peer)

    def tell(self, peer: Peer, data: bytes = b"", *, window: int = 0xFFFF) -> None:
        """Acknowledge, and send text."""
        self.send(
            frames.segment(
                *(peer.destination, peer.ports, peer.snd_nxt, peer.rcv_nxt, tcp.ACK),
                window=window,
                data=data,
            )
        )
        peer.snd_nxt += len(data)

    def receive(self, timeout: float) -> Iterator[tuple[int, int, int, int]]:
        """Yield what arrives: our port, its sequence number, flags, and how much text it has."""
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(1 << 20)
        except (TimeoutError, BlockingIOError):
            return
        if not data:
            raise EOFError("the daemon has closed a guest's link")
        received = self._received
        received += data
        position = 0
        while position + 2 <= len(received):
            (length,) = _LENGTH.unpack_from(received, position)
            if position + 2 + length > len(received):
                break
            begin, position = position + 2, position + 2 + length
            if length < _ETH_IP + tcp.SIZE or received[begin + _PROTOCOL] != ipv4.PROTOCOL_TCP:
                continue
            _, own, seq, _, bits, *_ = tcp.HEADER.unpack_from(received, begin + _ETH_IP)
            (total,) = Struct("!H").unpack_from(received, begin + 16)
            text = total - ipv4.SIZE - (bits >> 12) * 4
            yield own, seq, bits & tcp.FLAGS, text
        del received[:position]
