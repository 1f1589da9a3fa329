"""Frames of a guest that makes them by hand, in large numbers."""

import socket
from collections.abc import Iterable
from struct import Struct

from gvproxy.wire import arp, ethernet, icmp, ipv4, tcp, udp
from gvproxy.wire.checksum import checksum, ones_sum, pseudo_header
from tests.lab.programs import GATEWAY as GATEWAY_TEXT
from tests.lab.programs import HOST as HOST_TEXT

GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
MAC = bytes.fromhex("5a94ef000077")
ADDRESS = socket.inet_aton("192.168.127.77")
GATEWAY = socket.inet_aton(GATEWAY_TEXT)
HOST = socket.inet_aton(HOST_TEXT)
BROADCAST = b"\xff" * 6

_LENGTH = Struct("<H")
_COOKIE = bytes.fromhex("63825363")
_DISCOVER = bytes((53, 1, 1, 255))


def pack(frames: Iterable[bytes]) -> bytes:
    """Write frames as gvforwarder does."""
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def eth(
    payload: bytes,
    kind: int = ethernet.TYPE_IPV4,
    *,
    source: bytes = MAC,
    destination: bytes = GATEWAY_MAC,
) -> bytes:
    """Return a frame."""
    return ethernet.HEADER.pack(destination, source, kind) + payload


def who_has(target: bytes, mac: bytes = MAC, address: bytes = ADDRESS) -> bytes:
    """Return an ARP request."""
    request = arp.build(arp.REQUEST, mac, address, bytes(6), target)
    return eth(request, ethernet.TYPE_ARP, source=mac, destination=BROADCAST)


def packet(
    protocol: int, payload: bytes, destination: bytes, ident: int = 0, fragment: int = 0
) -> bytes:
    """Return a frame for the gateway with an IPv4 packet."""
    header = ipv4.build_header(
        *(ADDRESS, destination, protocol, len(payload)), identification=ident, fragment=fragment
    )
    return eth(header + payload)


def echo(destination: bytes, ident: int, sequence: int, body: bytes) -> bytes:
    """Return a ping."""
    message = icmp.build(icmp.ECHO_REQUEST, 0, ident << 16 | sequence, body)
    return packet(ipv4.PROTOCOL_ICMP, message, destination)


def datagram(destination: bytes, source_port: int, port: int, data: bytes) -> bytes:
    """Return a datagram."""
    length = udp.SIZE + len(data)
    header = udp.HEADER.pack(source_port, port, length, 0)
    total = ones_sum(header + data, length) + length
    total += pseudo_header(ADDRESS + destination, ipv4.PROTOCOL_UDP)
    header = udp.HEADER.pack(source_port, port, length, checksum(total))
    return packet(ipv4.PROTOCOL_UDP, header + data, destination)


def discover(mac: bytes) -> bytes:
    """Return a DHCPDISCOVER of a client with that address."""
    message = bytes((1, 1, 6, 0)) + mac[2:] + bytes(20) + mac.ljust(16, b"\0") + bytes(192)
    message += _COOKIE + _DISCOVER
    length = udp.SIZE + len(message)
    body = udp.HEADER.pack(68, 67, length, 0) + message
    header = ipv4.build_header(bytes(4), BROADCAST[:4], ipv4.PROTOCOL_UDP, length)
    return eth(header + body, source=mac, destination=BROADCAST)


def segment(
    destination: bytes,
    ports: tuple[int, int],
    seq: int,
    ack: int,
    flags: int,
    *,
    window: int = 0xFFFF,
    options: bytes = b"",
    data: bytes = b"",
) -> bytes:
    """Return a segment; `ports` are the source's and the destination's."""
    size = tcp.SIZE + len(options)
    bits = size >> 2 << 12 | flags
    numbers = (*ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, bits, window)
    text = tcp.HEADER.pack(*numbers, 0, 0) + options + data
    total = ones_sum(text, len(text)) + len(text)
    total += pseudo_header(ADDRESS + destination, ipv4.PROTOCOL_TCP)
    text = tcp.HEADER.pack(*numbers, checksum(total), 0) + options + data
    return packet(ipv4.PROTOCOL_TCP, text, destination)
