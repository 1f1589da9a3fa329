"""IPv4 headers (RFC 791)."""

from struct import Struct

from gvproxy.wire.checksum import checksum, ones_sum

# version and header length, DSCP, total length, identification, flags and fragment offset,
# time to live, protocol, checksum, source, destination
HEADER = Struct("!BBHHHBBH4s4s")
SIZE = HEADER.size
VERSION = 0x45
"""Version 4 with a header of five words, that is without options."""

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
OFFSET_MASK = 0x1FFF
"""Of the fragment offset, in units of eight bytes."""

PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

TTL = 64
MAX_PACKET = 65535
MIN_MTU = 576
"""What every host must be able to reassemble (RFC 1122 §3.3.2)."""


def build_header(
    source: bytes,
    destination: bytes,
    protocol: int,
    length: int,
    *,
    identification: int = 0,
    fragment: int = DONT_FRAGMENT,
    ttl: int = TTL,
) -> bytes:
    """Return a 20-byte header before `length` bytes of payload.

    An identification of 0 is right where DF is set: such a packet is atomic (RFC 6864 §4.1).
    """
    total = SIZE + length
    header = HEADER.pack(
        VERSION, 0, total, identification, fragment, ttl, protocol, 0, source, destination
    )
    return HEADER.pack(
        VERSION,
        0,
        total,
        identification,
        fragment,
        ttl,
        protocol,
        checksum(ones_sum(header, SIZE)),
        source,
        destination,
    )
