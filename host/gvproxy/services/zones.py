"""The names gvproxy answers itself: the gateway's, the host's, and whatever a zone is given.

A zone is authoritative for all below its name: a name it lacks does not exist, and a name it has
exists for every type (NODATA, RFC 2308 §2.2).
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from gvproxy.config import Zone
from gvproxy.services import dnsmessage
from gvproxy.services.dnsmessage import Labels, Query, Rcode

TTL = 60
"""Seconds; an address changes with a restart only, and a guest should not ask for each request."""

_QUESTION_NAME = 0xC000 | dnsmessage.HEADER.size  # a pointer to it (RFC 1035 §4.1.4)
_ADDRESS_RECORD = Struct("!HHHIH4s")


class Zones:
    """Looks names up in the local zones."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._zones: dict[Labels, dict[Labels, IPv4Address | IPv6Address | None]] = {}
        for zone in zones:
            apex = dnsmessage.labels(zone.name)
            names = self._zones.setdefault(apex, {apex: None})
            for record in zone.records:
                full = dnsmessage.labels(record.name) + apex
                names[full] = record.address
                # What stands between a name and its zone exists as well (RFC 8020 §2).
                for start in range(1, len(full) - len(apex)):
                    names.setdefault(full[start:])

    def answer(self, query: Query) -> bytes | None:
        """Return the reply to a query for a name in a local zone; None for all other names."""
        for start in range(len(query.labels)):
            names = self._zones.get(query.labels[start:])
            if names is not None:
                return _answer(query, names)
        return None


def _answer(query: Query, names: dict[Labels, IPv4Address | IPv6Address | None]) -> bytes:
    if query.labels not in names:
        return dnsmessage.reply(query, Rcode.NXDOMAIN, authoritative=True)
    address = names[query.labels]
    record = b""
    if (
        isinstance(address, IPv4Address)
        and query.kind in (dnsmessage.TYPE_A, dnsmessage.TYPE_ANY)
        and query.klass in (dnsmessage.CLASS_IN, dnsmessage.CLASS_ANY)
    ):
        record = _ADDRESS_RECORD.pack(
            _QUESTION_NAME, dnsmessage.TYPE_A, dnsmessage.CLASS_IN, TTL, 4, address.packed
        )
    return dnsmessage.reply(query, Rcode.NOERROR, authoritative=True, answer=record)
