"""Takes what comes to the daemon's listening sockets and finds out what it wants.

The first request head of a connection is read here, not by an HTTP library, for behind the head of
/connect frames may follow in the same read.  A link goes to `link`; anything else goes, with the
bytes read so far, to `http`.
"""

import errno
import logging
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from contextlib import suppress

from taplink import endpoint
from taplink.framing import LinkError
from taplink.upgrade import Request, RequestReader

log = logging.getLogger(__name__)

ACCEPTS_PER_WAKEUP = 64
MAX_WAITING = 256
"""Connections whose head is not complete; another one takes the place of the oldest."""
HEAD_TIMEOUT = 10.0
"""Seconds for a request head, as nginx and Apache have it by the order of magnitude."""
FULL_PAUSE = 0.5
"""Seconds without accepting when there is no descriptor left."""
_READ_SIZE = 16 * 1024
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Handler = Callable[[socket.socket, Request], None]
"""Takes over a connection: its socket, non-blocking, and what has been read of it."""


class Reception:
    """Listens on any number of sockets until it is closed."""

    def __init__(self, loop: AbstractEventLoop, link: Handler, http: Handler) -> None:
        self._loop = loop
        self._link = link
        self._http = http
        self._listeners: list[socket.socket] = []
        self._waiting: dict[_Visitor, None] = {}
        self._pauses: set[TimerHandle] = set()

    def listen(self, sock: socket.socket) -> None:
        """Accept on `sock`, non-blocking and listening, which belongs to the reception now."""
        self._listeners.append(sock)
        self._loop.add_reader(sock.fileno(), self._accept, sock)

    def close(self) -> None:
        """Stop listening, and end the connections that have not said what they want."""
        for pause in self._pauses:
            pause.cancel()
        for sock in self._listeners:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()
        for visitor in list(self._waiting):
            visitor.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_WAKEUP):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    log.warning("cannot accept: %s", error.strerror)
                    self._pause(listener)
                    return
                continue  # that one has gone already
            if len(self._waiting) >= MAX_WAITING:
                next(iter(self._waiting)).close()
            _Visitor(self._loop, endpoint.accepted(sock), self._waiting, self._decide)

    def _pause(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener.fileno())

        def resume() -> None:
            self._pauses.discard(pause)
            self._loop.add_reader(listener.fileno(), self._accept, listener)

        pause = self._loop.call_later(FULL_PAUSE, resume)
        self._pauses.add(pause)

    def _decide(self, sock: socket.socket, request: Request) -> None:
        path = request.target.partition("?")[0]
        handler = self._link if (request.method, path) == ("POST", "/connect") else self._http
        handler(sock, request)


class _Visitor:
    """A connection whose request head is being read."""

    __slots__ = ("_decide", "_loop", "_reader", "_sock", "_timer", "_waiting")

    def __init__(
        self,
        loop: AbstractEventLoop,
        sock: socket.socket,
        waiting: dict["_Visitor", None],
        decide: Handler,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._waiting = waiting
        self._decide = decide
        self._reader = RequestReader()
        self._timer = loop.call_later(HEAD_TIMEOUT, self.close)
        waiting[self] = None
        loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        self._leave()
        self._sock.close()

    def _leave(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._waiting.pop(self, None)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
            request = self._reader.feed(data) if data else None
        except (BlockingIOError, InterruptedError):
            return
        except LinkError as error:
            log.debug("a connection was refused: %s", error)
            with suppress(OSError):
                self._sock.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            self.close()
            return
        except OSError:
            self.close()
            return
        if request is not None:
            self._leave()
            self._decide(self._sock, request)
        elif not data:
            self.close()
