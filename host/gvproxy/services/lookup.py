"""Looks the names of hosts up: local ones first, then as any program on the host does."""

import asyncio
import socket
from collections.abc import Collection
from ipaddress import IPv4Address

from gvproxy.services import background
from gvproxy.services.localnames import LocalNames

TIMEOUT = 5.0
"""Seconds until nobody knows a name; as long as resolv.conf(5) has one server asked."""


async def look_up(names: LocalNames, name: str) -> Collection[IPv4Address]:
    """Return a name's IPv4 addresses, none where it has none or nobody answers."""
    loop = asyncio.get_running_loop()
    local = names.addresses(name, loop.time())
    if local is not None:
        return [address for address in local if isinstance(address, IPv4Address)]
    try:
        async with asyncio.timeout(TIMEOUT):
            infos = await background.call(
                lambda: socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
            )
    except (OSError, UnicodeError):  # TimeoutError among them
        return []
    return [IPv4Address(str(info[4][0])) for info in infos]
