"""Descriptors that the loop polls no longer, without a word.

libuv, and so uvloop, calls back once where a descriptor has an error, and then stops polling it.
What was sent before the error is read first, so that one call may not get as far as the error: a
reset right behind data would never be heard of.  So whatever was read is looked at a little later,
many in one call, and where there is an error it is polled anew.
"""

import select
from asyncio import AbstractEventLoop, TimerHandle
from typing import Protocol

INTERVAL = 1.0
"""Seconds until what was read is looked at."""
SOON = 0.01
"""The same for what has an error, and is still being read."""
_AT_ONCE = 256


class Reader(Protocol):
    """Something that the loop calls when a descriptor can be read."""

    @property
    def polled(self) -> int:
        """Return the descriptor; negative while the loop is not asked to poll it."""

    def poll_again(self) -> None:
        """Have the loop poll it anew."""


class Deafness:
    """Looks after any number of readers."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._heard: dict[Reader, None] = {}
        self._timer: TimerHandle | None = None

    def heard(self, reader: Reader) -> None:
        """Look at a reader that was called, and may not have seen all there is."""
        self._heard[reader] = None
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._look)

    def forget(self, reader: Reader) -> None:
        """Look at it no longer."""
        if reader in self._heard:
            del self._heard[reader]
            if not self._heard and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _look(self) -> None:
        self._timer = None
        heard = list(self._heard)[:_AT_ONCE]
        pause = SOON if len(self._heard) > len(heard) else INTERVAL
        for reader in heard:
            del self._heard[reader]
        for reader in _with_error(heard):
            pause = SOON
            self._heard[reader] = None
            reader.poll_again()
        if self._heard:
            self._timer = self._loop.call_later(pause, self._look)


def _with_error(readers: list[Reader]) -> list[Reader]:
    polled = {fd: reader for reader in readers if (fd := reader.polled) >= 0}
    if not hasattr(select, "poll"):
        return []
    poll = select.poll()
    for fd in polled:
        poll.register(fd, 0)  # POLLERR and POLLHUP are always told
    try:
        found = poll.poll(0)
    except OSError:  # no memory, or more than the process may have by now
        return list(polled.values())
    return [polled[fd] for fd, events in found if events & select.POLLERR]
