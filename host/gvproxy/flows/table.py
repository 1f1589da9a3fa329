"""A bounded table of mappings, which end when they have not been used for a while.

Each holds a descriptor or a port, so there is a limit: of a guest's mappings the one that was
unused for longest gives way.  One timer serves the table, and none while it is empty.
"""

from asyncio import AbstractEventLoop, TimerHandle
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from gvproxy.limits import Owner, Quota


class Entry(Protocol):
    """What a table holds; times are in seconds."""

    used: float
    owner: Owner
    idle_timeout: float

    def close(self) -> None:
        """End; called once, by the table."""


MAX_ENDS = 256
"""Entries that are ended in a row, which takes some 4 ms; the others follow after `ENDS_PAUSE`."""
ENDS_PAUSE = 0.05

K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Entry)


class MappingTable(Generic[K, M]):
    """Entries, and each owner's in the order of their last use."""

    def __init__(self, loop: AbstractEventLoop, quota: Quota, sweep_interval: float) -> None:
        """Looks every `sweep_interval` seconds for what has been idle."""
        self._loop = loop
        self._quota = quota
        self._interval = sweep_interval
        self._entries: dict[K, M] = {}
        self._queues: dict[Owner, OrderedDict[K, None]] = {}
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def use(self, key: K, now: float) -> M | None:
        """Return the entry for `key`, as used now; None where there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._queues[entry.owner].move_to_end(key)
            entry.used = now
        return entry

    def add(self, key: K, entry: M, now: float, owner: Owner = None) -> None:
        """Add an entry; where its owner has too many it takes the place of another one."""
        while not self._quota.take(owner) and self.evict(owner):
            pass
        entry.owner, entry.used = owner, now
        self._entries[key] = entry
        self._queues.setdefault(owner, OrderedDict())[key] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._sweep)

    def evict(self, owner: Owner = None) -> bool:
        """End what `owner` has not used for longest, or who has most; False in an empty table."""
        if not self._entries:
            return False
        if owner not in self._queues:
            owner = max(self._queues, key=lambda one: len(self._queues[one]))
        self.remove(next(iter(self._queues[owner])))
        return True

    def remove(self, key: K) -> None:
        """End one entry."""
        entry = self._entries.pop(key)
        queue = self._queues[entry.owner]
        del queue[key]
        if not queue:
            del self._queues[entry.owner]
        self._quota.give(entry.owner)
        entry.close()

    def close(self) -> None:
        """End all entries."""
        for key in list(self._entries):
            self.remove(key)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        idle = [key for key, one in self._entries.items() if one.used + one.idle_timeout <= now]
        for key in idle[:MAX_ENDS]:
            self.remove(key)
        self._timer = None
        if self._entries:
            pause = self._interval if len(idle) <= MAX_ENDS else ENDS_PAUSE
            self._timer = self._loop.call_later(pause, self._sweep)
