"""Ethernet II headers, and what may be between them and a packet: VLAN tags, and LLC's header."""

from struct import Struct

HEADER = Struct("!6s6sH")  # destination, source, type
SIZE = HEADER.size

TYPE_IPV4 = 0x0800
TYPE_ARP = 0x0806
TYPE_IPV6 = 0x86DD

TAGS = frozenset((0x8100, 0x88A8, 0x9100))  # 802.1Q, 802.1ad, and what came before that
MAX_TAGS = 4
"""VLAN tags of a frame; 802.1ad has two."""
MAX_LENGTH = 1500  # up to here a type is a length (802.3)
_SNAP = bytes.fromhex("aaaa03000000")  # RFC 1042, which hosts may understand (RFC 1122 §2.3.3)

BROADCAST = b"\xff" * 6


def is_multicast(mac: bytes) -> bool:
    """Tell a group address, broadcast among them, from a station's own."""
    return bool(mac[0] & 1)


def format_mac(mac: bytes) -> str:
    """Write a MAC address as its six bytes in hexadecimal, joined by colons."""
    return mac.hex(":")


def behind_tags(frame: bytes | memoryview, at: int, kind: int) -> tuple[int, int]:
    """Return type and place of what stands behind tags; a tag where there are too many.

    `kind` is the type of what stands at `at`.
    """
    for _ in range(MAX_TAGS):
        if kind in TAGS and len(frame) >= at + 4:
            at += 4
        elif kind <= MAX_LENGTH and frame[at : at + 6] == _SNAP and len(frame) >= at + 8:
            at += 8
        else:
            break
        kind = frame[at - 2] << 8 | frame[at - 1]
    return kind, at
