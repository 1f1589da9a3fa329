"""Frames to the whole stack, of two guests who do as they like, beside one who is honest.

Afterwards the honest guest's connection has to be as it was; all frames of the gateway's are
well-formed, and what is kept is bounded (`tests.fuzz.network`).
"""

import random

from gvproxy.stack.path import TcpPath
from gvproxy.wire import ethernet, icmp, ipv4, tcp
from gvproxy.wire.checksum import checksum, ones_sum, pseudo_header
from taplink import vnet
from tests.fuzz.cases import join, split
from tests.fuzz.network import HEAD, HOST, MORE, OFFLOADS, PLAIN, Network
from tests.host.services.dhcpclient import message as dhcp_message
from tests.host.stack import bench as lab
from tests.host.stack.bench import GATEWAY, GUEST, MAC, OTHER, OTHER_MAC, OUTSIDE
from tests.host.stack.peer import ACK, FIN, PSH, RST, Peer


def target(data: bytes) -> None:
    """Give the frames of an input to a stack."""
    network = Network()
    for message in split(data):
        network.feed(message)
    network.finish()


def repair(message: bytes, rng: random.Random) -> bytes:
    """Make lengths and checksums of an IPv4 packet right."""
    start = HEAD.size + ethernet.SIZE
    data = bytearray(message)
    packet = memoryview(data)[start:]
    if len(packet) < ipv4.SIZE or data[start - 2 : start] != b"\x08\0" or packet[0] >> 4 != 4:
        return message
    size = (packet[0] & 15) * 4
    total = int.from_bytes(packet[2:4], "big")
    if not size <= total <= len(packet) or rng.random() < 0.5:
        total = len(packet)
        packet[2:4] = total.to_bytes(2, "big")
    if not ipv4.SIZE <= size <= total:
        return message
    packet[10:12] = bytes(2)
    packet[10:12] = checksum(ones_sum(packet[:size], size)).to_bytes(2, "big")
    length, protocol = total - size, packet[9]
    where = size + {1: 2, 6: 16, 17: 6}.get(protocol, 65535)
    if where + 2 > total:
        return bytes(data)
    if protocol == ipv4.PROTOCOL_UDP and rng.random() < 0.5:
        packet[size + 4 : size + 6] = length.to_bytes(2, "big")
    packet[where : where + 2] = bytes(2)
    sum_ = ones_sum(packet[size:total], length)
    if protocol != ipv4.PROTOCOL_ICMP:
        sum_ += pseudo_header(bytes(packet[12:20]), protocol) + length
    packet[where : where + 2] = checksum(sum_).to_bytes(2, "big")
    return bytes(data)


# Valid traffic


class Recorder:
    """A network whose frames are written down; stands for `lab.Bench` where a `Peer` needs one."""

    def __init__(self) -> None:
        self.network = Network()
        self.stack = self.network.stack
        self.case: list[bytes] = []

    @property
    def now(self) -> float:
        return self.network.bench.now

    def note(self, what: int, frame: bytes, *, passes: int = 0, meta: bytes = vnet.PLAIN) -> None:
        message = HEAD.pack(what, passes, meta) + frame
        self.case.append(message)
        self.network.feed(message)

    def give(self, *frames: bytes, port: lab.Port | None = None, meta: bytes = vnet.PLAIN) -> list:  # type: ignore[type-arg]
        guests = self.network.guests
        who = guests.index(port) if port in guests else PLAIN  # type: ignore[arg-type]
        for frame in frames[:-1]:
            self.note(who | MORE, frame, meta=meta)
        self.note(who, frames[-1], meta=meta)
        got, guests[who].got = guests[who].got, []
        return [lab.read(frame) for frame in got if frame[12:14] + frame[23:24] == b"\x08\0\6"]

    def peer(self, who: int, dport: int, sport: int = 5000) -> Peer:
        """Return one end of a connection of a guest's, which is open."""
        meta = lab.VALID if who == OFFLOADS else vnet.PLAIN
        mac, source = ((MAC, GUEST), (OTHER_MAC, OTHER), (MAC, GUEST))[who]
        peer = Peer(self, sport=sport, dport=dport, mac=mac, source=source)  # type: ignore[arg-type]
        peer.port, peer.meta = self.network.guests[who], meta
        answer = next(a for a in peer.give(peer.syn()) if a.sport == dport)
        place = answer.opts.index(b"\x08\x0a") + 2
        peer.echo = int.from_bytes(answer.opts[place : place + 4], "big")
        peer.seq, peer.ack = peer.seq + 1, (answer.seq + 1) & 0xFFFFFFFF
        return peer

    def acknowledge(self, peer: Peer, segments: list) -> None:  # type: ignore[type-arg]
        for one in segments:
            end = one.seq + len(one.data) + bool(one.flags & FIN)
            if (end - peer.ack) & 0xFFFFFFFF < 1 << 31:
                peer.ack = end & 0xFFFFFFFF


def _conversation(who: int, dport: int) -> bytes:
    recorder = Recorder()
    peer = recorder.peer(who, dport)
    recorder.acknowledge(peer, peer.give(peer.make(ACK)))
    for body in (b"GET / HTTP/1.1\r\n\r\n", bytes(1448), bytes(3), bytes(1448)):
        recorder.acknowledge(peer, peer.give(peer.data(body)))
        recorder.acknowledge(peer, peer.give(peer.make(ACK)))
    recorder.note(HOST, bytes((0, 3)), passes=7)
    recorder.acknowledge(peer, peer.give(peer.data(b"one"), peer.data(b"two")))
    recorder.acknowledge(peer, peer.give(peer.make(FIN | ACK)))
    peer.seq += 1
    recorder.note(HOST, bytes((2, 3)), passes=9)
    peer.give(peer.make(ACK))
    recorder.note(HOST, bytes((3, 3)), passes=11)
    return join(recorder.case)


def _losses() -> bytes:
    recorder = Recorder()
    peer = recorder.peer(OFFLOADS, 80)
    peer.give(peer.make(ACK))
    one, two, three = (peer.data(bytes(1000)) for _ in range(3))
    peer.give(one, three)
    recorder.note(OFFLOADS, two, passes=8, meta=lab.VALID)
    for number in range(4):
        sack = tcp.build_sack([(peer.ack + 500, peer.ack + 900 + number)])
        stamps = _stamps(peer)
        recorder.give(_with_options(peer, ACK, stamps + sack), port=peer.port, meta=peer.meta)
    peer.give(peer.make(RST))
    return join(recorder.case)


def _stamps(peer: Peer) -> bytes:
    return tcp.TIMESTAMPS.pack(tcp.TIMESTAMPS_WORD, peer.clock, peer.echo)


def _with_options(peer: Peer, flags: int, options: bytes) -> bytes:
    numbers = {"seq": peer.seq, "ack": peer.ack, "options": options}
    return lab.tcp(flags=flags, **numbers, **peer.where)  # type: ignore[arg-type]


def _super_frames() -> bytes:
    recorder = Recorder()
    peer = recorder.peer(OFFLOADS, 81)
    peer.give(peer.make(ACK))
    size = 20 + 12 + 34
    peer.meta = vnet.HEADER.pack(1, vnet.GSO_TCPV4, size, 1448, 34, 16, 0)
    peer.give(peer.data(bytes(20000)), peer.data(bytes(6000)))
    to_plain = lab.tcp(bytes(8000), mac=OTHER_MAC, source=OTHER, destination=GUEST, to=MAC)
    recorder.note(PLAIN, lab.arp(GATEWAY))
    recorder.note(OFFLOADS, to_plain, meta=vnet.HEADER.pack(1, 1, 54, 1460, 34, 16, 0))
    many = lab.udp(bytes(5000), mac=OTHER_MAC, source=OTHER, destination=GUEST, to=MAC)
    recorder.note(OFFLOADS, many, meta=vnet.HEADER.pack(1, vnet.GSO_UDP_L4, 42, 1400, 34, 6, 0))
    return join(recorder.case)


def _datagrams(who: int) -> bytes:
    recorder = Recorder()
    where = {"destination": OUTSIDE} | ({"mac": OTHER_MAC, "source": OTHER} if who else {})
    meta = lab.VALID if who else vnet.PLAIN
    for dport in (6000, 6000, 6001):
        recorder.note(who, lab.udp(bytes(100), dport=dport, **where), meta=meta)  # type: ignore[arg-type]
    for size in (100, 100, 60, 1400):
        recorder.note(who | MORE, lab.udp(bytes(size), **where), meta=meta)  # type: ignore[arg-type]
    many = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_UDP_L4, 42, 1000, 34, 6, 0)
    recorder.note(who, lab.udp(bytes(9000), **where), meta=many if who else meta)  # type: ignore[arg-type]
    query = (
        bytes.fromhex("000701000001000000000000")
        + b"\x07gateway\x0acontainers\x08internal\0\0\1\0\1"
    )
    recorder.note(who, lab.udp(query, dport=53, **where | {"destination": GATEWAY}), meta=meta)  # type: ignore[arg-type]
    recorder.note(who, lab.udp(b"x", dport=9, **where | {"destination": GATEWAY}), meta=meta)  # type: ignore[arg-type]
    return join(recorder.case)


def _fragments() -> bytes:
    recorder = Recorder()
    packet = lab.udp(bytes(3000), destination=OUTSIDE)
    body = packet[34:]
    for start in (0, 1480, 2960):
        piece = body[start : start + 1480]
        fields = {"_flags_offset": start >> 3 | (0x2000 if start < 2960 else 0), "id": 7}
        recorder.note(PLAIN, lab.ip(piece, 17, destination=OUTSIDE, **fields))
    return join(recorder.case)


def _control() -> bytes:
    recorder = Recorder()
    recorder.note(PLAIN, lab.arp(GATEWAY))
    recorder.note(PLAIN, lab.echo(bytes(56)))
    recorder.note(PLAIN, lab.echo(bytes(2000), destination=OUTSIDE))
    recorder.note(OFFLOADS, lab.arp(GATEWAY, sender=OTHER, mac=OTHER_MAC))
    recorder.note(OFFLOADS, lab.echo(mac=OTHER_MAC, source=OTHER, destination=GUEST, to=MAC))
    recorder.note(PLAIN, lab.ether(bytes(60), kind=0x86DD, to=b"\x33\x33\0\0\0\1"))
    recorder.note(PLAIN, lab.ip(b"what", 47))
    recorder.note(PLAIN, lab.tcp(flags=2, dport=84, destination=OUTSIDE))
    connection = recorder.network.services[0].connection
    assert connection is not None
    path = connection.path
    assert isinstance(path, TcpPath)
    quote = ipv4.build_header(path.address, path.guest, 6, 20) + path.key[10:12] + path.key[8:10]
    quote += (connection.iss & 0xFFFFFFFF).to_bytes(4, "big")
    for code in (icmp.PORT_UNREACHABLE, icmp.FRAGMENTATION_NEEDED):
        recorder.note(PLAIN, lab.ip(icmp.build(3, code, 1400, quote), 1))
    recorder.note(HOST, bytes((0x81, 0)))
    recorder.note(HOST, bytes((0x80, 1)), passes=12)
    recorder.note(HOST, bytes((0x81, 0)))
    return join(recorder.case)


def _from_the_host() -> bytes:
    """Answer the gateway's SYN, and go on from there."""
    recorder = Recorder()
    guest = recorder.network.guests[PLAIN]
    recorder.note(PLAIN, lab.arp(GATEWAY))
    syn = next(lab.read(frame).data.data for frame in guest.got if frame[23:24] == b"\6")
    where = {"sport": syn.dport, "dport": syn.sport, "window": 60000}
    ack = syn.seq + 1 & 0xFFFFFFFF
    options = b"\2\4\5\xb4\1\1\4\2\1\3\3\7"
    recorder.note(PLAIN, lab.tcp(flags=18, seq=9, ack=ack, options=options, **where))  # type: ignore[arg-type]
    for number in range(3):
        recorder.note(
            PLAIN, lab.tcp(b"login", flags=ACK | PSH, seq=10 + 5 * number, ack=ack, **where)
        )  # type: ignore[arg-type]
    recorder.note(HOST, bytes((1, 0)), passes=4)
    recorder.note(PLAIN, lab.tcp(flags=ACK | FIN, seq=25, ack=ack + 1000, **where))  # type: ignore[arg-type]
    recorder.note(HOST, bytes((4, 0)), passes=4)
    return join(recorder.case)


def _lease() -> bytes:
    recorder = Recorder()
    where = {"source": bytes(4), "destination": b"\xff" * 4, "to": b"\xff" * 6, "sport": 68}
    for kind, more in ((1, {}), (3, {"wanted": "192.168.127.3"}), (7, {"server": "192.168.127.1"})):
        body = dhcp_message(kind, MAC, name=b"guest", **more)
        recorder.note(PLAIN, lab.udp(body, dport=67, **where))  # type: ignore[arg-type]
    return join(recorder.case)


def seeds() -> dict[str, bytes]:
    """Return conversations of each kind."""
    found = {f"tcp-{dport}": _conversation(PLAIN, dport) for dport in (80, 81, 85, 86)}
    found |= {f"offloads-{dport}": _conversation(OFFLOADS, dport) for dport in (80, 85)}
    return found | {
        "losses": _losses(),
        "super-frames": _super_frames(),
        "datagrams": _datagrams(PLAIN),
        "datagrams-offloads": _datagrams(OFFLOADS),
        "fragments": _fragments(),
        "control": _control(),
        "from-the-host": _from_the_host(),
        "lease": _lease(),
    }
