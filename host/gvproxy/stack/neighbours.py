"""The neighbour table: which station has which address, by ARP (RFC 826) and by what guests send.

Only addresses of the virtual network are learned, and none of the gateway's own.
"""

from collections.abc import Callable

from gvproxy.limits import Quota
from gvproxy.stack.port import Port, StackConfig, StackCounters, Station
from gvproxy.stack.switch import Switch
from gvproxy.wire import arp, ethernet
from taplink import vnet

REQUEST_INTERVAL = 1.0  # seconds; RFC 1122 §2.3.2.1: at most one request a second for one address
MAX_RESOLUTIONS = 256
"""Resolutions under way; the oldest gives way to another."""

Resolved = Callable[[bytes, Station, float], None]
"""Told of an address, who has it, and the time."""


class Neighbours:
    """Answers ARP for the gateway's addresses and finds the guests'."""

    def __init__(
        self, config: StackConfig, switch: Switch, counters: StackCounters, quota: Quota
    ) -> None:
        self._config = config
        self._quota = quota
        self._switch = switch
        self._counters = counters
        self._stations: dict[bytes, Station] = {}
        self._owners: dict[bytes, Port] = {}  # as they were when they learned the address
        self._resolutions: dict[bytes, tuple[float, Resolved]] = {}  # when asked, for whom

    def __len__(self) -> int:
        return len(self._stations)

    def get(self, address: bytes) -> Station | None:
        """Return the station that has `address`, where it is known and attached.

        One whose link has ended may have come back without a word, and is asked for.
        """
        station = self._stations.get(address)
        return station if station is not None and station.port.attached else None

    def user(self, address: bytes) -> bytes | None:
        """Return the MAC address of the guest that has `address` and is there."""
        station = self.get(address)
        return None if station is None else station.mac

    def learn(self, address: bytes, station: Station, now: float) -> None:
        """Take note that `station` uses `address`."""
        if self._stations.get(address) is station and address not in self._resolutions:
            return
        if not self._config.is_guest(address):
            return
        owner = station.port
        if self._owners.get(address) is not owner and not self._make_room(address, owner, now):
            self._counters.neighbours_refused += 1
            self._quota.refused += 1
            return
        self._forget(address)
        self._quota.hold(owner)
        self._stations[address] = station
        self._owners[address] = owner
        resolution = self._resolutions.pop(address, None)
        if resolution is not None:
            resolution[1](address, station, now)

    def _make_room(self, address: bytes, owner: Port, now: float) -> bool:
        quota = self._quota
        if not quota.has_room(owner) and quota.may_search(now):
            for other, station in list(self._stations.items()):
                known = self._switch.stations.get(station.mac) is station
                if not (known and self._owners[other].attached):
                    self._forget(other)  # it has gone; who has come back since is asked again
        if not quota.has_room(owner) and address in self._resolutions:
            # We have asked for it.  Another of the guest's is asked for when it is needed.
            mine = (other for other, holder in self._owners.items() if holder is owner)
            self._forget(next(mine, b""))
        return quota.has_room(owner)

    def _forget(self, address: bytes) -> None:
        if self._stations.pop(address, None) is not None:
            self._quota.give(self._owners.pop(address))

    def resolve(self, address: bytes, resolved: Resolved, now: float) -> None:
        """Ask who has `address`, once a second at most; `resolved` is called when it answers."""
        self._counters.unresolved += 1
        known = self.get(address)
        if known is not None:
            resolved(address, known, now)
            return
        asked = self._resolutions.get(address)
        if asked is not None and now - asked[0] < REQUEST_INTERVAL:
            return
        if asked is None and len(self._resolutions) >= MAX_RESOLUTIONS:
            del self._resolutions[next(iter(self._resolutions))]
        self._resolutions[address] = now, resolved
        config = self._config
        eth = ethernet.HEADER.pack(ethernet.BROADCAST, config.mac, ethernet.TYPE_ARP)
        body = arp.build(arp.REQUEST, config.mac, config.gateway, bytes(6), address)
        for port in list(self._switch.ports.values()):
            port.send(vnet.PLAIN, eth + body)

    def receive(self, station: Station, packet: memoryview, now: float) -> None:
        """Take an ARP packet of `station`."""
        counters = self._counters
        if len(packet) < arp.PACKET.size:
            counters.malformed += 1
            return
        *prefix, operation, sender_mac, sender, _, target = arp.PACKET.unpack_from(packet)
        if tuple(prefix) != arp.PREFIX or sender_mac != station.mac:
            counters.malformed += 1
            return
        self.learn(sender, station, now)
        if operation != arp.REQUEST:
            counters.arp_replies += 1
            return
        counters.arp_requests += 1
        if target in self._config.owned:
            mac = self._config.mac
            eth = ethernet.HEADER.pack(station.mac, mac, ethernet.TYPE_ARP)
            station.port.send(
                vnet.PLAIN, eth + arp.build(arp.REPLY, mac, target, station.mac, sender)
            )
