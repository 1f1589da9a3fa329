"""A loop whose clock is set by hand and whose sockets are looked at when the test says so.

On loopback a datagram or an ICMP error has arrived by the time `send` returns, so nothing here
ever waits.
"""

import select
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import cast


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    def __init__(self) -> None:
        self.now = 1000.0
        self.readers: dict[int, Callable[[], None]] = {}
        self._timers: list[Timer] = []

    def as_loop(self) -> AbstractEventLoop:
        return cast(AbstractEventLoop, self)

    # What is used of AbstractEventLoop

    def time(self) -> float:
        return self.now

    def add_reader(
        self, sock: int | socket.socket, callback: Callable[..., None], *args: object
    ) -> None:
        self.readers[_fileno(sock)] = lambda: callback(*args)

    def remove_reader(self, sock: int | socket.socket) -> bool:
        return self.readers.pop(_fileno(sock), None) is not None

    def call_at(self, at: float, callback: Callable[..., None], *args: object) -> Timer:
        timer = Timer(at, lambda: callback(*args))
        self._timers.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[..., None], *args: object) -> Timer:
        return self.call_at(self.now + delay, callback, *args)

    # What the test does

    @property
    def timers(self) -> list[Timer]:
        return [timer for timer in self._timers if not timer.cancelled]

    def run(self) -> None:
        """Call back for what can be read, until there is nothing."""
        while self.readers:
            poll = select.poll()
            for fd in self.readers:
                poll.register(fd, select.POLLIN)
            ready = poll.poll(0)
            if not ready:
                return
            for fd, _ in ready:
                if fd in self.readers:
                    self.readers[fd]()

    def turn(self) -> list[int]:
        """Call back once for each socket that can be read, and return their descriptors."""
        poll = select.poll()
        for fd in self.readers:
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(0)]
        for fd in ready:
            self.readers[fd]()
        return ready

    def advance(self, seconds: float) -> None:
        """Set the clock forward, timer by timer."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self._timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.callback()
        self.now = end


def _fileno(sock: int | socket.socket) -> int:
    return sock if isinstance(sock, int) else sock.fileno()
