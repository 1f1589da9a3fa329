"""A network whose frames are written down, which is how valid traffic for the fuzzer is made."""

import random

from gvproxy.wire import ethernet, ipv4
from gvproxy.wire.checksum import checksum, ones_sum, pseudo_header
from taplink import vnet
from tests.fuzz.network import HEAD, MORE, OFFLOADS, PLAIN, Network
from tests.host.stack import bench as lab
from tests.host.stack.bench import GUEST, MAC, OTHER, OTHER_MAC
from tests.host.stack.peer import FIN, Peer


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


def text(size: int) -> bytes:
    """Return bytes that are nowhere else."""
    return random.Random(size).randbytes(size)


def with_checksums(message: bytes, rng: random.Random | None = None) -> bytes:
    """Make the checksums of an IPv4 packet right; with `rng` its lengths too, now and then."""
    start = HEAD.size + ethernet.SIZE
    data = bytearray(message)
    packet = memoryview(data)[start:]
    if len(packet) < ipv4.SIZE or data[start - 2 : start] != b"\x08\0":
        return message
    size = (packet[0] & 15) * 4
    total = int.from_bytes(packet[2:4], "big")
    if rng is not None and (not size <= total <= len(packet) or rng.random() < 0.5):
        total = len(packet)
        packet[2:4] = total.to_bytes(2, "big")
    if not 12 <= size <= len(packet):
        return message
    packet[10:12] = bytes(2)
    packet[10:12] = checksum(ones_sum(packet[:size], size)).to_bytes(2, "big")
    if not size <= total <= len(packet):
        return bytes(data)
    if packet[6] & 0x3F or packet[7]:
        return bytes(data)  # a fragment has no checksum of its own
    length, protocol = total - size, packet[9]
    where = size + {1: 2, 6: 16, 17: 6}.get(protocol, 65535)
    if where + 2 > total:
        return bytes(data)
    if protocol == ipv4.PROTOCOL_UDP and rng is not None and rng.random() < 0.5:
        packet[size + 4 : size + 6] = length.to_bytes(2, "big")
    packet[where : where + 2] = bytes(2)
    sum_ = ones_sum(packet[size:total], length)
    if protocol != ipv4.PROTOCOL_ICMP:
        sum_ += pseudo_header(bytes(packet[12:20]), protocol) + length
    packet[where : where + 2] = checksum(sum_).to_bytes(2, "big")
    return bytes(data)
