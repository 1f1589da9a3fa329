"""The floods: what one guest, or a client of the host's API, can do to the daemon."""

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from time import monotonic, sleep

import dnslib

from gvproxy.wire import ipv4, tcp
from gvproxy.wire.checksum import pseudo_header
from tests.bench.floods import frames
from tests.bench.floods.frames import ADDRESS, BROADCAST, GATEWAY, HOST, MAC
from tests.bench.floods.guests import (
    Stop,
    Talker,
    blast,
    connect,
    pack_super,
    upgrade,
)
from tests.bench.floods.servers import DATAGRAM_PORT, HOLD_PORT, SINK_PORT

MANY = 20_000
RANDOM_FRAMES = 200_000
FRAGMENTS = 10_000
CONNECTIONS = 1_000
_OTHER_MAC = bytes.fromhex("5a94ef000078")
_TSVAL = 1000

Attack = Callable[[Path, float, Stop], float]
"""Goes on until it is stopped; takes the daemon's socket, and which part of the usual number.

Returns how many frames, requests or connections it has made.
"""


@dataclass(frozen=True)
class Flood:
    """One of them, and what it is."""

    name: str
    label: str
    run: Attack


def _sent(name: str, label: str, many: int, make: Callable[[int], Iterator[bytes]]) -> Flood:
    """A flood of frames that are made beforehand."""

    def run(path: Path, part: float, stop: Stop) -> float:
        made = list(make(max(1, int(many * part))))
        with connect(path) as sock:
            return blast(sock, frames.pack(made), stop) * len(made)

    return Flood(name, label, run)


def _macs(count: int) -> Iterator[bytes]:
    source = random.Random(1)
    return (b"\x02" + source.randbytes(5) for _ in range(count))


def _random(count: int) -> Iterator[bytes]:
    """Bytes of any length; a tenth of them, again and again, is as good."""
    source = random.Random(1)
    few = [source.randbytes(source.randrange(1601)) for _ in range(max(1, count // 10))]
    return islice(cycle(few), count)


def _mutated(count: int) -> Iterator[bytes]:
    """Valid frames of all kinds with one to four bytes that are not."""
    source = random.Random(1)
    valid = [
        frames.who_has(GATEWAY),
        frames.echo(GATEWAY, 1, 1, bytes(56)),
        frames.datagram(HOST, 40000, DATAGRAM_PORT, bytes(100)),
        frames.datagram(GATEWAY, 40000, 53, _question(1)),
        frames.discover(MAC),
        frames.segment(HOST, (40000, SINK_PORT), 0, 0, tcp.SYN),
        frames.segment(HOST, (40000, SINK_PORT), 1, 1, tcp.ACK, data=bytes(100)),
        frames.packet(ipv4.PROTOCOL_UDP, bytes(600), HOST, 1, ipv4.MORE_FRAGMENTS),
    ]
    for frame in islice(cycle(valid), count):
        changed = bytearray(frame)
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(6, len(changed))] = source.randrange(256)
        yield bytes(changed)


def _syns(destination: Callable[[int], tuple[bytes, int]]) -> Callable[[int], Iterator[bytes]]:
    def make(count: int) -> Iterator[bytes]:
        for number in range(count):
            address, port = destination(number)
            yield frames.segment(address, (2000 + number, port), number, 0, tcp.SYN)

    return make


def _dead(number: int) -> tuple[bytes, int]:
    return bytes((10, 78, number >> 8 & 255, number & 255)), 80


def _question(number: int) -> bytes:
    query: bytes = dnslib.DNSRecord.question(f"name-{number}.silent.test").pack()
    return query


def _first_fragments(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield frames.packet(ipv4.PROTOCOL_UDP, bytes(1480), HOST, number, ipv4.MORE_FRAGMENTS)


def _strangers(count: int) -> Iterator[bytes]:
    """Acknowledgments of connections that are not there: each is answered with a reset."""
    for number in range(count):
        yield frames.segment(HOST, (2000 + number, SINK_PORT), 1, 1, tcp.ACK)


def _broadcasts(count: int) -> Iterator[bytes]:
    packet = ipv4.build_header(ADDRESS, BROADCAST[:4], ipv4.PROTOCOL_UDP, 1480) + bytes(1480)
    yield from [frames.eth(packet, destination=BROADCAST)] * count


def _connected(
    name: str, label: str, make: Callable[[tuple[int, int], int, int], Iterator[bytes]]
) -> Flood:
    """A flood of segments of one connection, whose ports, SND.NXT and RCV.NXT `make` is told."""

    def run(path: Path, part: float, stop: Stop) -> float:
        talker = Talker(path)
        options = tcp.build_syn_options(1460, 7, True, (_TSVAL, 0))
        talker.open(stop, HOST, HOLD_PORT, 1, options=options)
        (peer,) = talker.peers.values()
        made = list(islice(make(peer.ports, peer.snd_nxt, peer.rcv_nxt), max(1, int(MANY * part))))
        with talker.sock as sock:
            return blast(sock, frames.pack(made), stop) * len(made)

    return Flood(name, label, run)


def _timestamped(
    ports: tuple[int, int], seq: int, ack: int, data: bytes = b"", flags: int = tcp.ACK
) -> bytes:
    options = tcp.TIMESTAMPS.pack(tcp.TIMESTAMPS_WORD, _TSVAL, 0)
    return frames.segment(HOST, ports, seq, ack, flags, options=options, data=data)


def _tiny(ports: tuple[int, int], seq: int, ack: int) -> Iterator[bytes]:
    """Single bytes with holes between them."""
    numbers = list(range(1, 2 * MANY, 2))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        yield _timestamped(ports, seq + number, ack, b"x")


def _acknowledgments(ports: tuple[int, int], seq: int, ack: int) -> Iterator[bytes]:
    while True:
        yield _timestamped(ports, seq, ack)


def _probes(ports: tuple[int, int], seq: int, ack: int) -> Iterator[bytes]:
    while True:
        yield _timestamped(ports, seq - 1, ack)


def _stalled(path: Path, part: float, stop: Stop) -> float:
    """Downloads whose window closes with their first byte, and stays closed."""
    talker = Talker(path)
    stop.begun()
    with talker.sock:
        talker.open(stop, HOST, HOLD_PORT, int(CONNECTIONS * part))
        ends = monotonic() + 1
        while not stop.asked and not (stop.once and monotonic() > ends):
            told: dict[int, int] = {}
            for own, seq, flags, text in talker.receive(0.1):
                if own in talker.peers and text and not flags & tcp.SYN:
                    told[own] = max(told.get(own, 0), seq + text)
            for own, seq in told.items():
                peer = talker.peers[own]
                peer.rcv_nxt = max(peer.rcv_nxt, seq)
                talker.tell(peer, window=0)
        return len(talker.peers)


def _slow(name: str, label: str, port: int, beginning: bytes) -> Flood:
    """Clients of the gateway's that begin, and send a byte a second."""

    def run(path: Path, part: float, stop: Stop) -> float:
        talker = Talker(path)
        stop.begun()
        with talker.sock:
            talker.open(stop, GATEWAY, port, int(CONNECTIONS * part))
            peers = list(talker.peers.values())
            for peer in peers:
                talker.tell(peer, beginning)
            for peer in [] if stop.once else cycle(peers):
                if stop.asked:
                    break
                talker.tell(peer, b"x")
                for _ in talker.receive(1 / len(peers)):
                    pass
            while not peers and not stop.asked and not stop.once:
                sleep(0.1)
            return len(peers)

    return Flood(name, label, run)


def _slow_host(path: Path, part: float, stop: Stop) -> float:
    """Clients of the host's API that do the same."""
    stop.begun()
    with ExitStack() as stack:
        clients = []
        for _ in range(int(CONNECTIONS * part)):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(1)
            try:
                sock.connect(str(path))
                sock.send(b"GET /stats HTTP/1.1\r\nX: ")
            except OSError:
                continue
            clients.append(sock)
        for sock in [] if stop.once else cycle(clients):
            if stop.asked:
                break
            with suppress(OSError):  # it was refused
                sock.send(b"x")
            sleep(1 / len(clients))
        return len(clients)


def _churn(path: Path, part: float, stop: Stop) -> float:
    """Guests that come, say something and leave, a thousand a second."""
    count, begins = 0, monotonic()
    said = frames.pack([frames.who_has(GATEWAY)])
    stop.begun()
    while not stop.asked and not (stop.once and count >= CONNECTIONS * part):
        with suppress(OSError), connect(path) as sock:
            sock.sendall(said)
        count += 1
        sleep(max(0.0, begins + count / 1000 - monotonic()))
    return count


def _unread(path: Path, part: float, stop: Stop) -> float:
    """Frames for a guest that does not read, and a download of its own that it does not read."""
    reader = Talker(path)
    with reader.sock, connect(path) as sock:
        reader.open(stop, HOST, HOLD_PORT, 1)
        frame = frames.eth(bytes(1500), source=_OTHER_MAC, destination=MAC)
        made = [frame] * max(1, int(MANY * part))
        return blast(sock, frames.pack(made), stop) * len(made)


def _supers(path: Path, part: float, stop: Stop) -> float:
    """Super-frames to be cut into as many pieces as can be, for a guest that takes no others."""
    size, text = 256, bytes(65_000)
    header = ipv4.build_header(ADDRESS, ADDRESS, ipv4.PROTOCOL_TCP, tcp.SIZE + len(text))
    length = tcp.SIZE + len(text)
    partial = (pseudo_header(ADDRESS + ADDRESS, ipv4.PROTOCOL_TCP) + length) % 0xFFFF
    head = tcp.HEADER.pack(1, 2, 1, 1, 5 << 12 | tcp.ACK, 0xFFFF, partial, 0)
    frame = frames.eth(header + head + text, source=_OTHER_MAC, destination=MAC)
    made = [pack_super(frame, 54, size)] * max(1, int(100 * part))
    with connect(path) as reader, upgrade(path) as sock:
        reader.sendall(frames.pack([frames.who_has(GATEWAY)]))
        reader.recv(1 << 16)
        return blast(sock, b"".join(made), stop, [reader]) * len(made)


FLOODS = (
    _sent("random", "random bytes, of 0 to 1600", RANDOM_FRAMES, _random),
    _sent("mutated", "valid frames with a few wrong bytes", RANDOM_FRAMES, _mutated),
    _sent("empty", "frames of no bytes", RANDOM_FRAMES, lambda count: iter([b""] * count)),
    _sent(
        "macs",
        "20,000 MACs, an ARP request each",
        MANY,
        lambda count: (frames.who_has(GATEWAY, mac) for mac in _macs(count)),
    ),
    _sent(
        "macs-broadcast",
        "20,000 MACs, a broadcast each",
        MANY,
        lambda count: (
            frames.eth(bytes(46), 0x88B5, source=mac, destination=BROADCAST) for mac in _macs(count)
        ),
    ),
    _sent("broadcast", "broadcasts of 1,514 bytes", MANY, _broadcasts),
    _sent("syn-dead", "20,000 SYNs to who does not answer", MANY, _syns(_dead)),
    _sent(
        "syn-closed",
        "20,000 SYNs to closed ports",
        MANY,
        _syns(lambda n: (HOST, 20000 + n % 10000)),
    ),
    _sent("syn-open", "20,000 SYNs to a server, no ACK", MANY, _syns(lambda n: (HOST, HOLD_PORT))),
    _sent("ack-strangers", "ACKs of no connection", MANY, _strangers),
    _connected("ack-storm", "ACKs of one connection", _acknowledgments),
    _connected("probes", "keep-alive probes of one connection", _probes),
    _connected("tiny", "20,000 segments of one byte, out of order", _tiny),
    _sent(
        "udp",
        "20,000 UDP ports",
        MANY,
        lambda count: (
            frames.datagram(HOST, 2000 + number, DATAGRAM_PORT, bytes(20))
            for number in range(count)
        ),
    ),
    _sent("fragments", "10,000 fragments without an end", FRAGMENTS, _first_fragments),
    _sent(
        "ping",
        "pings of the gateway",
        MANY,
        lambda count: (frames.echo(GATEWAY, 1, n & 0xFFFF, bytes(56)) for n in range(count)),
    ),
    _sent(
        "ping-host",
        "pings of the host, 20,000 identifiers",
        MANY,
        lambda count: (frames.echo(HOST, n & 0xFFFF, 1, bytes(56)) for n in range(count)),
    ),
    _sent(
        "dns",
        "20,000 names, of a resolver that is silent",
        MANY,
        lambda count: (frames.datagram(GATEWAY, 2000 + n, 53, _question(n)) for n in range(count)),
    ),
    _sent(
        "dhcp",
        "DHCPDISCOVERs of 20,000 MACs",
        MANY,
        lambda count: (frames.discover(mac) for mac in _macs(count)),
    ),
    Flood("supers", "super-frames to be cut into 254", _supers),
    Flood("unread", "frames for a guest that does not read", _unread),
    Flood("stalled", "1,000 downloads that are not read", _stalled),
    _slow(
        "slow-http", "1,000 slow clients of the guests' API", 80, b"GET /services HTTP/1.1\r\nX: "
    ),
    _slow("slow-dns", "1,000 slow clients of DNS over TCP", 53, b"\x40"),
    Flood("slow-host", "1,000 slow clients of the host's API", _slow_host),
    Flood("churn", "guests that come and leave, 1,000 a second", _churn),
)
