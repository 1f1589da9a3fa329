"""Ethernet II headers."""

from struct import Struct

HEADER = Struct("!6s6sH")  # destination, source, type
SIZE = HEADER.size

TYPE_IPV4 = 0x0800
TYPE_ARP = 0x0806
TYPE_IPV6 = 0x86DD

BROADCAST = b"\xff" * 6


def is_multicast(mac: bytes) -> bool:
    """Tell a group address, broadcast among them, from a station's own."""
    return bool(mac[0] & 1)


def format_mac(mac: bytes) -> str:
    """Write a MAC address as its six bytes in hexadecimal, joined by colons."""
    return mac.hex(":")
