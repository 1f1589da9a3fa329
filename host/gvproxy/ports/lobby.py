"""Connections that have not said yet what they want: few, and not for long."""

import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress

from taplink.framing import LinkError

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Connections at a time; another one takes the place of the oldest."""
TIMEOUT = 10.0
"""Seconds, as nginx and Apache have it for a request's head by the order of magnitude."""
_READ_SIZE = 16 * 1024

Next = Callable[[], object]
Feed = Callable[[bytes], Next | None]
"""Takes what was read; returns what takes the connection over, once that is known.

Raises LinkError for what makes no sense, and OSError when the connection has gone.
"""

Read = Callable[[socket.socket], bytes]
"""Reads once; nothing is the end.  Raises OSError."""


def _read(sock: socket.socket) -> bytes:
    return sock.recv(_READ_SIZE)


class Lobby:
    """The connections of one kind of listener."""

    def __init__(self, loop: AbstractEventLoop, refusal: bytes = b"") -> None:
        """`refusal` is what a connection is told that makes no sense."""
        self._loop = loop
        self._refusal = refusal
        self._waiting: dict[_Visitor, None] = {}

    def enter(self, sock: socket.socket, feed: Feed, read: Read | None = None) -> None:
        """Read from a socket, non-blocking, by `read`, until `feed` knows who takes it."""
        if len(self._waiting) >= MAX_WAITING:
            next(iter(self._waiting)).close()
        _Visitor(self._loop, sock, feed, read or _read, self._refusal, self._waiting)

    def close(self) -> None:
        """End all connections that are here."""
        for visitor in list(self._waiting):
            visitor.close()


class _Visitor:
    """One connection."""

    __slots__ = ("_feed", "_loop", "_read", "_refusal", "_sock", "_timer", "_waiting")

    def __init__(
        self,
        loop: AbstractEventLoop,
        sock: socket.socket,
        feed: Feed,
        read: Read,
        refusal: bytes,
        waiting: dict["_Visitor", None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._feed = feed
        self._read = read
        self._refusal = refusal
        self._waiting = waiting
        self._timer = loop.call_later(TIMEOUT, self.close)
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
            data = self._read(self._sock)
            follow = self._feed(data) if data else None
        except (BlockingIOError, InterruptedError):
            return
        except LinkError as error:
            log.debug("a connection was refused: %s", error)
            with suppress(OSError):
                self._sock.send(self._refusal)
            self.close()
            return
        except OSError:
            self.close()
            return
        if follow is not None:
            self._leave()
            follow()
        elif not data:
            self.close()
