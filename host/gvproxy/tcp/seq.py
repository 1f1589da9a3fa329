"""Sequence numbers: 32 bits on the wire, growing integers inside.

A number from the wire is unwrapped next to one we know (`rcv_nxt` or `snd_una`), after which `<`
and `-` mean what they say.  The way back is `& MASK`.
"""

MASK = 0xFFFFFFFF
_HALF = 0x80000000


def unwrap(number: int, near: int) -> int:
    """Return the integer nearest to `near` whose low 32 bits are `number`.

    May be negative, for a peer that names what lies before a small `near`.
    """
    return near + ((number - near + _HALF) & MASK) - _HALF
