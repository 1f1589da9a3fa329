"""A guest that means harm: it sends noise, and reads what it gets or does not."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dpkt

from tests.lab import dialects, frames
from tests.lab.programs import GATEWAY, HOST

ADDRESS = "192.168.127.200"
_BURST = 64
_REST = 0.01
"""Seconds between bursts: it has to leave the others some of a small machine."""
_PORTS = (1024, 65535)


def _mac(chance: random.Random) -> bytes:
    return b"\x06\x66" + chance.randbytes(4)  # nobody else's


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1515))


def _ethernet(chance: random.Random) -> bytes:
    kind = chance.choice((0x0800, 0x0806, 0x86DD, 0x8100))
    return frames.GATEWAY_MAC + _mac(chance) + struct.pack("!H", kind) + chance.randbytes(60)


def _packet(chance: random.Random, protocol: int, data: dpkt.Packet, to: str) -> bytes:
    packet = dpkt.ip.IP(
        src=socket.inet_aton(ADDRESS), dst=socket.inet_aton(to), p=protocol, data=data
    )
    packet.len = len(packet)
    ethernet = dpkt.ethernet.Ethernet(
        src=b"\x06\x66\0\0\0\1", dst=frames.GATEWAY_MAC, type=0x0800, data=packet
    )
    return bytes(ethernet)


def _segment(chance: random.Random) -> bytes:
    segment = dpkt.tcp.TCP(
        sport=chance.randrange(*_PORTS),
        dport=chance.randrange(*_PORTS),
        seq=chance.getrandbits(32),
        ack=chance.getrandbits(32),
        flags=chance.choice((dpkt.tcp.TH_SYN, dpkt.tcp.TH_SYN, chance.getrandbits(8))),
        data=chance.randbytes(chance.randrange(100)),
    )
    return _packet(chance, dpkt.ip.IP_PROTO_TCP, segment, chance.choice((HOST, GATEWAY)))


def _datagram(chance: random.Random) -> bytes:
    datagram = dpkt.udp.UDP(
        sport=chance.randrange(*_PORTS),
        dport=chance.choice((53, 67, 68, 80, chance.randrange(*_PORTS))),
        data=chance.randbytes(chance.randrange(300)),
    )
    datagram.ulen = len(datagram)
    return _packet(chance, dpkt.ip.IP_PROTO_UDP, datagram, chance.choice((HOST, GATEWAY)))


_KINDS = (_noise, _ethernet, _segment, _datagram)


@contextlib.contextmanager
def hostile(path: Path, chance: random.Random) -> Iterator[str]:
    """Have it attached to the daemon at `path` meanwhile; it may well be thrown out."""
    deaf, seed = chance.random() < 0.5, chance.getrandbits(32)
    stop = threading.Event()
    thread = threading.Thread(target=_work, args=(path, seed, deaf, stop))
    thread.start()
    try:
        yield "deaf" if deaf else "reading"
    finally:
        stop.set()
        thread.join()


def _work(path: Path, seed: int, deaf: bool, stop: threading.Event) -> None:
    chance = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(OSError), dialects.closing(dialects.connect(path)) as guest:
            assert isinstance(guest, dialects.Stream)
            reader = threading.Thread(target=_read, args=(guest,))
            if not deaf:
                reader.start()
            try:
                while not stop.is_set():
                    guest.send(*(chance.choice(_KINDS)(chance) for _ in range(_BURST)))
                    time.sleep(_REST)
            finally:
                guest.end()
                if not deaf:
                    reader.join()


def _read(guest: dialects.Stream) -> None:
    with contextlib.suppress(OSError, EOFError):
        while True:
            guest.receive()
