"""Resets of sockets whose end has been read: the kernel tells, though there is nothing to read.

A loop's reader would be called for such a socket again and again, since an end can be read for
ever.  Linux's epoll tells of a reset without being asked for input; elsewhere it is seen with the
next write.  Most sockets are closed soon after their end, and cost the kernel nothing: those that
are not are registered a little later, all at once.
"""

import select
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

from gvproxy.errors import OUT_OF_RESOURCES

DELAY = 0.1  # seconds
_EVENTS_AT_ONCE = 256


class HangUps:
    """Calls back, once, for each watched descriptor whose other side has reset."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._begun = False  # the loop watches the epoll, from the first registration on
        self._timer: TimerHandle | None = None
        self._new: dict[int, Callable[[], None]] = {}
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back when the other side of `fd` resets, or has, until `forget`."""
        self._new[fd] = callback
        if self._timer is None and self._epoll is not None:
            self._timer = self._loop.call_later(DELAY, self._register)

    def forget(self, fd: int) -> None:
        """Watch no longer; to be called before `fd` is closed."""
        if self._new.pop(fd, None) is None and self._watched.pop(fd, None) is not None:
            assert self._epoll is not None
            self._epoll.unregister(fd)

    def close(self) -> None:
        """End; all flows have ended before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._epoll is not None:
            if self._begun:
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _register(self) -> None:
        self._timer = None
        assert self._epoll is not None
        try:
            if self._new and not self._begun:
                self._loop.add_reader(self._epoll.fileno(), self._ready)
                self._begun = True
            while self._new:
                fd = next(iter(self._new))
                self._epoll.register(fd, 0)  # EPOLLERR and EPOLLHUP are always told
                self._watched[fd] = self._new.pop(fd)
        except OSError as error:
            if error.errno not in OUT_OF_RESOURCES:
                raise
            self._timer = self._loop.call_later(DELAY, self._register)

    def _ready(self) -> None:
        assert self._epoll is not None
        for fd, events in self._epoll.poll(0, _EVENTS_AT_ONCE):
            callback = self._watched.get(fd)
            if callback is not None:
                self.forget(fd)
                if events & select.EPOLLERR:  # else a unix socket whose other side has closed it
                    callback()
