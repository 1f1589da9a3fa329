"""Accepts connections on a listening socket, a bounded number in a turn of the loop.

A queue that is longer waits a moment where each connection costs much: clients that come and leave
all the time are not to take the loop from those who stay.

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
FEW_ACCEPTS = 4
FEW_PAUSE = 0.02
"""Of connections that cost much, such as a guest's: 0.4 ms in all."""
FULL_PAUSE = 0.5
"""Seconds without accepting when there is no descriptor left."""


class Acceptor:
    """Hands connections to `accepted`, non-blocking and to keep, until it is closed.

    The listener, non-blocking and listening, belongs to the acceptor.
    """

    __slots__ = ("_accepted", "_complaint", "_few", "_listener", "_loop", "_pause")

    def __init__(
        self,
        loop: AbstractEventLoop,
        listener: socket.socket,
        accepted: Callable[[socket.socket], object],
        *,
        few: bool = False,
    ) -> None:
        """`few` is for connections that cost much: no more than 200 a second."""
        self._loop = loop
        self._few = few
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
        try:
            self._loop.add_reader(self._listener.fileno(), self._accept)
        except OSError as error:
            self._complain(error)
            self._pause = self._loop.call_later(FULL_PAUSE, self._listen)

    def _accept(self) -> None:
        for _ in range(FEW_ACCEPTS if self._few else ACCEPTS_PER_WAKEUP):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self._complain(error)
                    self._wait(FULL_PAUSE)
                    return
                continue  # that one has gone already
            sock.setblocking(False)
            self._accepted(sock)
        if self._few:
            self._wait(FEW_PAUSE)

    def _complain(self, error: OSError) -> None:
        now = self._loop.time()
        where = self._listener.getsockname()
        self._complaint.make(now, "cannot accept on %s: %s", where, error.strerror)

    def _wait(self, seconds: float) -> None:
        if self._listener.fileno() < 0:
            return  # closed by one of those that were accepted
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(seconds, self._listen)
