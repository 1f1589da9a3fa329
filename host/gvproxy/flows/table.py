"""A bounded table of mappings, which end when they have not been used for a while.

They hold a descriptor each, so there is a limit: the one that was unused
for longest gives way.  One timer serves the table, and none while it is empty.
"""

from asyncio import AbstractEventLoop, TimerHandle
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from gvproxy.flows.mapping import Mapping
from gvproxy.stack.port import Station

K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Mapping)


class MappingTable(Generic[K, M]):
    """Entries in the order of their last use."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        limit: int,
        sweep_interval: float,
        make: Callable[[Station, K], M],
    ) -> None:
        """Looks every `sweep_interval` seconds for what has been idle."""
        self._loop = loop
        self._limit = limit
        self._interval = sweep_interval
        self._make = make
        self._entries: OrderedDict[K, M] = OrderedDict()
        self._timer: TimerHandle | None = None
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def use(self, key: K, station: Station, now: float) -> M:
        """Return the entry for `key`, as used now; raises OSError where it cannot be made.

        A new one takes the place of the one unused for longest when the table is full.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._make(station, key)
            if len(self._entries) >= self._limit:
                self.evicted += 1
                self._entries.popitem(last=False)[1].close()
            self._entries[key] = entry
            if self._timer is None:
                self._timer = self._loop.call_later(self._interval, self._sweep)
        else:
            self._entries.move_to_end(key)
        entry.used = now
        return entry

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
