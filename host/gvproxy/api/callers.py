"""The connections on which HTTP is spoken: so many at a time, and none of them for nothing.

aiohttp bounds what one connection may send at once; here is what it does not: how many connections
there are, and how long one may be there between two answers, however slowly it sends.  Past the
limit the one that has waited the longest for its next request gives way to a new one; where all
are being answered, the new one is told to come again.

How long an answer takes is its handler's affair.
"""

import asyncio
import logging
import socket
from asyncio import AbstractEventLoop, TimerHandle
from functools import partial
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler

from gvproxy.ports.access import Refusal
from taplink.text import reason

log = logging.getLogger(__name__)

FIRST_TIMEOUT = 10.0
"""Seconds for a first request's head, as in `gvproxy.ports.lobby`."""
IDLE_TIMEOUT = 30.0
"""Seconds from one answer to the end of the next request's head; nginx has 75, Apache 5."""
MAX_REQUESTS = 100
"""Of one connection, Apache's MaxKeepAliveRequests: all that have come are answered in one turn of
the loop, which guests' frames wait for."""

_FULL = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "there are too many callers")


class Callers:
    """The connections of one application; `limit` is how many there may be."""

    def __init__(self, loop: AbstractEventLoop, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.refused = 0
        """How many were sent away, or had to give way."""
        self._loop = loop
        self._idle: dict[_Caller, None] = {}
        self._callers: dict[object, _Caller] = {}
        """By what aiohttp calls the protocol of a request."""
        self._adopting: set[asyncio.Task[None]] = set()

    def make_protocol(self, server: web.Server, received: bytes = b"") -> asyncio.Protocol:
        """Make the protocol of a connection on which `received` has come already."""
        return _Caller(self, server(), received)

    def adopt(self, server: web.Server, sock: socket.socket, received: bytes) -> None:
        """Serve HTTP on `sock`, non-blocking, of which `received` has been read."""
        task = self._loop.create_task(self._adopt(server, sock, received))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt(self, server: web.Server, sock: socket.socket, received: bytes) -> None:
        try:
            make = partial(self.make_protocol, server, received)
            await self._loop.connect_accepted_socket(make, sock)
        except OSError as error:  # no memory to poll it
            log.debug("a caller is sent away: %s", reason(error))
            sock.close()

    def serve(self, app: web.Application) -> None:
        """Be told of the requests of an application, by the outermost of its middlewares."""
        app.middlewares.insert(0, self._answer)

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = self._callers.get(request.protocol)
        if caller is None:
            return await handler(request)
        caller.busy()
        try:
            response = await handler(request)
            if caller.requests >= MAX_REQUESTS:
                response.force_close()
            return response
        finally:
            caller.wait(IDLE_TIMEOUT)

    def _has_room(self) -> bool:
        if self.used < self.limit:
            return True
        self.refused += 1
        if not self._idle:
            return False
        next(iter(self._idle)).close()
        return True


class _Caller(asyncio.Protocol):
    """One connection: hands what comes to aiohttp's protocol, and ends it when it is time."""

    def __init__(self, callers: Callers, handler: asyncio.Protocol, received: bytes) -> None:
        self.requests = 0
        self._callers = callers
        self._handler = handler
        self._received = received
        self._transport: asyncio.Transport | None = None
        self._timer: TimerHandle | None = None
        self._counted = False

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        callers = self._callers
        if not callers._has_room():
            self._handler = asyncio.Protocol()
            self._transport.write(_FULL.response())
            self._transport.close()
            return
        callers.used += 1
        self._counted = True
        callers._callers[self._handler] = self
        self._handler.connection_made(transport)
        self.wait(FIRST_TIMEOUT)
        if self._received:
            callers._idle.pop(self, None)  # its request comes first
            self._handler.data_received(self._received)

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._handler.connection_lost(error)

    # What the application tells

    def busy(self) -> None:
        """Take the time a request needs."""
        self.requests += 1
        self._callers._idle.pop(self, None)
        self._stop()

    def wait(self, timeout: float) -> None:
        """Give the next request so many seconds to come."""
        if self._counted:
            self._stop()
            self._callers._idle[self] = None
            self._timer = self._callers._loop.call_later(timeout, self.close)

    def close(self) -> None:
        """End it, and count it no longer."""
        self._leave()
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # it does not even take its answers
        else:
            self._transport.close()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._stop()
        if self._counted:
            self._counted = False
            self._callers.used -= 1
            self._callers._idle.pop(self, None)
            self._callers._callers.pop(self._handler, None)
