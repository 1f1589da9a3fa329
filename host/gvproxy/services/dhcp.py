"""The DHCP server (RFC 2131), sans-IO: a message in, at most one reply out.

It is the only server of its network and knows it: a request it cannot grant is refused at once,
and one for an address that is free is granted even when a restart has made it forget the client.
Relays are not served (`giaddr` is ignored), nor are BOOTP clients.  `leases` has the bindings.
"""

import logging
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import NamedTuple

import dpkt
from dnslib.label import DNSBuffer, DNSLabelError
from dpkt import dhcp

from gvproxy.complaint import Complaint
from gvproxy.config import Config
from gvproxy.limits import Quota
from gvproxy.services.leases import Lease, LeaseTable, User
from gvproxy.stack.port import Port, Station
from taplink.dhcp import join_options

log = logging.getLogger(__name__)

SERVER_PORT = 67
CLIENT_PORT = 68
LEASE_TIME = 3600
OFFER_TIME = 60.0
"""Seconds an offer is kept for the client that got it; Linux clients answer within ten."""
DECLINE_TIME = 3600.0
"""Seconds an address stays out of use after a client found somebody else at it."""

GRANTS_LOGGED = 30
"""A minute: a dozen guests may start at once, and one that asks and asks fills no disk."""

_BROADCAST = b"\xff" * 4
_BROADCAST_MAC = b"\xff" * 6
_BROADCAST_FLAG = 0x8000
_OPTION_SEARCH = 119
_MAX_SEARCH = 240
"""Bytes of option 119, so that a reply fits the 576 bytes every client takes (RFC 2131 §2)."""
_MIN_SIZE = 300
"""Older relays and clients drop shorter messages (RFC 1542 §2.1)."""

_MAX_OPTION = 255
"""Bytes of an option (RFC 2132 §2)."""
_MAX_SIZE = 1472
"""Bytes of a client's message: as many as Ethernet has room for.  dpkt is quadratic in padding, and
takes 60 ms for the largest datagram.
"""

_OPTION_FQDN = 81
_FQDN_ENCODED = 0x04
_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 §2.1
_NO_NAMES = {"localhost", "wpad", "isatap"}
"""What clients look up of themselves: whoever had one of these names would be trusted with more
than a guest is (wpad, isatap: CERT VU#598349)."""

# RFC 2132 §9.6
_KINDS = ["0", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"]

SearchDomains = Callable[[float], Sequence[str]]
"""Gives the search domains as they are at a time in seconds."""


class Reply(NamedTuple):
    """A message for the client's port 68: where to send it at the IP and the Ethernet layer."""

    payload: bytes
    destination: bytes
    mac: bytes


@dataclass(slots=True)
class Counters:
    """What became of the messages."""

    malformed: int = 0
    ignored: int = 0
    spoofed: int = 0
    offers: int = 0
    acks: int = 0
    naks: int = 0
    releases: int = 0
    declines: int = 0
    exhausted: int = 0


class _Malformed(Exception):
    """The message is none, or lacks what its type needs."""


@dataclass(slots=True)
class _Message:
    """What counts of a client's message; addresses are 0 where it names none."""

    kind: int
    xid: int
    flags: int
    giaddr: int
    ciaddr: int
    mac: bytes
    key: bytes
    requested: int
    server: int
    name: str
    guest: Port | None


class DhcpServer:
    """The server at the gateway's port 67."""

    def __init__(self, config: Config, search: SearchDomains, user: User, quota: Quota) -> None:
        """`quota` is of bindings."""
        self.counters = Counters()
        self._config = config
        self._search = search
        self._server = int(config.gateway_ip)
        self._static = {mac: int(address) for address, mac in config.static_leases.items()}
        reserved = {config.gateway_ip, config.host_ip, *config.virtual_ips}
        self._table = LeaseTable(
            config.subnet, frozenset(map(int, reserved)), self._static, user, quota
        )
        self._granted = Complaint(log, logging.INFO, GRANTS_LOGGED)
        self._exhausted = Complaint(log)
        self._declined = Complaint(log)
        self._spoofed = Complaint(log)
        self._refused = Complaint(log)
        self.changed: Callable[[], None] = lambda: None
        """Called when a lease has been given, prolonged or given back."""
        self.granted: Callable[[bytes, bytes], None] = lambda address, mac: None
        """Called with each lease's IP and MAC address."""
        self.is_there: Callable[[bytes], bool] = lambda mac: False
        """Tells whether the guest with a MAC address is attached: what is its own then stays so."""

    def handle(self, message: bytes, *, now: float, sender: Station | None = None) -> Reply | None:
        """Take a datagram's payload and return the reply to it, if it gets one.

        `now` is in seconds.  A message in another's name than the `sender`'s is refused where
        sources are checked.  Whatever the message holds, nothing is raised.
        """
        try:
            request = _parse(message)
            log.debug("DHCP %s from %s", _kind(request.kind), _name(request))
            if sender is not None:
                if self._config.source_checks and request.mac != sender.mac:
                    self._refuse(request, sender, now)
                    return None
                request.guest = sender.port
            request.key = self._key(request, now)
            match request.kind:
                case dhcp.DHCPDISCOVER:
                    return self._discover(request, now)
                case dhcp.DHCPREQUEST:
                    return self._request(request, now)
                case dhcp.DHCPINFORM:
                    return self._inform(request, now)
                case dhcp.DHCPRELEASE:
                    self._release(request, now)
                case dhcp.DHCPDECLINE:
                    self._decline(request, now)
                case _:
                    self.counters.ignored += 1
        except _Malformed:
            self.counters.malformed += 1
            log.debug("a malformed DHCP message")
        return None

    def leases(self, *, now: float) -> dict[str, str]:
        """Return IP → MAC address: the gateway's, the static leases' and those in force."""
        config = self._config
        leases = {int(config.gateway_ip): config.gateway_mac}
        leases |= {address: mac for mac, address in self._static.items()}
        leases |= {lease.address: lease.mac for lease in self._table.bound(now)}
        return {str(IPv4Address(ip)): mac.hex(":") for ip, mac in sorted(leases.items())}

    def bound(self, now: float) -> list[Lease]:
        """Return the leases in force."""
        return list(self._table.bound(now))

    def restore(self, lease: Lease, now: float) -> bool:
        """Give a client of an earlier daemon its lease back; False where it may not have that."""
        if lease.key is None or not self._table.available(lease.address, lease.key, lease.mac, now):
            return False
        self._table.put(lease, now)
        return True

    def owner(self, address: bytes, now: float) -> bytes | None:
        """Return the MAC address that an address is leased to.

        The lease that is there without anybody's asking is so while its guest is there: without it
        the address is free for one that has it by hand, and published ports lead there.
        """
        mac = self._table.owner(int.from_bytes(address, "big"), now)
        config = self._config
        unasked = (address, mac) == (config.device_ip.packed, config.device_mac)
        return None if unasked and not self.is_there(config.device_mac) else mac

    def address_of(self, name: str, *, now: float) -> IPv4Address | None:
        """Return the address of the guest that calls itself so, in lower case."""
        lease = self._table.find_name(name, now)
        return None if lease is None else IPv4Address(lease.address)

    def name_of(self, address: IPv4Address, *, now: float) -> str:
        """Return what the guest at an address calls itself, empty where that is not known."""
        return self._table.name_at(int(address), now)

    def _refuse(self, request: _Message, sender: Station, now: float) -> None:
        self.counters.spoofed += 1
        text = "DHCP for %s from %s (guest %d) is refused: one may ask for oneself alone"
        self._spoofed.make(now, text, _name(request), sender.mac.hex(":"), sender.port.number)

    def _key(self, request: _Message, now: float) -> bytes:
        """Return what a client is known by: its identifier, unless a guest that is there has it.

        Clones of one VM all have the same, and anybody can learn another's.
        """
        # Longer than any identifier, so nobody can have it as one.
        own = request.key.ljust(_MAX_OPTION, b"\0") + request.mac
        if self._table.find(own) is not None:
            return own
        lease = self._table.find(request.key)
        taken = lease is not None and lease.mac != request.mac and lease.expires > now
        return own if taken and lease is not None and self.is_there(lease.mac) else request.key

    def _discover(self, request: _Message, now: float) -> Reply | None:
        address = self._table.choose(
            request.key, request.mac, request.requested, now, request.guest
        )
        if address is None:
            self.counters.exhausted += 1
            subnet = self._config.subnet
            self._exhausted.make(now, "no address left in %s for %s", subnet, _name(request))
            return None
        lease = self._table.find(request.key)
        if lease is None or lease.address != address or lease.expires <= now:
            expires = now + OFFER_TIME
            self._table.put(self._lease(request, address, expires, bound=False), now)
        self.counters.offers += 1
        return self._reply(request, dhcp.DHCPOFFER, address, now)

    def _request(self, request: _Message, now: float) -> Reply | None:
        """Answer a client that selects an offer, reboots, renews or rebinds (RFC 2131 §4.3.2)."""
        if request.server not in (0, self._server):
            # Another server was chosen, and the offer is void (RFC 2131 §3.1, step 4).
            lease = self._table.find(request.key)
            if lease is not None and not lease.bound:
                lease.expires = now
            self.counters.ignored += 1
            return None
        address = request.requested or request.ciaddr
        if not address:
            raise _Malformed
        # Deviation: RFC 2131 §4.3.2 has a server keep silent about a client it does not know.
        # Here there is no other server that might know it.
        if not self._table.available(address, request.key, request.mac, now, request.guest):
            self.counters.naks += 1
            wanted = IPv4Address(address)
            self._refused.make(now, "%s may not have %s", _name(request), wanted)
            return self._reply(request, dhcp.DHCPNAK, 0, now)
        lease = self._table.find(request.key)
        if lease is None or lease.address != address or not lease.bound:
            self._granted.make(now, "%s has %s", _name(request), IPv4Address(address))
        self._table.put(self._lease(request, address, now + LEASE_TIME, bound=True), now)
        self.granted(address.to_bytes(4, "big"), request.mac)
        self.changed()
        self.counters.acks += 1
        return self._reply(request, dhcp.DHCPACK, address, now)

    def _lease(self, request: _Message, address: int, expires: float, *, bound: bool) -> Lease:
        name = request.name if bound else ""
        return Lease(address, request.key, request.mac, expires, bound, name, request.guest)

    def _inform(self, request: _Message, now: float) -> Reply:
        """Tell the settings to a host that has an address of its own (RFC 2131 §4.3.5)."""
        if IPv4Address(request.ciaddr) not in self._config.subnet:
            raise _Malformed
        self.counters.acks += 1
        return self._reply(request, dhcp.DHCPACK, 0, now)

    def _own(self, request: _Message, address: int) -> Lease | None:
        """Return the client's lease of an address, where this server gave it that."""
        lease = self._table.find(request.key)
        if lease is None or (lease.address, lease.mac) != (address, request.mac):
            return None
        return lease if request.server == self._server else None

    def _release(self, request: _Message, now: float) -> None:
        lease = self._own(request, request.ciaddr)
        if lease is None:
            self.counters.ignored += 1
            return
        lease.expires = now
        self.changed()
        self.counters.releases += 1

    def _decline(self, request: _Message, now: float) -> None:
        """Take an address out of use that somebody else has (RFC 2131 §4.3.3)."""
        lease = self._own(request, request.requested)
        if lease is None:
            self.counters.ignored += 1
            return
        address = IPv4Address(request.requested)
        self._declined.make(now, "%s found %s in use by another", _name(request), address)
        declined = replace(lease, key=None, expires=now + DECLINE_TIME, bound=False, name="")
        self._table.put(declined, now)
        self.counters.declines += 1

    def _reply(self, request: _Message, kind: int, address: int, now: float) -> Reply:
        """Build a reply; `address` is the client's, 0 where it gets none."""
        log.debug("DHCP %s for %s: %s", _kind(kind), _name(request), IPv4Address(address))
        options = [(dhcp.DHCP_OPT_MSGTYPE, bytes((kind,)))]
        options.append((dhcp.DHCP_OPT_SERVER_ID, self._config.gateway_ip.packed))
        if address:
            options += _LEASE_OPTIONS
        if kind != dhcp.DHCPNAK:
            options += self._settings(now)
        message = dhcp.DHCP(
            op=dhcp.DHCP_OP_REPLY,
            xid=request.xid,
            flags=request.flags,
            ciaddr=0 if kind in (dhcp.DHCPOFFER, dhcp.DHCPNAK) else request.ciaddr,
            yiaddr=address,
            giaddr=request.giaddr,
            chaddr=request.mac,
            opts=options,
        )
        payload = bytes(message).ljust(_MIN_SIZE, b"\0")
        # RFC 2131 §4.1.  A client without an address is reached by its MAC address; the broadcast
        # in the IP header is for those whose IP layer drops what is not theirs yet.
        if request.ciaddr and kind != dhcp.DHCPNAK:
            return Reply(payload, request.ciaddr.to_bytes(4, "big"), request.mac)
        everybody = kind == dhcp.DHCPNAK or request.flags & _BROADCAST_FLAG
        return Reply(payload, _BROADCAST, _BROADCAST_MAC if everybody else request.mac)

    def _settings(self, now: float) -> list[tuple[int, bytes]]:
        """Return the options of RFC 2132 that describe the network."""
        config = self._config
        gateway = config.gateway_ip.packed
        options = [
            (dhcp.DHCP_OPT_NETMASK, config.subnet.netmask.packed),
            (dhcp.DHCP_OPT_ROUTER, gateway),
            (dhcp.DHCP_OPT_DNS_SVRS, gateway),
            (dhcp.DHCP_OPT_MTUSIZE, struct.pack("!H", config.mtu)),
            (dhcp.DHCP_OPT_BROADCASTADDR, config.subnet.broadcast_address.packed),
        ]
        search = encode_search(self._search(now))
        if search:
            options.append((_OPTION_SEARCH, search))
        return options


_LEASE_OPTIONS = [
    (dhcp.DHCP_OPT_LEASE_SEC, struct.pack("!I", LEASE_TIME)),
    # The defaults of RFC 2131 §4.4.5, said aloud.
    (dhcp.DHCP_OPT_RENEWTIME, struct.pack("!I", LEASE_TIME // 2)),
    (dhcp.DHCP_OPT_REBINDTIME, struct.pack("!I", LEASE_TIME * 7 // 8)),
]


def encode_search(domains: Sequence[str]) -> bytes:
    """Write the domain search option (RFC 3397), compressed, as far as the domains fit.

    What is no domain name is left out.
    """
    encoded = b""
    taken: list[str] = []
    for domain in domains:
        buffer = DNSBuffer()
        try:
            for name in (*taken, domain):
                buffer.encode_name(name)
        except (DNSLabelError, UnicodeError):
            continue
        if len(buffer.data) > _MAX_SEARCH:
            break
        taken.append(domain)
        encoded = bytes(buffer.data)
    return encoded


def _parse(message: bytes) -> _Message:
    """Read a client's message; raises _Malformed."""
    if len(message) > _MAX_SIZE:
        raise _Malformed
    try:
        packet = dhcp.DHCP(message)
    except (dpkt.UnpackError, IndexError):
        raise _Malformed from None
    mac = packet.chaddr
    if (
        packet.op != dhcp.DHCP_OP_REQUEST
        or packet.magic != dhcp.DHCP_MAGIC
        or packet.hrd != dpkt.arp.ARP_HRD_ETH
        or len(mac) != 6
        or mac[0] & 1
    ):
        raise _Malformed
    options = join_options(packet.opts)
    kind = options.get(dhcp.DHCP_OPT_MSGTYPE, b"")
    identifier = options.get(dhcp.DHCP_OPT_CLIENT_ID)
    if len(kind) != 1 or (identifier is not None and len(identifier) < 2):
        raise _Malformed
    return _Message(
        kind=kind[0],
        xid=packet.xid,
        flags=packet.flags,
        giaddr=packet.giaddr,
        ciaddr=packet.ciaddr,
        mac=mac,
        # A client without an identifier is known by its hardware type and address.
        key=identifier or bytes((packet.hrd,)) + mac,
        requested=_address(options.get(dhcp.DHCP_OPT_REQ_IP)),
        server=_address(options.get(dhcp.DHCP_OPT_SERVER_ID)),
        name=_host_name(options),
        guest=None,
    )


def _host_name(options: Mapping[int, bytes]) -> str:
    """Return the first label of a client's name, in lower case; empty where it has no usable one.

    The name is option 12 (RFC 2132 §3.14), or option 81, where it stands behind three bytes, of
    which the first says how it is written (RFC 4702 §2.1).
    """
    name = options.get(dhcp.DHCP_OPT_HOSTNAME) or b""
    fqdn = options.get(_OPTION_FQDN, b"")
    if not name and len(fqdn) > 3:
        name = fqdn[3:]
        if fqdn[0] & _FQDN_ENCODED:
            length, name = name[0], name[1:]
            name = name[:length] if length <= len(name) else b""
    label = name.partition(b".")[0].decode("ascii", "replace").lower()
    return label if _LABEL.fullmatch(label) and label not in _NO_NAMES else ""


def _address(option: bytes | None) -> int:
    if option is None:
        return 0
    if len(option) != 4:
        raise _Malformed
    return int.from_bytes(option, "big")


def _kind(number: int) -> str:
    return _KINDS[number] if number < len(_KINDS) else str(number)


def _name(request: _Message) -> str:
    return request.mac.hex(":")
