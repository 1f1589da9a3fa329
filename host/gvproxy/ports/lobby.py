"""Connections that have not said yet what they want: few, and not for long."""

import logging
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from contextlib import suppress

from gvproxy.complaint import Complaint
from taplink.framing import LinkError
from taplink.text import reason

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

    def __init__(
        self,
        loop: AbstractEventLoop,
        refusal: bytes = b"",
        timeout: float | None = TIMEOUT,
        limit: int | None = None,
    ) -> None:
        """`refusal` is what a connection is told that makes no sense; it may be silent for ever
        where there is no timeout.  `limit` is of connections, MAX_WAITING where it is not given.
        """
        self.loop = loop
        self.refusal = refusal
        self.timeout = timeout
        self.limit = MAX_WAITING if limit is None else limit
        self.waiting: dict[_Visitor, None] = {}
        self._complaint = Complaint(log)

    def enter(self, sock: socket.socket, where: str, feed: Feed, read: Read = _read) -> None:
        """Read from a socket, non-blocking, by `read`, until `feed` knows who takes it.

        `where` is the listener's name.
        """
        if len(self.waiting) >= self.limit:
            next(iter(self.waiting)).close()
        _Visitor(self, sock, where, feed, read)

    def close(self) -> None:
        """End all connections that are here."""
        for visitor in list(self.waiting):
            visitor.close()

    def complain(self, where: str, error: LinkError | OSError) -> None:
        """Say that one was refused."""
        self._complaint.make(self.loop.time(), "refused at %s: %s", where, reason(error))


class _Visitor:
    """One connection."""

    __slots__ = ("_feed", "_lobby", "_read", "_sock", "_timer", "_where")

    def __init__(
        self, lobby: Lobby, sock: socket.socket, where: str, feed: Feed, read: Read
    ) -> None:
        self._lobby = lobby
        self._sock = sock
        self._where = where
        self._feed = feed
        self._read = read
        self._timer: TimerHandle | None = None
        if lobby.timeout is not None:
            self._timer = lobby.loop.call_later(lobby.timeout, self.close)
        lobby.waiting[self] = None
        try:
            lobby.loop.add_reader(sock.fileno(), self._readable)
        except OSError as error:
            lobby.complain(where, error)
            self.close()

    def close(self) -> None:
        self._leave()
        self._sock.close()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._lobby.loop.remove_reader(self._sock.fileno())
        self._lobby.waiting.pop(self, None)

    def _readable(self) -> None:
        try:
            data = self._read(self._sock)
            follow = self._feed(data) if data else None
        except (BlockingIOError, InterruptedError):
            return
        except LinkError as error:
            self._lobby.complain(self._where, error)
            with suppress(OSError):
                self._sock.send(self._lobby.refusal)
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
