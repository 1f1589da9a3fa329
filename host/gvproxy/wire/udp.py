"""UDP headers (RFC 768)."""

from struct import Struct

HEADER = Struct("!HHHH")  # source port, destination port, length, checksum
SIZE = HEADER.size
CHECKSUM_OFFSET = 6
