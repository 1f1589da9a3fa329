"""Which ICMP code tells a guest what an errno told the host.

The guest's kernel makes the same errno of it again (Linux: net/ipv4/icmp.c, icmp_err_convert), so
an application sees what it would have seen on the host.
"""

import errno

from gvproxy.wire import icmp

_CODES = {
    errno.ENETUNREACH: icmp.NET_UNREACHABLE,
    errno.EHOSTUNREACH: icmp.HOST_UNREACHABLE,
    errno.EHOSTDOWN: icmp.HOST_UNREACHABLE,
    errno.ENOPROTOOPT: icmp.PROTOCOL_UNREACHABLE,
    errno.ECONNREFUSED: icmp.PORT_UNREACHABLE,
    errno.EACCES: icmp.ADMIN_PROHIBITED,
    errno.EPERM: icmp.ADMIN_PROHIBITED,
}


def code_for(error: int) -> int | None:
    """Return the code of "destination unreachable" for an errno, None where there is none."""
    return _CODES.get(error)
