"""The virtio-net header: how a frame that is larger than the MTU, or not yet checksummed, says so.

It stands before every frame on a tap opened with IFF_VNET_HDR and on a `taplink/1` link, always in
the 12-byte little-endian form of VIRTIO 1.x (`struct virtio_net_hdr_v1`, include/uapi/linux/
virtio_net.h).  Names are the kernel's.
"""

from enum import IntFlag
from struct import Struct

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
HEADER = Struct("<BBHHHHH")
SIZE = HEADER.size

F_NEEDS_CSUM = 1
"""The checksum field holds only the pseudo-header's sum; whoever puts it on a wire completes it."""
F_DATA_VALID = 2
"""The checksum was verified by whoever sent the frame."""
TRUSTED = F_NEEDS_CSUM | F_DATA_VALID
"""Either way there is nothing to verify."""

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80
"""Or-ed to the type: the segment carries CWR."""

PLAIN = bytes(SIZE)
"""The header of a frame that is complete as it stands."""


class Offload(IntFlag):
    """What a peer lets the other side leave undone; values are TUNSETOFFLOAD's (linux/if_tun.h)."""

    NONE = 0
    CSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    TSO_ECN = 0x08
    USO4 = 0x20
    USO6 = 0x40


_TOKENS = {
    "csum": Offload.CSUM,
    "tso4": Offload.TSO4,
    "tso6": Offload.TSO6,
    "ecn": Offload.TSO_ECN,
    "uso4": Offload.USO4,
    "uso6": Offload.USO6,
}


def parse_offload(value: str) -> Offload:
    """Read a `Taplink-Offload` header; unknown tokens are a newer peer's and are left out."""
    offload = Offload.NONE
    for token in value.split(","):
        offload |= _TOKENS.get(token.strip().lower(), Offload.NONE)
    # Every segmentation offload leaves checksums undone as well (linux/if_tun.h).
    return offload if offload & Offload.CSUM else Offload.NONE


def format_offload(offload: Offload) -> str:
    """Write the value of a `Taplink-Offload` header."""
    return ",".join(token for token, flag in _TOKENS.items() if flag in offload)
