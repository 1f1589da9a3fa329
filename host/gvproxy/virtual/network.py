"""The virtual network as a program on the host sees it: the calls asyncio has for the kernel's.

Addresses are the virtual network's.  What listens, does so at the gateway's address or at one of
the virtual ones; what connects, comes from the gateway.  Nothing of it takes a descriptor.
"""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Container
from ipaddress import ip_address
from random import choice
from typing import TypeVar, cast

from gvproxy.limits import Limit, Quota
from gvproxy.stack.connections import EPHEMERAL
from gvproxy.stack.stack import Stack
from gvproxy.virtual.datagrams import VirtualDatagramTransport
from gvproxy.virtual.server import Members, VirtualServer
from gvproxy.virtual.transport import VirtualTransport

MAX_CLIENTS = 1024
"""Connections of one server; when there are as many, a guest's SYN waits."""
MAX_ENDPOINTS = len(EPHEMERAL) // 2
"""UDP ports that are open; as many are free, so that another is found at once (RFC 6056 §3.3.1)."""
READER_LIMIT = 64 * 1024  # bytes, asyncio's

P = TypeVar("P", bound=asyncio.BaseProtocol)
D = TypeVar("D", bound=asyncio.DatagramProtocol)
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


class VirtualNetwork:
    """TCP and UDP with the guests of one stack; all of its calls are made in the loop."""

    def __init__(self, stack: Stack, loop: asyncio.AbstractEventLoop) -> None:
        self._stack = stack
        self._loop = loop
        self._members = Members()
        self._endpoints: set[VirtualDatagramTransport] = set()

    async def open_connection(
        self, ip: str, port: int, *, limit: int = READER_LIMIT
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a guest's port, as `asyncio.open_connection`; see `create_connection`."""
        reader = asyncio.StreamReader(limit, self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self.create_connection(lambda: protocol, ip, port)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def create_connection(
        self, factory: Callable[[], P], ip: str, port: int
    ) -> tuple[VirtualTransport, P]:
        """Connect to a guest's port, as the loop's `create_connection`.

        Raises OSError: a refusal is a ConnectionRefusedError, no answer a TimeoutError after some
        three minutes, or sooner EHOSTUNREACH where nobody has the address.
        """
        transport = VirtualTransport(self._loop, factory, self._members.transports.discard)
        address, number = _where(ip, port)
        connection = self._stack.connections.open(transport, address, number, self._loop.time())
        transport.join(connection)
        self._members.transports.add(transport)
        try:
            await transport.opened
        except BaseException:
            transport.abort()
            raise
        return transport, cast(P, transport.get_protocol())

    async def start_server(
        self,
        connected: Connected,
        ip: str,
        port: int,
        *,
        limit: int = READER_LIMIT,
        max_clients: int = MAX_CLIENTS,
        quota: Quota | None = None,
    ) -> VirtualServer:
        """Serve guests with streams, as `asyncio.start_server`; see `create_server`."""

        def factory() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(limit, self._loop)
            return asyncio.StreamReaderProtocol(reader, connected, self._loop)

        return await self.create_server(factory, ip, port, max_clients=max_clients, quota=quota)

    async def create_server(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        ip: str,
        port: int,
        *,
        max_clients: int = MAX_CLIENTS,
        quota: Quota | None = None,
    ) -> VirtualServer:
        """Serve guests at an address of the gateway's, as the loop's `create_server`.

        `max_clients` is of connections at a time, eight ninths of them by one guest, unless there
        is a `quota` of them.
        Raises OSError: EADDRNOTAVAIL for an address that is not the gateway's, EADDRINUSE for a
        port that is taken.
        """
        where = self._free(ip, port, self._stack.connections.listeners)
        if quota is None:
            quota = Quota(Limit(max_clients, max_clients))
        return VirtualServer(self._stack, self._loop, factory, where, quota, self._members)

    async def create_datagram_endpoint(
        self, factory: Callable[[], D], ip: str, port: int
    ) -> tuple[VirtualDatagramTransport, D]:
        """Open a UDP port at an address of the gateway's; raises OSError as `create_server`."""
        where = self._free(ip, port, self._stack.udp.handlers)
        protocol = factory()
        return self._bind(protocol, where), protocol

    def bind(self, protocol: asyncio.DatagramProtocol) -> VirtualDatagramTransport:
        """Open any free UDP port at the gateway's address.

        Raises OSError: EADDRINUSE where as many are taken as may be.
        """
        gateway, taken = self._stack.config.gateway, self._stack.udp.handlers
        while len(self._endpoints) < MAX_ENDPOINTS:
            where = gateway, choice(EPHEMERAL)
            if where not in taken:
                return self._bind(protocol, where)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def _bind(
        self, protocol: asyncio.DatagramProtocol, where: tuple[bytes, int]
    ) -> VirtualDatagramTransport:
        transport = VirtualDatagramTransport(
            self._stack, self._loop, protocol, where, self._endpoints
        )
        protocol.connection_made(transport)
        return transport

    def _free(self, ip: str, port: int, taken: Container[tuple[bytes, int]]) -> tuple[bytes, int]:
        """Return address and port, packed, of the gateway's; raises OSError unless it is free."""
        where = _where(ip, port)
        if where[0] not in self._stack.config.owned:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL), ip)
        if where in taken:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), f"{ip}:{port}")
        return where

    def close(self) -> None:
        """End everything: servers listen no longer, connections are reset."""
        for server in list(self._members.servers):
            server.close()
        for transport in list(self._members.transports):
            transport.abort()
        for endpoint in list(self._endpoints):
            endpoint.close()


def _where(ip: str, port: int) -> tuple[bytes, int]:
    """Return a packed address and a port; raises ValueError for what is none."""
    if not 0 < port <= 65535:
        raise ValueError(f"a port is a number from 1 to 65535, not {port}")
    return ip_address(ip).packed, port
