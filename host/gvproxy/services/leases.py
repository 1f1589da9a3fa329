"""Who has which address: the bindings of the DHCP server, bounded in number.

Addresses are integers here, for a pool that may span a /8 is counted through and never listed.
A client is known by its key, its client identifier (RFC 2131 §2.1); a static lease belongs to a
MAC address.  A binding that has run out stays until its address is needed, so that a guest that
comes back finds its own again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from gvproxy.limits import Quota
from gvproxy.stack.port import Port

User = Callable[[int], bytes | None]
"""Tells the MAC address of the guest that is seen to have an address."""


@dataclass(slots=True)
class Lease:
    """One binding; `key` is None for an address found in use by somebody unknown.

    `bound` tells a lease from an offer that nobody has asked for yet.  `expires` is in seconds.
    `name` is what the client calls itself, in lower case, and empty where it does not say.  `guest`
    is the number of the port that it was made for, where that is known.
    """

    address: int
    key: bytes | None
    mac: bytes
    expires: float
    bound: bool
    name: str = ""
    guest: Port | None = None
    """Whose port it was asked for at; None for one of an earlier daemon's."""

    def in_force(self, now: float) -> bool:
        """Tell whether a client has the address."""
        return self.bound and self.expires > now


class LeaseTable:
    """The bindings of one network."""

    def __init__(
        self,
        network: IPv4Network,
        reserved: frozenset[int],
        static: Mapping[bytes, int],
        user: User,
        quota: Quota,
    ) -> None:
        """`reserved` addresses are never leased; `static` maps MAC addresses to their own.

        An address without a binding is its `user`'s: one who has it by hand, or from before a
        restart.
        """
        self._first = int(network.network_address) + 1
        self._end = int(network.broadcast_address)
        self._reserved = reserved
        self._static = static
        self._user = user
        self._quota = quota
        self._owned = {address: mac for mac, address in static.items()}
        # All addresses before this one are taken, seen in use, or not to be leased.
        self._next = self._first
        self._by_address: dict[int, Lease] = {}
        self._by_key: dict[bytes, Lease] = {}
        self._by_name: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._by_address)

    def choose(
        self, key: bytes, mac: bytes, wanted: int, now: float, guest: Port | None = None
    ) -> int | None:
        """Return the address to offer to a client; None when all are taken (RFC 2131 §4.3.1).

        `wanted` is what the client asks for, or 0.
        """
        if mac in self._static:
            return self._static[mac]
        own = self._by_key.get(key)
        for address in (own.address if own is not None else 0, wanted):
            if self.available(address, key, mac, now, guest):
                return address
        for _ in range(2):
            free = self._free(key, mac, now, guest)
            if free is not None:
                return free
            if not self._drop_deserted(now):
                break
        expired = self._oldest_expired(mac, guest, now)
        if expired is None:
            self._quota.refused += 1
        return expired

    def available(
        self, address: int, key: bytes, mac: bytes, now: float, guest: Port | None = None
    ) -> bool:
        """Tell whether the client may have this very address."""
        if mac in self._static:
            return address == self._static[mac]
        if not self._first <= address < self._end:
            return False
        if address in self._reserved or address in self._owned:
            return False
        lease = self._by_address.get(address)
        if lease is None:
            room = key in self._by_key or self._quota.has_room(guest)
            return room and self._user(address) in (None, mac)
        return lease.key == key or self._may_take(lease, mac, guest, now)

    def put(self, lease: Lease, now: float) -> None:
        """Enter a binding in place of those its client and its address had.

        It has its name unless that is another's, whose lease is in force.
        """
        self._drop(self._by_address.get(lease.address))
        if lease.key is not None:
            self._drop(self._by_key.get(lease.key))
            self._by_key[lease.key] = lease
        self._by_address[lease.address] = lease
        self._quota.hold(lease.guest)
        if lease.name:
            holder = self._by_name.get(lease.name)
            if holder is None or not holder.in_force(now):
                self._by_name[lease.name] = lease

    def find(self, key: bytes) -> Lease | None:
        """Return the client's binding, which may have run out."""
        return self._by_key.get(key)

    def find_name(self, name: str, now: float) -> Lease | None:
        """Return the lease in force that has a name, written in lower case."""
        lease = self._by_name.get(name)
        return lease if lease is not None and lease.in_force(now) else None

    def name_at(self, address: int, now: float) -> str:
        """Return the name of the lease in force at an address, empty where there is none."""
        lease = self._by_address.get(address)
        if lease is None or self.find_name(lease.name, now) is not lease:
            return ""
        return lease.name

    def owner(self, address: int, now: float) -> bytes | None:
        """Return the MAC address that has an address by a lease in force, or by a static one."""
        lease = self._by_address.get(address)
        if lease is not None and lease.in_force(now):
            return lease.mac
        return self._owned.get(address)

    def bound(self, now: float) -> Iterator[Lease]:
        """Go through the leases that are in force."""
        for lease in self._by_address.values():
            if lease.in_force(now):
                yield lease

    def _drop(self, lease: Lease | None) -> None:
        if lease is not None:
            self._next = min(self._next, lease.address)
            del self._by_address[lease.address]
            self._quota.give(lease.guest)
            if lease.key is not None:
                del self._by_key[lease.key]
            if self._by_name.get(lease.name) is lease:
                del self._by_name[lease.name]

    def _free(self, key: bytes, mac: bytes, now: float, guest: Port | None) -> int | None:
        """Return the first address without a binding, if the guest may have one more."""
        if self._quota.has_room(guest):
            while self._next < self._end:
                address = self._next
                if address not in self._by_address and self.available(
                    address, key, mac, now, guest
                ):
                    return address
                self._next += 1
            self._next = self._first  # for whoever was seen to use one may have left
        return None

    def _drop_deserted(self, now: float) -> bool:
        """Forget the leases of guests that have gone, who may ask again; False for none."""
        count = len(self)
        if self._quota.may_search(now):
            for lease in list(self._by_address.values()):
                if lease.guest is not None and not lease.guest.attached:
                    self._drop(lease)
        return len(self) < count

    def _may_take(self, lease: Lease, mac: bytes, guest: Port | None, now: float) -> bool:
        """Tell whether a guest may have another's place: it has run out, and nobody else uses it.

        Who has had the address by that very lease has to give it up (RFC 2131 §4.4.5).
        """
        if lease.expires > now:
            return False
        if lease.guest is not guest and self._quota.held(guest) >= self._quota.limit.guest:
            return False
        allowed = (None, mac, lease.mac) if lease.bound else (None, mac)
        return self._user(lease.address) in allowed

    def _oldest_expired(self, mac: bytes, guest: Port | None, now: float) -> int | None:
        expired = [
            lease
            for lease in self._by_address.values()
            if lease.address not in self._owned and self._may_take(lease, mac, guest, now)
        ]
        return min(expired, key=lambda lease: lease.expires).address if expired else None
