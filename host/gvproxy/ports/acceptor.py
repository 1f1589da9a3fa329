"""Accepts connections on a listening socket, a bounded number in a turn of the loop.

When descriptors or memory run out, the connections wait in the kernel's queue: a listener that
stays readable would wake the loop again at once, and what holds the descriptors would not get to
give any back.
"""

import logging
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

from gvproxy.complaint import Complaint
from gvproxy.errors import OUT_OF_RESOURCES

log = logging.getLogger(__name__)

ACCEPTS_PER_WAKEUP = 64
FULL_PAUSE = 0.5
"""Seconds without accepting when there is no descriptor left."""


class Acceptor:
    """Hands connections to `accepted`, non-blocking and to keep, until it is closed.

    The listener, non-blocking and listening, belongs to the acceptor.
    """

    __slots__ = ("_accepted", "_complaint", "_listener", "_loop", "_pause")

    def __init__(
        self,
        loop: AbstractEventLoop,
        listener: socket.socket,
        accepted: Callable[[socket.socket], object],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._accepted = accepted
        self._pause: TimerHandle | None = None
        self._complaint = Complaint(log)
        self._listen()

    def close(self) -> None:
        """Stop listening; what was accepted goes on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_WAKEUP):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self._wait(error)
                    return
                continue  # that one has gone already
            sock.setblocking(False)
            self._accepted(sock)

    def _wait(self, error: OSError) -> None:
        now = self._loop.time()
        where = self._listener.getsockname()
        self._complaint.make(now, "cannot accept on %s: %s", where, error.strerror)
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(FULL_PAUSE, self._listen)
