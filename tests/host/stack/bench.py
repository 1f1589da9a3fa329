"""A stack between recording ports, its frames written and read by dpkt."""

import socket
from collections.abc import Sequence

import dpkt

from gvproxy.limits import Limits, Quotas
from gvproxy.stack.port import StackConfig
from gvproxy.stack.stack import Stack
from gvproxy.wire import ethernet
from gvproxy.wire.checksum import ones_sum
from taplink import vnet
from taplink.vnet import Offload

GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
MAC, OTHER_MAC = bytes.fromhex("5a94efe40cee"), bytes.fromhex("5a94efe40cef")
GATEWAY, GUEST, OTHER, VIRTUAL, OUTSIDE = map(
    socket.inet_aton,
    ("192.168.127.1", "192.168.127.2", "192.168.127.3", "192.168.127.254", "9.9.9.9"),
)
ALL = Offload.CSUM | Offload.TSO4 | Offload.TSO6
VALID = vnet.HEADER.pack(vnet.F_DATA_VALID, 0, 0, 0, 0, 0, 0)


def config(mtu: int = 1500, *, mask: int = 0xFFFFFF00, source_checks: bool = True) -> StackConfig:
    network = int.from_bytes(GATEWAY, "big") & mask
    owned = frozenset({GATEWAY, VIRTUAL})
    return StackConfig(GATEWAY_MAC, GATEWAY, network, mask, owned, mtu, source_checks=source_checks)


class Port:
    """Records what it is sent."""

    def __init__(self, offload: Offload = Offload.NONE, *, header: bool | None = None) -> None:
        self.number = -1
        self.offset = vnet.SIZE if (bool(offload) if header is None else header) else 0
        self.offload = int(offload)
        self.congested = self.attached = False
        self.carried = 0
        self.full = False
        """Its queue takes no more."""
        self.left, self.identity = 0.0, ""
        self.sent: list[tuple[bytes, bytes]] = []
        self.flushed = 0

    def flush(self) -> None:
        self.flushed = len(self.sent)

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        if self.full:
            return False
        assert len(meta) == vnet.SIZE
        if not self.offload:
            assert meta == vnet.PLAIN
        self.sent.append((meta, header + bytes(payload)))
        return True

    def take(self) -> list[bytes]:
        """Return the frames sent since the last call, their checksums made where they were not."""
        sent, self.sent = self.sent, []
        return [_finished(meta, frame) for meta, frame in sent]


class Bench:
    """One stack, and `port` attached to it."""

    def __init__(
        self,
        offload: Offload = Offload.NONE,
        *,
        header: bool | None = None,
        mtu: int = 1500,
        mask: int = 0xFFFFFF00,
        limits: Limits | None = None,
        source_checks: bool = True,
    ) -> None:
        self.quotas = Quotas(limits)
        self.now = 1000.0
        self.wakes: list[float] = []
        self.stack = Stack(
            config(mtu, mask=mask, source_checks=source_checks),
            secret=bytes(32),
            wake=self.wakes.append,
            quotas=self.quotas,
        )
        self.counters = self.stack.counters
        self.port = self.attach(offload, header=header)

    def attach(self, offload: Offload = Offload.NONE, *, header: bool | None = None) -> Port:
        port = Port(offload, header=header)
        self.stack.attach(port)
        return port

    def give(
        self, *frames: bytes, port: Port | None = None, meta: bytes = vnet.PLAIN
    ) -> list[dpkt.ethernet.Ethernet]:
        """Hand in a batch as one buffer that is gone afterwards; return what `port` is sent."""
        port = port or self.port
        whole = [(meta if port.offset else b"") + frame for frame in frames]
        buffer = bytearray(b"".join(whole))
        view, position, views = memoryview(buffer), 0, []
        for frame in whole:
            views.append(view[position : position + len(frame)])
            position += len(frame)
        while views:
            views = views[self.stack.receive(port, views, self.now) :]
        buffer[:] = b"\xdb" * len(buffer)
        return self.sent(port)

    def sent(self, port: Port | None = None) -> list[dpkt.ethernet.Ethernet]:
        return [read(frame) for frame in (port or self.port).take()]

    def meet(self, address: bytes = GUEST, mac: bytes = MAC, port: Port | None = None) -> None:
        """Let the stack know a guest."""
        self.give(arp(GATEWAY, sender=address, mac=mac), port=port)


def ether(payload: bytes | dpkt.Packet, *, kind: int, mac: bytes = MAC, to: bytes) -> bytes:
    return ethernet.HEADER.pack(to, mac, kind) + bytes(payload)


def arp(
    target: bytes,
    *,
    sender: bytes = GUEST,
    mac: bytes = MAC,
    operation: int = dpkt.arp.ARP_OP_REQUEST,
    to: bytes = ethernet.BROADCAST,
    **fields: object,
) -> bytes:
    packet = dpkt.arp.ARP(sha=mac, spa=sender, tha=bytes(6), tpa=target, op=operation)
    for name, value in fields.items():
        setattr(packet, name, value)
    return ether(packet, kind=dpkt.ethernet.ETH_TYPE_ARP, mac=mac, to=to)


def ip(
    payload: bytes | dpkt.Packet,
    protocol: int,
    *,
    source: bytes = GUEST,
    destination: bytes = GATEWAY,
    mac: bytes = MAC,
    to: bytes = GATEWAY_MAC,
    **fields: object,
) -> bytes:
    """Return a frame with an IPv4 packet; dpkt makes the checksums, of the transport too."""
    packet = dpkt.ip.IP(src=source, dst=destination, p=protocol, data=payload)
    for name, value in fields.items():
        setattr(packet, name, value)
    packet.len = len(packet)
    return ether(packet, kind=dpkt.ethernet.ETH_TYPE_IP, mac=mac, to=to)


def echo(
    body: bytes = b"ping", *, identifier: int = 7, sequence: int = 1, **where: object
) -> bytes:
    data = dpkt.icmp.ICMP.Echo(id=identifier, seq=sequence, data=body)
    message = dpkt.icmp.ICMP(type=dpkt.icmp.ICMP_ECHO, data=data)
    return ip(bytes(message), dpkt.ip.IP_PROTO_ICMP, **where)  # type: ignore[arg-type]


def udp(body: bytes = b"hello", *, sport: int = 5000, dport: int = 6000, **where: object) -> bytes:
    datagram = dpkt.udp.UDP(sport=sport, dport=dport, data=body)
    datagram.ulen = len(datagram)
    return ip(datagram, dpkt.ip.IP_PROTO_UDP, **where)  # type: ignore[arg-type]


def tcp(
    body: bytes = b"",
    *,
    flags: int = dpkt.tcp.TH_ACK,
    seq: int = 1000,
    ack: int = 0,
    sport: int = 5000,
    dport: int = 80,
    window: int = 65535,
    options: bytes = b"",
    **where: object,
) -> bytes:
    segment = dpkt.tcp.TCP(
        sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, win=window, data=body
    )
    segment.opts = options
    segment.off = (20 + len(options)) // 4
    return ip(segment, dpkt.ip.IP_PROTO_TCP, **where)  # type: ignore[arg-type]


def break_at(frame: bytes, position: int) -> bytes:
    return frame[:position] + bytes((frame[position] ^ 0x55,)) + frame[position + 1 :]


def read(frame: bytes) -> dpkt.ethernet.Ethernet:
    """Read a frame and check every checksum in it."""
    eth = dpkt.ethernet.Ethernet(frame)
    assert eth.src == GATEWAY_MAC or eth.src[0] & 1 == 0
    if eth.type == dpkt.ethernet.ETH_TYPE_IP:
        packet = frame[14:]
        size, total = (packet[0] & 0xF) * 4, int.from_bytes(packet[2:4], "big")
        assert total == len(packet)
        assert ones_sum(packet[:size], size) == 0, "IP checksum"
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        body = packet[size:]
        if not fragment:
            protocol = packet[9]
            pseudo = packet[12:20] + bytes((0, protocol)) + len(body).to_bytes(2, "big")
            if protocol == dpkt.ip.IP_PROTO_ICMP:
                assert ones_sum(body, len(body)) == 0, "ICMP checksum"
            elif protocol != dpkt.ip.IP_PROTO_UDP or body[6:8] != b"\0\0":
                assert ones_sum(pseudo + body, len(pseudo + body)) == 0, "transport checksum"
    return eth


def _finished(meta: bytes, frame: bytes) -> bytes:
    """Do what the guest's kernel does with a frame whose checksum is not finished."""
    flags, kind, _, _, start, offset, _ = vnet.HEADER.unpack(meta)
    if not flags & vnet.F_NEEDS_CSUM or kind:
        return frame
    place = start + offset
    total = 0xFFFF - ones_sum(frame[start:], len(frame) - start)
    return frame[:place] + total.to_bytes(2, "big") + frame[place + 2 :]


def kinds(frames: Sequence[dpkt.ethernet.Ethernet]) -> list[str]:
    return [type(frame.data).__name__ for frame in frames]
