"""When which connection has to be looked at: a heap whose entries may be early, never late.

Deadlines move with every acknowledgment, mostly away.  So an entry is only made when a deadline
comes nearer than the one queued; when its time comes too early, it is queued again.  An entry is
stale when its connection is no longer scheduled at its time.

Thousands of connections in TIME-WAIT share a few wake-ups: what is not urgent waits for the next
tick.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

from gvproxy.tcp import timers
from gvproxy.tcp.connection import Connection

TICK = 0.01
"""Seconds; a timer is late by this at the most, as on a kernel with 100 Hz."""
MAX_EXPIRED = 256
"""Entries that are due at once; one that has something sent takes some 20 µs."""


class Schedule:
    """The deadlines of all connections; `wake` is called when the nearest one comes nearer."""

    def __init__(self, wake: Callable[[float], None]) -> None:
        self._wake = wake
        self._heap: list[tuple[float, int, Connection]] = []
        self._count = 0
        self._waiting = 0  # connections that are scheduled

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def deadline(self) -> float:
        """When `run` is due; infinite when nothing waits."""
        return self._heap[0][0] if self._heap else inf

    def add(self, connection: Connection, at: float) -> None:
        """Look at `connection` at `at`, or a tick later, instead of a later time queued before."""
        if not connection.urgent:
            at = (at // TICK + 1) * TICK
            if at >= connection.scheduled_at:
                return
        if connection.scheduled_at == inf:
            self._waiting += 1
        connection.scheduled_at = at
        self._count += 1
        nearest = self.deadline
        heappush(self._heap, (at, self._count, connection))
        self._tidy()
        if at < nearest:
            self._wake(at)

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is closed."""
        if connection.scheduled_at < inf:
            connection.scheduled_at = inf
            self._waiting -= 1
            self._tidy()
            self._drop_stale()

    def run(self, now: float) -> None:
        """Expire what is due and queue again what still waits; what is too much stays due."""
        for _ in range(MAX_EXPIRED):
            if not self._heap or self._heap[0][0] > now:
                break
            at, _, connection = heappop(self._heap)
            if at != connection.scheduled_at:
                continue
            connection.scheduled_at = inf
            self._waiting -= 1
            timers.expire(connection, now)
            deadline = connection.deadline
            if deadline < connection.scheduled_at:  # infinite once it is closed
                self.add(connection, deadline)
        self._drop_stale()

    def _tidy(self) -> None:
        """Drop stale entries in bulk, when they are many: those of a keepalive stay for hours."""
        if len(self._heap) > 2 * self._waiting + 64:
            # One for each connection: it may have come back to the time of an entry that was stale.
            fresh = {entry[2]: entry for entry in self._heap if entry[0] == entry[2].scheduled_at}
            self._heap = list(fresh.values())
            heapify(self._heap)

    def _drop_stale(self) -> None:
        """Keep nothing once nobody waits."""
        if not self._waiting:
            self._heap.clear()
