"""TCP headers and their options (RFC 9293 §3.1, §3.2; RFC 7323; RFC 2018)."""

from dataclasses import dataclass
from struct import Struct

# source port, destination port, sequence number, acknowledgment number, data offset and flags,
# window, checksum, urgent pointer
HEADER = Struct("!HHIIHHHH")
SIZE = HEADER.size
CHECKSUM_OFFSET = 16

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20
FLAGS = 0x3F
"""The flags above; ECE and CWR (RFC 3168) are outside: ECN is not negotiated."""

OPTION_END = 0
OPTION_NOP = 1
OPTION_MSS = 2
OPTION_WINDOW_SCALE = 3
OPTION_SACK_PERMITTED = 4
OPTION_SACK = 5
OPTION_TIMESTAMPS = 8

MAX_WINDOW_SHIFT = 14  # RFC 7323 §2.3
DEFAULT_MSS = 536  # RFC 9293 §3.7.1: when the other side names none
MIN_MSS = 88
"""Below this a SYN's MSS is an attack on our time; Linux: TCP_MIN_MSS."""

TIMESTAMPS_WORD = 0x0101080A
"""NOP, NOP, kind 8, length 10: the shape of RFC 7323 appendix A that everyone sends."""
TIMESTAMPS = Struct("!III")  # TIMESTAMPS_WORD, TSval, TSecr
_MSS = Struct("!H")
_PAIR = Struct("!II")


@dataclass(slots=True)
class Options:
    """What the options of one segment say; None or empty for those that are not there."""

    mss: int | None = None
    window_shift: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()


def parse_options(data: bytes) -> Options:
    """Read the options of a segment; one that is malformed ends the reading (MUST-7: no error)."""
    options = Options()
    position, end = 0, len(data)
    while position < end:
        kind = data[position]
        if kind == OPTION_END:
            break
        if kind == OPTION_NOP:
            position += 1
            continue
        if position + 1 >= end:
            break
        length = data[position + 1]
        if length < 2 or position + length > end:
            break
        body = position + 2
        if kind == OPTION_MSS and length == 4:
            options.mss = _MSS.unpack_from(data, body)[0]
        elif kind == OPTION_WINDOW_SCALE and length == 3:
            options.window_shift = min(data[body], MAX_WINDOW_SHIFT)
        elif kind == OPTION_SACK_PERMITTED and length == 2:
            options.sack_permitted = True
        elif kind == OPTION_TIMESTAMPS and length == 10:
            options.timestamps = _PAIR.unpack_from(data, body)
        elif kind == OPTION_SACK and length > 2 and (length - 2) % 8 == 0:
            options.sack = tuple(_PAIR.iter_unpack(data[body : position + length]))
        position += length
    return options


def build_syn_options(
    mss: int, window_shift: int | None, sack: bool, timestamps: tuple[int, int] | None
) -> bytes:
    """Return the options of a SYN, padded to whole words."""
    options = bytes((OPTION_MSS, 4)) + _MSS.pack(mss)
    if sack:
        options += bytes((OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2))
    if timestamps:
        options += TIMESTAMPS.pack(TIMESTAMPS_WORD, *timestamps)
    if window_shift is not None:
        options += bytes((OPTION_NOP, OPTION_WINDOW_SCALE, 3, window_shift))
    return options


def build_sack(blocks: list[tuple[int, int]]) -> bytes:
    """Return a SACK option for up to four blocks of (left, right) edges, padded to whole words."""
    edges = b"".join(_PAIR.pack(left, right) for left, right in blocks)
    return bytes((OPTION_NOP, OPTION_NOP, OPTION_SACK, 2 + len(edges))) + edges
