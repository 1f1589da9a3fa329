"""The names gvproxy answers itself: the gateway's, the host's, and whatever a zone is given.

A zone is authoritative for all below its name: a name it lacks does not exist, and a name it has
exists for every type (NODATA, RFC 2308 §2.2).  Of records that stand for a name the first counts,
as in Go's gvproxy, and the zone's default for names without one.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from math import inf
from struct import Struct

from gvproxy.config import Record, Zone
from gvproxy.services import dnsmessage
from gvproxy.services.dnsmessage import Labels, Query, Rcode

TTL = 60
"""Seconds; an address changes with a restart only, and a guest should not ask for each request."""

Address = IPv4Address | IPv6Address

_QUESTION_NAME = 0xC000 | dnsmessage.HEADER.size  # a pointer to it (RFC 1035 §4.1.4)
_RECORD = Struct("!HHHIH")
_TYPES = {4: dnsmessage.TYPE_A, 6: dnsmessage.TYPE_AAAA}


class Zones:
    """Looks names up in the local zones."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._zones: dict[Labels, _Names] = {}
        self._listed: dict[Labels, Zone] = {}
        for zone in reversed(zones):  # of two alike the records of the first come first
            self.add(zone)
        self._listed = dict(reversed(self._listed.items()))

    def add(self, zone: Zone) -> None:
        """Add a zone, or to one that is there: new records come first, the new default counts."""
        apex = dnsmessage.labels(zone.name)
        if apex in self._listed:
            zone = replace(zone, records=zone.records + self._listed[apex].records)
        self._listed[apex] = zone
        self._zones[apex] = _Names(zone)

    def all(self) -> list[Zone]:
        """Return the zones as they were given, with what was added."""
        return list(self._listed.values())

    def answer(self, query: Query) -> bytes | None:
        """Return the reply to a query for a name in a local zone; None for all other names."""
        names, name = self._find(query.labels)
        return None if names is None else _answer(query, names.find(name))

    def addresses(self, name: str) -> list[Address] | None:
        """Return a name's addresses, none where it does not exist; None for all other names."""
        names, relative = self._find(dnsmessage.labels(name))
        return None if names is None else names.find(relative) or []

    def _find(self, labels: Labels) -> tuple["_Names | None", Labels]:
        """Return the zone that is nearest to a name, and the name relative to it."""
        for start in range(len(labels)):
            names = self._zones.get(labels[start:])
            if names is not None:
                return names, labels[:start]
        return None, labels


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

    def find(self, name: Labels) -> list[Address] | None:
        """Return a name's addresses, an empty list where it has none, None if it does not exist."""
        exact = self._exact.get(name)
        first = exact[0][0] if exact else inf
        text = b".".join(name).decode("ascii", "backslashreplace")
        for number, pattern, address in self._patterns:
            if number < first and pattern.search(text):
                return [address]
        if exact:
            return [address for _, address in exact]
        if self._default is not None:
            return [self._default]
        return None if exact is None else []


def _answer(query: Query, addresses: list[Address] | None) -> bytes:
    if addresses is None:
        return dnsmessage.reply(query, Rcode.NXDOMAIN, authoritative=True)
    record = b""
    if query.klass in (dnsmessage.CLASS_IN, dnsmessage.CLASS_ANY):
        for address in addresses:
            kind = _TYPES[address.version]
            if query.kind in (kind, dnsmessage.TYPE_ANY):
                packed = address.packed
                head = (_QUESTION_NAME, kind, dnsmessage.CLASS_IN, TTL, len(packed))
                record = _RECORD.pack(*head) + packed
                break
    return dnsmessage.reply(query, Rcode.NOERROR, authoritative=True, answer=record)
