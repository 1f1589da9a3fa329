"""When which connection has to be looked at: a heap whose entries may be early, never late.

Deadlines move with every acknowledgment, mostly away.  So an entry is only made when a deadline
comes nearer than the one queued; when its time comes too early, it is queued again.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

from gvproxy.tcp import timers
from gvproxy.tcp.connection import Connection, State


class Schedule:
    """The deadlines of all connections; `wake` is called when the nearest one comes nearer."""

    def __init__(self, wake: Callable[[float], None]) -> None:
        self._wake = wake
        self._heap: list[tuple[float, int, Connection]] = []
        self._count = 0
        self._closed = 0  # entries whose connection is gone

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def deadline(self) -> float:
        """When `run` is due; infinite when nothing waits."""
        return self._heap[0][0] if self._heap else inf

    def add(self, connection: Connection, at: float) -> None:
        """Look at `connection` at `at`, instead of any later time queued before."""
        connection.scheduled_at = at
        self._count += 1
        heappush(self._heap, (at, self._count, connection))
        if self._heap[0][0] == at:
            self._wake(at)

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is closed; its entries go in bulk, when they are many."""
        if connection.scheduled_at < inf:
            self._closed += 1
            if self._closed > 64 + len(self._heap) // 2:
                self._heap = [entry for entry in self._heap if entry[2].state is not State.CLOSED]
                heapify(self._heap)
                self._closed = 0

    def run(self, now: float) -> None:
        """Expire what is due and queue again what still waits."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, connection = heappop(heap)
            if connection.state is State.CLOSED:
                self._closed = max(self._closed - 1, 0)
                continue
            if at != connection.scheduled_at:
                continue  # a nearer deadline was queued after this one
            connection.scheduled_at = inf
            timers.expire(connection, now)
            heap = self._heap
            deadline = connection.deadline
            if deadline < connection.scheduled_at:  # infinite once it is closed
                self.add(connection, deadline)
