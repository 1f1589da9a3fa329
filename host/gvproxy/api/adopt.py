"""Gives a connection whose first request head has been read already to aiohttp."""

import asyncio
import logging
import socket
from typing import cast

from aiohttp import web

from taplink.text import reason

log = logging.getLogger(__name__)


class _Adopted(asyncio.Protocol):
    """Hands the transport on at once, and the bytes read so far before any others."""

    def __init__(self, handler: asyncio.Protocol, received: bytes) -> None:
        self._handler = handler
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).set_protocol(self._handler)
        self._handler.connection_made(transport)
        self._handler.data_received(self._received)


async def adopt(server: web.Server, sock: socket.socket, received: bytes) -> None:
    """Serve HTTP on `sock`, non-blocking, of which `received` has been read."""
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_accepted_socket(lambda: _Adopted(server(), received), sock)
    except OSError as error:  # no memory to poll it
        log.debug("a caller is sent away: %s", reason(error))
        sock.close()
