"""ICMP for IPv4 (RFC 792)."""

from struct import Struct

from gvproxy.wire.checksum import checksum, ones_sum

HEADER = Struct("!BBHI")  # type, code, checksum, rest of the header
SIZE = HEADER.size

ECHO_REPLY = 0
UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11

NET_UNREACHABLE = 0
HOST_UNREACHABLE = 1
PROTOCOL_UNREACHABLE = 2
PORT_UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
ADMIN_PROHIBITED = 13

HARD = frozenset((2, 3, 6, 7, 8, 9, 10, 13, 14, 15))
"""Codes of "unreachable" that trying again does not mend (RFC 1122 §4.2.3.9; Linux: icmp_err)."""

QUOTE = 28
"""Bytes of the offending packet an error quotes at least: its header and eight more."""


def build(kind: int, code: int, rest: int, body: bytes) -> bytes:
    """Return a whole ICMP message; `rest` is the header's last four bytes as a number."""
    total = (kind << 8 | code) + (rest >> 16) + (rest & 0xFFFF) + ones_sum(body, len(body))
    return HEADER.pack(kind, code, checksum(total), rest) + body
