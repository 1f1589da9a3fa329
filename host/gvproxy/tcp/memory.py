"""The bytes that connections keep, each guest's and all guests' together."""

from dataclasses import dataclass

from gvproxy.limits import SHARE


@dataclass(slots=True)
class Pool:
    """What all connections of a stack keep, of the `limit` they share."""

    limit: int
    used: int = 0


@dataclass(slots=True)
class Memory:
    """What one guest's connections keep: sent and not acknowledged, with users, ahead of gaps.

    While it is scarce each of them gets by with little: nothing is read from outside for one that
    has something on its way, no window grows beyond `SCARCE_WINDOW`, and what comes ahead of a gap,
    or for a user that is behind, is not taken.
    """

    pool: Pool
    limit: int
    used: int = 0

    def keep(self, count: int) -> None:
        """Count so many bytes more, or fewer."""
        self.used += count
        self.pool.used += count

    @property
    def scarce(self) -> bool:
        """The guest keeps its part, or more than its share of what is free."""
        used, pool = self.used, self.pool
        return used > self.limit or used > SHARE * (pool.limit - pool.used)
