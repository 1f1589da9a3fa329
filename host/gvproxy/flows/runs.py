"""Datagrams of one size in one call, as Linux has it: UDP_SEGMENT and UDP_GRO (udp(7)).

A run is several datagrams with the same peer, of one size but for a smaller last one.  Elsewhere
than on Linux, and before 5.0, each is one datagram.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from struct import Struct

from gvproxy.stack.sessions import MAX_PAYLOAD, MAX_SEGMENTS

SOL_UDP = 17
UDP_SEGMENT = 103  # linux/udp.h; the socket module has no names for them
UDP_GRO = 104
MAX_DATAGRAM = 65535

Address = tuple[str, int]

_SIZE_OUT, _SIZE_IN = Struct("H"), Struct("i")
_SPACE = socket.CMSG_SPACE(_SIZE_IN.size) if hasattr(socket, "CMSG_SPACE") else 0
_buffer = memoryview(bytearray(4 * MAX_DATAGRAM))
"""Shared: what is read is handed on before another socket is looked at."""


def enable(sock: socket.socket) -> None:
    """Have a UDP socket read runs, where the kernel knows of them."""
    if _SPACE:
        with suppress(OSError):
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)


def send(sock: socket.socket, run: Sequence[memoryview], size: int, address: Address) -> None:
    """Send a run, whose views need not end where datagrams do; raises OSError."""
    sock.sendmsg(run, ((SOL_UDP, UDP_SEGMENT, _SIZE_OUT.pack(size)),), 0, address)


def receive(sock: socket.socket, reads: int) -> Iterator[tuple[bytes, int, Address]]:
    """Yield runs, the size of their datagrams and who has sent them, from so many reads.

    Raises OSError, of which BlockingIOError says that there is no more.
    """
    start = end = size = 0
    peer: Address | None = None  # of the run that is in the buffer from `start` to `end`
    failure: OSError | None = None
    for _ in range(reads):
        try:
            count, ancillary, _, address = sock.recvmsg_into((_buffer[end:],), _SPACE)
        except OSError as error:
            failure = error
            break
        each = _SIZE_IN.unpack(ancillary[0][2])[0] if ancillary else count
        if peer is not None and (
            address != peer
            or not count
            or each > size
            or (each < size and count > each)  # only one may be smaller
            or end - start + count > min(size * MAX_SEGMENTS, MAX_PAYLOAD)
        ):
            yield bytes(_buffer[start:end]), size, peer
            start, peer = end, None
        if peer is None:
            size, peer = each, address
        end += count
        if not count or count % size or end + MAX_DATAGRAM > len(_buffer):
            yield bytes(_buffer[start:end]), size, peer
            start = end = 0
            peer = None
    if peer is not None:
        yield bytes(_buffer[start:end]), size, peer
    if failure is not None:
        raise failure
