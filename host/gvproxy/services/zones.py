"""The zones gvproxy answers itself: the gateway's name, the host's, and whatever it is given.

A zone is authoritative for all below its name: a name it lacks does not exist, and a name it has
exists for every type (NODATA, RFC 2308 §2.2).  Of records that stand for a name the first counts,
as in Go's gvproxy, and the zone's default for names without one.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from math import inf

from gvproxy.config import Record, Zone
from gvproxy.errors import BadZoneError
from gvproxy.patterns import NAME
from gvproxy.services import dnsmessage, zonejson
from gvproxy.services.dnsmessage import Labels

Address = IPv4Address | IPv6Address

MAX_BYTES = 2 << 20
"""Of all zones' JSON: 65,536 of the shortest records, and a state file has room for it."""


class Zones:
    """Looks names up in the local zones."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._zones: dict[Labels, _Names] = {}
        self._listed: dict[Labels, Zone] = {}
        self._bytes = 0
        for zone in reversed(zones):  # of two alike the records of the first come first
            self._enter(zone)
        self._listed = dict(reversed(self._listed.items()))
        self._added: dict[Labels, Zone] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called when a zone has been added, or something to one."""

    def add(self, zone: Zone) -> None:
        """Add a zone, or to one that is there: new records come first, the new default counts.

        Raises BadZoneError where that would be too much, and then nothing has changed.
        """
        self._enter(zone)
        apex = dnsmessage.labels(zone.name)
        self._added[apex] = _joined(zone, self._added.get(apex))
        self.changed()

    @property
    def added(self) -> list[Zone]:
        """Return what has been added since the start."""
        return list(self._added.values())

    def _enter(self, zone: Zone) -> None:
        apex = dnsmessage.labels(zone.name)
        old = self._listed.get(apex)
        zone = _joined(zone, old)
        size = self._bytes + _size(zone) - _size(old)
        if size > MAX_BYTES:
            raise BadZoneError(f"all zones together would be more than {MAX_BYTES} bytes of JSON")
        self._bytes = size
        self._listed[apex] = zone
        self._zones[apex] = _Names(zone)

    def all(self) -> list[Zone]:
        """Return the zones as they were given, with what was added."""
        return list(self._listed.values())

    def split(self, name: Labels) -> tuple[Labels, Labels] | None:
        """Split a name into what is relative to the nearest zone, and that zone's own."""
        for start in range(len(name)):
            if name[start:] in self._zones:
                return name[:start], name[start:]
        return None

    def find(self, relative: Labels, apex: Labels) -> list[Address] | None:
        """Return the addresses of a name in a zone, the first of each version.

        The list is empty for a name without one, and None stands for a name that does not exist.
        """
        found = self._zones[apex].find(relative)
        if found is None:
            return None
        return list({address.version: address for address in reversed(found)}.values())

    def has(self, label: str) -> bool:
        """Tell whether a record of some zone has this one label, in lower case, for its name."""
        name = dnsmessage.labels(label)
        return any(names.has(name) for names in self._zones.values())

    def name(self, address: Address) -> Labels | None:
        """Return the first name that a record gives an address."""
        for apex, zone in self._listed.items():
            for record in zone.records:
                if record.address == address and record.name and not record.pattern:
                    return dnsmessage.labels(record.name) + apex
        return None


def _joined(new: Zone, old: Zone | None) -> Zone:
    """Return a zone with the records of both; of equal ones the first."""
    records = new.records + (() if old is None else old.records)
    return replace(new, records=tuple(dict.fromkeys(records)))


def _size(zone: Zone | None) -> int:
    return 0 if zone is None else len(json.dumps(zonejson.encode(zone)))


class _Names:
    """The names of one zone, relative to it."""

    def __init__(self, zone: Zone) -> None:
        # What stands between a name and its zone exists as well (RFC 8020 §2), without an address.
        self._exact: dict[Labels, list[tuple[int, Address]]] = {(): []}
        self._patterns: list[tuple[int, re.Pattern[str], Address]] = []
        self._default = zone.default
        for number, record in enumerate(zone.records):
            if record.pattern:
                pattern = re.compile(record.pattern)
                self._patterns.append((number, pattern, record.address))
            if record.name:
                self._add_name(number, record)

    def _add_name(self, number: int, record: Record) -> None:
        name = dnsmessage.labels(record.name)
        self._exact.setdefault(name, []).append((number, record.address))
        for start in range(1, len(name)):
            self._exact.setdefault(name[start:], [])

    def has(self, name: Labels) -> bool:
        """Tell whether a record has this very name."""
        return bool(self._exact.get(name))

    def find(self, name: Labels) -> list[Address] | None:
        """Return a name's addresses, an empty list where it has none, None if it does not exist."""
        exact = self._exact.get(name)
        first = exact[0][0] if exact else inf
        text = b".".join(name).decode("ascii", "backslashreplace")
        for number, pattern, address in self._patterns:
            if number < first and len(text) < NAME and pattern.search(text):
                return [address]
        if exact:
            return [address for _, address in exact]
        if self._default is not None:
            return [self._default]
        return None if exact is None else []
