"""Takes what comes to the daemon's listening sockets and finds out what it wants.

The first request head of a connection is read here, not by an HTTP library, for behind the head of
/connect frames may follow in the same read, and behind that of /tunnel what is for the guest.  Each
of `posts` gets the POSTs to one path; anything else goes, with the bytes read so far, to `http`.
"""

import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from contextlib import suppress

from gvproxy.ports.acceptor import Acceptor
from taplink import endpoint
from taplink.framing import LinkError
from taplink.upgrade import Request, RequestReader

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Connections whose head is not complete; another one takes the place of the oldest."""
HEAD_TIMEOUT = 10.0
"""Seconds for a request head, as nginx and Apache have it by the order of magnitude."""
_READ_SIZE = 16 * 1024

Handler = Callable[[socket.socket, Request], None]
"""Takes over a connection: its socket, non-blocking, and what has been read of it."""


class Reception:
    """Listens on any number of sockets until it is closed."""

    def __init__(
        self, loop: AbstractEventLoop, posts: Mapping[str, Handler], http: Handler
    ) -> None:
        self._loop = loop
        self._posts = posts
        self._http = http
        self._acceptors: list[Acceptor] = []
        self._waiting: dict[_Visitor, None] = {}

    def listen(self, sock: socket.socket) -> None:
        """Accept on `sock`, non-blocking and listening, which belongs to the reception now."""
        self._acceptors.append(Acceptor(self._loop, sock, self._accepted))

    def close(self) -> None:
        """Stop listening, and end the connections that have not said what they want."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        for visitor in list(self._waiting):
            visitor.close()

    def _accepted(self, sock: socket.socket) -> None:
        if len(self._waiting) >= MAX_WAITING:
            next(iter(self._waiting)).close()
        _Visitor(self._loop, endpoint.accepted(sock), self._waiting, self._decide)

    def _decide(self, sock: socket.socket, request: Request) -> None:
        path = request.target.partition("?")[0]
        posts = self._posts if request.method == "POST" else {}
        posts.get(path, self._http)(sock, request)


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
