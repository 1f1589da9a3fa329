"""How much a guest may hold of each table, and all guests together.

A guest is whoever is behind one port.  It holds as much as its own limit allows, and never more
than `SHARE` times what is still free: the dynamic threshold of Choudhury and Hahne (1998), by
which switches share their buffers.  So one guest alone gets its limit, a second one finds room,
and those that take and give back come to equal shares.  Of guests that give nothing back, the first
ones would have all: a part of each table is for those that hold next to nothing.
"""

from dataclasses import dataclass, replace
from math import inf

Owner = object
"""Who holds something: a port, or whatever else stands for a guest; hashable."""

SHARE = 8
"""One guest alone may hold eight ninths of what is not reserved, two of them eight seventeenths
each."""
RESERVED = 64
"""A 64th of a table is kept for guests that hold less than an eighth of that."""
SEARCH_INTERVAL = 1.0
"""Seconds between two searches of a full table for what may go: a guest that fills it costs no
more than that."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many there may be; `guest` is the part of them that one guest may hold."""

    total: int
    guest: int

    def within(self, total: int) -> "Limit":
        """Return the limit for where there is no room for more than `total`."""
        return self if total >= self.total else self.of(total)

    def of(self, total: int) -> "Limit":
        """Return the limit with another total, of which a guest may hold seven eighths at most."""
        return Limit(total, max(1, min(self.guest, total * 7 // 8)))


@dataclass(frozen=True, slots=True)
class Limits:
    """Those of all tables; `tcp_buffers` and `send_queues` are bytes.

    docs/security.md explains them.  What takes a descriptor each is held within what the process
    may have (`within_descriptors`).
    """

    guests: int = 256
    macs: Limit = Limit(1024, 256)
    neighbours: Limit = Limit(4096, 1024)
    fragmented_packets: Limit = Limit(256, 64)
    connections: Limit = Limit(65536, 57344)
    half_open: Limit = Limit(4096, 2048)
    tcp_buffers: Limit = Limit(256 << 20, 128 << 20)
    udp_mappings: Limit = Limit(4096, 3072)
    udp_sessions: Limit = Limit(8192, 4096)
    peers: Limit = Limit(65536, 32768)
    pings: Limit = Limit(256, 128)
    dns_queries: Limit = Limit(2048, 1024)
    dns_connections: Limit = Limit(128, 64)
    dhcp_leases: Limit = Limit(1024, 64)
    api_connections: int = 256
    guest_api_connections: Limit = Limit(256, 64)
    published: Limit = Limit(4096, 256)
    udp_clients: Limit = Limit(12288, 4096)
    send_queues: Limit = Limit(256 << 20, 8 << 20)


def within_descriptors(limits: Limits, descriptors: int, reserved: int) -> tuple[Limits, int]:
    """Hold limits within what descriptors there are; returns how many are left for TCP as well.

    None of the tables leaves the others without, nor what needs the `reserved` ones.
    """
    share = descriptors // 4
    limits = replace(
        limits,
        udp_mappings=limits.udp_mappings.within(share),
        dns_queries=limits.dns_queries.within(share),
        pings=limits.pings.within(share // 4),
        api_connections=max(1, min(limits.api_connections, share // 8)),
    )
    rest = descriptors - limits.udp_mappings.total - limits.dns_queries.total
    rest -= limits.pings.total + limits.api_connections + min(reserved, share // 2)
    return replace(
        limits,
        connections=limits.connections.within(rest),
        half_open=limits.half_open.within(rest),
        published=limits.published.within(rest // 2),
    ), rest


@dataclass(frozen=True, slots=True)
class Use:
    """What there is to say of one table; shown by /stats."""

    used: int
    most: int
    """What the guest holds that holds most."""
    total: int
    guest: int
    refused: int


class Quota:
    """The use of one table, by owner; None owns what is the host's, which only the total bounds."""

    __slots__ = ("_held", "_searched", "limit", "refused", "used")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.used = 0
        self.refused = 0
        """How often there was no room."""
        self._held: dict[Owner, int] = {}
        self._searched = -inf

    def held(self, owner: Owner) -> int:
        """Return how much an owner holds."""
        return self._held.get(owner, 0)

    @property
    def shown(self) -> Use:
        """Return what there is to say of it."""
        most = max(self._held.values(), default=0)
        return Use(self.used, most, self.limit.total, self.limit.guest, self.refused)

    def has_room(self, owner: Owner) -> bool:
        """Tell whether `owner` may hold one more."""
        limit, held = self.limit, self._held.get(owner, 0)
        free = limit.total - self.used
        if free <= 0 or owner is None:
            return free > 0
        if held >= limit.guest:
            return False
        reserved = limit.total // RESERVED
        return held < max(SHARE * (free - reserved), reserved // 8, 1)

    def take(self, owner: Owner) -> bool:
        """Have `owner` hold one more; False, and counted, where that is too many."""
        if not self.has_room(owner):
            self.refused += 1
            return False
        self.hold(owner)
        return True

    def hold(self, owner: Owner) -> None:
        """Have `owner` hold one more, whether there is room or not."""
        self.used += 1
        if owner is not None:
            self._held[owner] = self._held.get(owner, 0) + 1

    def give(self, owner: Owner, count: int = 1) -> None:
        """Take back one that `owner` held, or so many."""
        self.used -= count
        if owner is not None and count:
            left = self._held[owner] - count
            if left:
                self._held[owner] = left
            else:
                del self._held[owner]

    def may_search(self, now: float) -> bool:
        """Tell whether it is time to look through the table for what can go."""
        if now < self._searched + SEARCH_INTERVAL:
            return False
        self._searched = now
        return True


class Quotas:
    """One for each table of a network."""

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.tcp_buffers = limits.tcp_buffers
        self.macs = Quota(limits.macs)
        self.neighbours = Quota(limits.neighbours)
        self.fragmented_packets = Quota(limits.fragmented_packets)
        self.connections = Quota(limits.connections)
        self.half_open = Quota(limits.half_open)
        self.udp_mappings = Quota(limits.udp_mappings)
        self.udp_sessions = Quota(limits.udp_sessions)
        self.peers = Quota(limits.peers)
        self.pings = Quota(limits.pings)
        self.dns_queries = Quota(limits.dns_queries)
        self.dns_connections = Quota(limits.dns_connections)
        self.dhcp_leases = Quota(limits.dhcp_leases)
        self.guest_api_connections = Quota(limits.guest_api_connections)
        self.published = Quota(limits.published)
        self.udp_clients = Quota(limits.udp_clients)

    def held(self) -> int:
        """Return how many entries all tables have."""
        return sum(quota.used for quota in vars(self).values() if isinstance(quota, Quota))

    @property
    def uses(self) -> dict[str, Use]:
        """Return the use of each table, by its name."""
        return {name: quota.shown for name, quota in vars(self).items() if isinstance(quota, Quota)}
