"""ICMP errors about what an unconnected socket has sent: Linux's error queue (IP_RECVERR)."""

import socket
from struct import Struct
from typing import NamedTuple

IP_RECVERR = 11  # linux/in.h; the socket module has no name for it
MSG_ERRQUEUE = getattr(socket, "MSG_ERRQUEUE", 0)
SO_EE_ORIGIN_ICMP = 2  # linux/errqueue.h
_EXTENDED_ERROR = Struct("@IBBBBII")  # errno, origin, type, code, padding, info, data
_MOST = 16


class NetworkError(NamedTuple):
    """One ICMP error: what it was, and about a packet to whom."""

    kind: int
    code: int
    address: tuple[str, int]


def enable(sock: socket.socket) -> None:
    """Have errors queued; elsewhere than on Linux there are none."""
    if MSG_ERRQUEUE:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def drain(sock: socket.socket) -> list[NetworkError]:
    """Return the errors that ICMP told of and are queued; call again for more than a few."""
    errors: list[NetworkError] = []
    while MSG_ERRQUEUE and len(errors) < _MOST:
        try:
            _, ancillary, _, address = sock.recvmsg(0, 512, MSG_ERRQUEUE)
        except OSError:
            break
        for level, kind, data in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, IP_RECVERR):
                _, origin, icmp_type, code, *_ = _EXTENDED_ERROR.unpack_from(data)
                if origin == SO_EE_ORIGIN_ICMP:
                    errors.append(NetworkError(icmp_type, code, address))
    return errors
