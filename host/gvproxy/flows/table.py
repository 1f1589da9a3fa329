"""A bounded table of mappings, which end when they have not been used for a while.

Each holds a descriptor or a port, so there is a limit: the one that was unused for longest gives
way.  One timer serves the table, and none while it is empty.
"""

from asyncio import AbstractEventLoop, TimerHandle
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """What a table holds; times are in seconds."""

    used: float
    idle_timeout: float

    def close(self) -> None:
        """End; called once, by the table."""


K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Entry)


class MappingTable(Generic[K, M]):
    """Entries in the order of their last use."""

    def __init__(self, loop: AbstractEventLoop, limit: int, sweep_interval: float) -> None:
        """Looks every `sweep_interval` seconds for what has been idle."""
        self._loop = loop
        self._limit = limit
        self._interval = sweep_interval
        self._entries: OrderedDict[K, M] = OrderedDict()
        self._timer: TimerHandle | None = None
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def use(self, key: K, now: float) -> M | None:
        """Return the entry for `key`, as used now; None where there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            entry.used = now
        return entry

    def add(self, key: K, entry: M, now: float) -> None:
        """Add an entry; in a full table it takes the place of the one unused for longest."""
        if len(self._entries) >= self._limit:
            self.evict()
        self._entries[key] = entry
        entry.used = now
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._sweep)

    def evict(self) -> bool:
        """End the entry unused for longest; False where there is none."""
        if not self._entries:
            return False
        self.evicted += 1
        self._entries.popitem(last=False)[1].close()
        return True

    def remove(self, key: K) -> None:
        """End one entry."""
        self._entries.pop(key).close()

    def close(self) -> None:
        """End all entries."""
        for entry in self._entries.values():
            entry.close()
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        for key, entry in list(self._entries.items()):
            if entry.used + entry.idle_timeout <= now:
                self.remove(key)
        self._timer = None
        if self._entries:
            self._timer = self._loop.call_later(self._interval, self._sweep)
