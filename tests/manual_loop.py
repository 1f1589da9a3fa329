"""A loop whose clock is set by hand, and which looks at its sockets when the test says so.

The kernel is not always done when a call returns, so `until` waits for the sockets, and for them
only: nothing depends on how long that takes.
"""

import asyncio
import select
import socket
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

PATIENCE_MS = 10_000

T = TypeVar("T")


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
        self.writers: dict[int, Callable[[], None]] = {}
        self.soon: deque[Callable[[], None]] = deque()
        self.complaints: list[dict[str, Any]] = []
        self._timers: list[Timer] = []

    def as_loop(self) -> AbstractEventLoop:
        return cast(AbstractEventLoop, self)

    # What is used of AbstractEventLoop

    def time(self) -> float:
        return self.now

    def add_reader(
        self, file: int | socket.socket, callback: Callable[..., None], *args: object
    ) -> None:
        self.readers[_descriptor(file)] = lambda: callback(*args)

    def remove_reader(self, file: int | socket.socket) -> bool:
        return self.readers.pop(_descriptor(file), None) is not None

    def add_writer(self, fd: int, callback: Callable[..., None], *args: object) -> None:
        self.writers[fd] = lambda: callback(*args)

    def remove_writer(self, fd: int) -> bool:
        assert fd >= 0
        return self.writers.pop(fd, None) is not None

    def call_soon(
        self, callback: Callable[..., None], *args: object, context: object = None
    ) -> None:
        self.soon.append(lambda: callback(*args))

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.as_loop())

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(context)

    def get_debug(self) -> bool:
        return False

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

    @property
    def idle(self) -> bool:
        """Nothing is left that could ever call back."""
        return not (self.readers or self.writers or self.soon or self.timers)

    def turn(self, patience: int = 0) -> bool:
        """Run one turn; say whether anything was called back."""
        called = bool(self.soon)
        for _ in range(len(self.soon)):
            self.soon.popleft()()
        poll = select.poll()
        for fd in self.readers.keys() | self.writers.keys():
            events = select.POLLIN if fd in self.readers else 0
            poll.register(fd, events | (select.POLLOUT if fd in self.writers else 0))
        for fd, events in poll.poll(0 if called or self.soon else patience):
            bad = events & (select.POLLERR | select.POLLHUP)
            if (events & select.POLLIN or bad) and fd in self.readers:
                called = True
                self.readers[fd]()
            if (events & select.POLLOUT or bad) and fd in self.writers:
                called = True
                self.writers[fd]()
        return called

    def run(self) -> None:
        """Turn until there is nothing to do at once."""
        for _ in range(10_000):
            if not self.turn():
                return
        raise AssertionError("the loop spins")

    def until(self, done: Callable[[], object]) -> None:
        """Turn until `done`, then until there is nothing to do at once."""
        for _ in range(10_000):
            if done():
                self.run()
                return
            assert self.turn(PATIENCE_MS), "nothing happens any more"
        raise AssertionError("the loop spins")

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Make a task, which runs with the next turn."""
        return asyncio.Task(coroutine, loop=self.as_loop())

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Turn until the coroutine has ended, and return what it returns."""
        task = self.start(coroutine)
        self.until(task.done)
        return task.result()

    def advance(self, seconds: float) -> None:
        """Set the clock forward, timer by timer."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self._timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.callback()
            self.run()
        self.now = end

    def jump(self, seconds: float) -> None:
        """Set the clock forward at once, as a process finds it that was stopped meanwhile."""
        self.now += seconds
        self.advance(0)


def _descriptor(file: int | socket.socket) -> int:
    descriptor = file if isinstance(file, int) else file.fileno()
    assert descriptor >= 0
    return descriptor
