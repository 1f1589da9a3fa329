"""The names and addresses that are answered here: zones, guests, the gateway, the host's hosts(5).

A zone decides about all below its name, but what it lacks may be a guest's: NAME in any zone, as
well as NAME alone, is the guest whose DHCP client calls itself so, and `_gateway` is the gateway.
No guest has a name that is a zone's record, for whoever is asked for `host` trusts it.  After them
come names of the host's hosts(5).  Addresses are looked up in the same order; those of the network
that nobody has do not exist.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Protocol

from gvproxy.services import dnsmessage
from gvproxy.services.dnsmessage import Labels, Query, Rcode
from gvproxy.services.hosts import HostsFile
from gvproxy.services.zones import Zones

TTL = 60
"""Seconds; a name changes seldom, and a guest should not ask for each request."""
GATEWAY_NAME = "_gateway"
"""What systemd calls it (nss-myhostname(8))."""

Address = IPv4Address | IPv6Address

_TYPES = {4: dnsmessage.TYPE_A, 6: dnsmessage.TYPE_AAAA}
_OF_ADDRESSES = {*_TYPES.values(), dnsmessage.TYPE_SVCB, dnsmessage.TYPE_HTTPS, dnsmessage.TYPE_ANY}
"""What hosts(5) decides about; SVCB and HTTPS would lead around it (RFC 9460 §7.3)."""


class Guests(Protocol):
    """Who knows what guests call themselves; implemented by `services.dhcp.DhcpServer`."""

    def address_of(self, name: str, *, now: float) -> IPv4Address | None:
        """Return the address of the guest with a name in lower case."""

    def name_of(self, address: IPv4Address, *, now: float) -> str:
        """Return the name of the guest at an address, empty where it has none."""


class LocalNames:
    """Looks up what is known without asking anybody; times are in seconds."""

    def __init__(
        self,
        zones: Zones,
        guests: Guests,
        hosts: HostsFile,
        gateway: IPv4Address,
        subnet: IPv4Network,
    ) -> None:
        self.zones = zones
        self._guests = guests
        self._hosts = hosts
        self._gateway = gateway
        self._subnet = subnet

    def answer(self, query: Query, now: float) -> bytes | None:
        """Return the reply to a query about a local name; None for all others."""
        address = _reverse(query.labels)
        if address is not None:
            return self._answer_reverse(query, address, now)
        split = self.zones.split(query.labels)
        if split is not None:
            return _answer(query, self._in_zone(*split, now))
        addresses = self._outside_zones(query.labels, now)
        if addresses is None or query.kind not in _OF_ADDRESSES:
            return None
        return _answer(query, addresses)

    def addresses(self, name: str, now: float) -> Sequence[Address] | None:
        """Return a name's addresses, none where it does not exist; None for names of others."""
        return self._addresses(dnsmessage.labels(name), now)

    def _addresses(self, labels: Labels, now: float) -> Sequence[Address] | None:
        split = self.zones.split(labels)
        if split is not None:
            return self._in_zone(*split, now) or []
        return self._outside_zones(labels, now)

    def _in_zone(self, relative: Labels, apex: Labels, now: float) -> Sequence[Address] | None:
        found = self.zones.find(relative, apex)
        if found is None and len(relative) == 1:
            guest = self._guest(_text(relative), now)
            return None if guest is None else [guest]
        return found

    def _outside_zones(self, labels: Labels, now: float) -> Sequence[Address] | None:
        name = _text(labels)
        if len(labels) == 1:
            guest = self._guest(name, now)
            if guest is not None:
                return [guest]
        return self._hosts.addresses(name, now)

    def _guest(self, name: str, now: float) -> IPv4Address | None:
        if name == GATEWAY_NAME:
            return self._gateway
        return None if self.zones.has(name) else self._guests.address_of(name, now=now)

    def _answer_reverse(self, query: Query, address: Address, now: float) -> bytes | None:
        name = self._name(address, now)
        if name is None:
            if address not in self._subnet:
                return None
            return dnsmessage.reply(query, Rcode.NXDOMAIN, flags=dnsmessage.AA)
        answers = []
        if query.kind in (dnsmessage.TYPE_PTR, dnsmessage.TYPE_ANY) and _is_internet(query):
            data = dnsmessage.encode_name(name)
            answers.append(dnsmessage.record(dnsmessage.TYPE_PTR, TTL, data))
        return dnsmessage.reply(query, Rcode.NOERROR, flags=dnsmessage.AA, answers=answers)

    def _name(self, address: Address, now: float) -> Labels | None:
        name = self.zones.name(address)
        if name is None and isinstance(address, IPv4Address):
            name = self._guest_name(address, now)
        if name is None:
            found = self._hosts.name(address, now)
            name = None if found is None else dnsmessage.labels(found)
        return name if name is not None and dnsmessage.is_legal(name) else None

    def _guest_name(self, address: IPv4Address, now: float) -> Labels | None:
        """Return the first name that leads to the guest at an address, or to the gateway."""
        label = self._guests.name_of(address, now=now)
        if not label and address == self._gateway:
            label = GATEWAY_NAME
        if not label:
            return None
        zones = (f".{zone.name}" for zone in self.zones.all())
        names = (dnsmessage.labels(label + zone) for zone in (*zones, ""))
        return next((name for name in names if address in (self._addresses(name, now) or ())), None)


def _answer(query: Query, addresses: Sequence[Address] | None) -> bytes:
    """Reply with the addresses of the type that is asked for; None is a name that is not there."""
    if addresses is None:
        return dnsmessage.reply(query, Rcode.NXDOMAIN, flags=dnsmessage.AA)
    answers = [
        dnsmessage.record(_TYPES[address.version], TTL, address.packed)
        for address in addresses
        if query.kind in (_TYPES[address.version], dnsmessage.TYPE_ANY) and _is_internet(query)
    ]
    return dnsmessage.reply(query, Rcode.NOERROR, flags=dnsmessage.AA, answers=answers)


def _is_internet(query: Query) -> bool:
    return query.klass in (dnsmessage.CLASS_IN, dnsmessage.CLASS_ANY)


def _reverse(labels: Labels) -> Address | None:
    """Return the address whose name is asked for (RFC 1035 §3.5, RFC 3596 §2.5)."""
    *digits, zone, top = labels if len(labels) > 2 else (b"", b"", b"")
    try:
        if (zone, top) == (b"in-addr", b"arpa") and len(digits) == 4:
            return IPv4Address(b".".join(reversed(digits)).decode("ascii"))
        if (zone, top) == (b"ip6", b"arpa") and len(digits) == 32:
            return IPv6Address(bytes.fromhex(b"".join(reversed(digits)).decode("ascii")))
    except ValueError:
        pass
    return None


def _text(labels: Labels) -> str:
    return b".".join(labels).decode("ascii", "backslashreplace")
