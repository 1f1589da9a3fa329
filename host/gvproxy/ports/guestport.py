"""What all ports have in common: counters, batches in, congestion, and the end.

A port takes frames from its guest in batches, and what the stack makes of one leaves at its end at
the latest.  A queue past `HIGH_WATER` says "congested", on which connections stop sending; a
queue past `LIMIT` drops, as a cable would.  A guest that does not read costs that much and nothing
else.
"""

from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from gvproxy.ports.fairness import Fairness, Turns
from gvproxy.stack.stack import Stack
from taplink.deafness import Deafness
from taplink.text import reason

LIMIT = 8 << 20
"""Bytes, of a guest that shares with few."""
HIGH_WATER = LIMIT >> 2
LOW_WATER = LIMIT >> 4


@dataclass(slots=True)
class PortCounters:
    """What went through one port; bytes are those of the frames, from Ethernet on."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    dropped: int = 0
    pauses: int = 0
    """How often the guest had to wait, for its frames cost more than they carried."""

    def add(self, other: "PortCounters") -> None:
        """Add another port's counters to these."""
        self.frames_in += other.frames_in
        self.bytes_in += other.bytes_in
        self.frames_out += other.frames_out
        self.bytes_out += other.bytes_out
        self.dropped += other.dropped
        self.pauses += other.pauses


Closed = Callable[["GuestPort", str], None]
Watch = Callable[[int, Callable[[], None]], object]
"""A loop's `add_reader` or `add_writer`."""


class GuestPort(ABC):
    """Implements `gvproxy.stack.port.Port`, but for how frames pass."""

    def __init__(
        self, offset: int, offload: int, stack: Stack, loop: AbstractEventLoop, closed: Closed
    ) -> None:
        """`closed` is called with the reason when the guest has gone, once."""
        self.number = -1
        self.attached = False
        self.left = -inf
        self.identity = ""
        self.offset = offset
        self.offload = offload
        self.carried = 0
        self.congested = False
        self.counters = PortCounters()
        self.dialect = self.peer = ""
        """What the guest speaks, and who it is, for people."""
        self.fairness = Fairness()
        self.deafness = Deafness(loop)
        self.paused = False
        """Its frames wait, for their cost has to be made up for."""
        self._turns = Turns()
        self._moved = 0  # bytes, up to its last batch
        self._stack = stack
        self._loop = loop
        self._closed: Closed | None = closed
        self._size = 0  # bytes that wait
        self._limit, self._high_water, self._low_water = LIMIT, HIGH_WATER, LOW_WATER
        self._flush_due = False
        self._blocked = False  # waiting for the guest to take more

    @property
    def gone(self) -> bool:
        """The port is closed for good."""
        return self._closed is None

    @property
    def moved(self) -> int:
        """Return how many bytes from and to the guest were of use to somebody."""
        return self.carried + self.counters.bytes_out

    @property
    def queued(self) -> int:
        """Return how many bytes wait for the guest."""
        return self._size

    def bound_queue(self, limit: int) -> None:
        """Have no more than `limit` bytes wait, but for a last frame."""
        self._limit, self._high_water = limit, limit >> 2
        self._low_water = limit >> 4 or 1  # an empty queue is below it

    def close(self, why: str) -> None:
        """Detach from the stack and give the guest's connection up."""
        closed, self._closed = self._closed, None
        if closed is None:
            return
        self.deafness.forget(self)
        self._release()
        self._size = 0
        self.congested = self._blocked = False
        self._stack.detach(self, self._loop.time())
        closed(self, why)

    def received(self, frames: list[memoryview]) -> int:
        """Take a batch of the guest's frames, or its beginning; the views are not kept.

        Returns how many were taken.
        """
        counters, clock = self.counters, self.fairness.clock
        begins = clock()
        flush_due, self._flush_due = self._flush_due, True  # here, at the end of the batch
        try:
            taken = self._stack.receive(self, frames, self._loop.time())
        finally:
            self._flush_due = flush_due
        if not self._blocked:
            self._flush()
        counters.frames_in += taken
        counters.bytes_in += sum(map(len, frames[:taken])) - self.offset * taken
        moved = self.moved
        # With what came for it since its last batch, which this one may only acknowledge.
        moved, self._moved = moved - self._moved, moved
        if self._turns.took(clock() - begins, taken, moved):
            self._pay()
        return taken

    def _pay(self) -> None:
        """Have the guest wait, where its frames cost others too much."""
        pause = self._turns.pay(self.fairness.factor(self.number, self._loop.time()))
        if pause and self._closed is not None:
            self.counters.pauses += 1
            self.paused = True
            self._loop.call_later(pause, self._resume)
            self._pause()

    def _resume(self) -> None:
        self.paused = False
        if self._closed is not None:
            self._go_on()

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        """See `gvproxy.stack.port.Port`."""
        raise NotImplementedError

    def flush(self) -> None:
        if not self._blocked and self._closed is not None:
            self._flush()

    def _flush_turn(self) -> None:
        self._flush_due = False
        self.flush()

    def _flush(self) -> None:
        """Send what waits, and do what follows: let connections send again, or end."""
        try:
            self._write()
        except OSError as error:
            self._loop.call_soon(self._broken, reason(error))
            return
        if self.congested and self._size < self._low_water:
            self.congested = False
            self._stack.port_ready(self, self._loop.time())

    def _watch(self, add: Watch, fd: int, callback: Callable[[], None]) -> None:
        """Have the loop call back; where it has no memory for that, the port ends."""
        try:
            add(fd, callback)
        except OSError as error:
            self._loop.call_soon(self._broken, reason(error))

    def _heard(self) -> None:
        if self._closed is not None:
            self.deafness.heard(self)

    @property
    def polled(self) -> int:
        return -1 if self._closed is None or self.paused else self._polled()

    def poll_again(self) -> None:
        self._pause()
        self._go_on()

    def _broken(self, why: str) -> None:
        """End, when the guest does not take frames any more."""
        self.close(why)

    @abstractmethod
    def _polled(self) -> int:
        """Return the descriptor that is read, unless the port is closed."""

    @abstractmethod
    def _pause(self) -> None:
        """Read nothing until `_go_on`."""

    @abstractmethod
    def _go_on(self) -> None:
        """Read again."""

    @abstractmethod
    def _write(self) -> None:
        """Send what waits, as far as the guest takes it; raises OSError when it has gone."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what the port holds."""
