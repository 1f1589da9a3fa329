"""What this process may do, of what the superuser may (capabilities(7))."""

import ctypes
from struct import Struct

CAP_NET_ADMIN = 12  # linux/capability.h
CAP_SYS_MODULE = 16

_VERSION_3 = 0x20080522
_HEADER = Struct("Ii")
_DATA = Struct("6I")
"""Effective, permitted, inheritable: the lower 32 of each, then the upper."""
_libc = ctypes.CDLL(None)


def has_capability(number: int) -> bool:
    """Tell whether a capability is in effect; not by /proc, which may not be there."""
    data = ctypes.create_string_buffer(_DATA.size)
    if _libc.capget(_HEADER.pack(_VERSION_3, 0), data):
        return True
    return bool(_DATA.unpack(data)[number // 32 * 3] >> number % 32 & 1)
