"""Has the kernel end a link over TCP whose other machine is gone without a word.

One that was switched off, or behind a NAT that has forgotten the connection, sends no FIN and no
RST.  Keep-alive probes find that out while nothing is sent, TCP_USER_TIMEOUT while something is
(RFC 5482); without the latter the kernel tries again for a quarter of an hour.

Not for a peer on this machine, whose end is always told.  There is a price, which only matters
there: TCP_USER_TIMEOUT also ends a connection whose peer is well and reads nothing for so long
(tcp_probe_timer in net/ipv4/tcp_timer.c), and a VM that is paused is such a peer.
"""

import ipaddress
import socket

IDLE = 10
"""Seconds of silence before the first probe."""
INTERVAL = 5
"""Seconds between probes."""
PROBES = 3
"""Unanswered, and the link has ended."""


def dead_after() -> int:
    """Return the seconds after which a dead link has ended."""
    return IDLE + INTERVAL * PROBES


def end_when_dead(sock: socket.socket) -> None:
    """Set the options of a connected socket, as far as the system has them.

    Of other than TCP, and of a peer that has gone, nothing is set.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        if _is_here(sock.getpeername()[0]):
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", IDLE),
            ("TCP_KEEPINTVL", INTERVAL),
            ("TCP_KEEPCNT", PROBES),
            ("TCP_USER_TIMEOUT", dead_after() * 1000),
        ):
            if (option := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        pass  # reading tells


def _is_here(host: str) -> bool:
    """Tell whether an address is of this machine's loopback."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
