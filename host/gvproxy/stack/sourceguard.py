"""Who may send as whom: what switches call port security, IP Source Guard, Dynamic ARP Inspection
and DHCP snooping.

The border is the port: what is behind one is one guest, and may share its addresses.  Between
ports,

* a MAC address stays with its port until that is detached, and for COMEBACK from then on where the
  claimant's link comes from elsewhere;
* connections, and replies to datagrams, are for the guest they began with (`is_another`);
* nobody has the gateway's addresses, in ARP or in IP;
* an address of the subnet that is leased belongs to the port of the lease's MAC address;
* any other address of the subnet belongs to the port that used it first, until that is detached, or
  has not used the address for AGEING and does not answer when it is asked;
* nobody answers DHCP clients.

Frames are judged before they reach other guests, or our neighbour table.  Addresses outside the
subnet are nobody's: guests may have networks of their own, and be routers.  Of IPv6 `raguard` alone
is asked, but nothing here counts on four bytes.  What an established connection or session sends
the short way (`stack`) has been judged at its beginning; it is tied to the port.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from struct import Struct

from gvproxy.complaint import Complaint
from gvproxy.stack.port import Port, StackConfig, StackCounters, Station
from gvproxy.stack.raguard import RouterGuard
from gvproxy.stack.switch import AGEING, Switch
from gvproxy.wire import arp, ethernet, ipv4, udp
from taplink import vnet

log = logging.getLogger(__name__)

MAX_ADDRESSES = 64
"""Of one port, beside leased ones; who uses more loses those used longest ago."""
ANSWER_TIME = 2.0
"""Seconds that a guest has to say that it still uses an address; one on a slow machine, too."""
COMEBACK = 5.0
"""Seconds that a guest has to come back until another may have its MAC address: an agent's longest.

A VM that was started anew, and is another to us, waits no longer than that.
"""
ASK_INTERVAL = 1.0
"""Seconds between two questions to one whose MAC address another claims."""

DHCP_SERVER, DHCP_CLIENT = 67, 68  # RFC 2131 §4.1
_IPV4 = Struct("!B5xHxB2x4s")  # version and header length, fragment, protocol, source
_PORTS = Struct("!HH")

Binding = Callable[[bytes, float], bytes | None]
"""Tells the MAC address that an IP address is leased to, now or for ever."""


@dataclass(slots=True, eq=False)
class _Holder:
    """The port that has an address, and the MAC address it was first used with."""

    address: bytes
    port: Port
    mac: bytes
    seen: float
    asked: float = -inf


class SourceGuard:
    """Judges the frames of one switch; the time is in seconds."""

    def __init__(self, config: StackConfig, switch: Switch, counters: StackCounters) -> None:
        self.binding: Binding = lambda address, now: None
        self._config = config
        self._switch = switch
        self._counters = counters
        self._ours = config.owned | config.reserved
        self._holders: dict[bytes, _Holder] = {}
        self._held: dict[Port, dict[bytes, _Holder]] = {}
        self._macs = Complaint(log)
        self._addresses = Complaint(log)
        self._servers = Complaint(log)
        self._routers = RouterGuard(counters)

    def user(self, address: bytes) -> bytes | None:
        """Return the MAC address of the guest that has `address` and is there."""
        holder = self._holders.get(address)
        return None if holder is None else holder.mac

    def is_there(self, mac: bytes) -> bool:
        """Tell whether the guest with a MAC address is attached."""
        station = self._switch.stations.get(mac)
        return station is not None and station.port.attached

    def detach(self, port: Port) -> None:
        """Let go of a port's addresses."""
        for address in self._held.pop(port, ()):
            del self._holders[address]

    def granted(self, address: bytes, mac: bytes) -> None:
        """Take note of a lease: whoever else has used its address may not any more."""
        holder = self._holders.get(address)
        if holder is not None and not self._is_behind(mac, holder.port):
            self._forget(holder)

    # MAC addresses

    def may_move(self, station: Station, port: Port, now: float) -> bool:
        """Tell whether a MAC address may be behind `port`, where another guest has it or had it.

        A frame to one that is attached brings its end about where it is dead without a word.
        """
        was = station.port
        there = was.attached
        if not there and (not was.identity or now - was.left >= COMEBACK):
            return True
        text = (
            "%s of guest %d is refused, because guest %d has it: give each VM a MAC address of "
            "its own"
            if there
            else "%s of guest %d is refused, because guest %d, which had it, may come back"
        )
        self.refuse_mac(now, text, ethernet.format_mac(station.mac), port.number, was)
        if there and now - station.asked >= ASK_INTERVAL:
            station.asked = now
            self._ask(was, station.mac, self._config.gateway)
        return False

    def refuse_mac(self, now: float, text: str, mac: str, number: int, *others: Port) -> None:
        """Count and tell of a frame with another's MAC address."""
        self._counters.macs_spoofed += 1
        self._macs.make(now, text, mac, number, *(other.number for other in others))

    # Frames

    def permits(
        self, station: Station, frame: memoryview, at: int, kind: int, to_us: bool, now: float
    ) -> bool:
        """Judge a frame of `station`, whose payload of type `kind` begins at `at`.

        `to_us` tells that it is for the gateway and nobody else.
        """
        if kind in ethernet.TAGS or kind <= ethernet.MAX_LENGTH:
            kind, at = ethernet.behind_tags(frame, at, kind)
        if kind == ethernet.TYPE_IPV4:
            if len(frame) < at + ipv4.SIZE:
                return True  # nobody can read it
            version, fragment, protocol, source = _IPV4.unpack_from(frame, at)
            holder = self._holders.get(source)
            if holder is not None and holder.port is station.port:
                holder.seen = now
            elif not self._may_use(source, station, now):
                return False
            return (
                to_us
                or protocol != ipv4.PROTOCOL_UDP
                or bool(fragment & ipv4.OFFSET_MASK)
                or self._is_no_server(station, frame, at + (version & 0xF) * 4, now)
            )
        if kind == ethernet.TYPE_ARP:
            return self._judge_arp(station, frame, at, now)
        if kind == ethernet.TYPE_IPV6:
            return to_us or self._routers.permits(station, frame, at, now)
        if kind in ethernet.TAGS:
            self._counters.malformed += 1
            return False
        return True

    def _judge_arp(self, station: Station, frame: memoryview, at: int, now: float) -> bool:
        if len(frame) < at + arp.PACKET.size:
            return True
        *prefix, _, mac, source, _, _ = arp.PACKET.unpack_from(frame, at)
        if tuple(prefix) != arp.PREFIX:  # hosts may read others: Linux one of hardware type 6
            self._counters.malformed += 1
            return False
        if mac != station.mac:
            text = "ARP for %s from guest %d is refused: its frame is another's"
            self.refuse_mac(now, text, ethernet.format_mac(mac), station.port.number)
            return False
        return self._may_use(source, station, now)

    def _is_no_server(self, station: Station, frame: memoryview, at: int, now: float) -> bool:
        """Judge a UDP datagram for other guests, or its first fragment."""
        if len(frame) < at + udp.SIZE:
            self._counters.malformed += 1
            return False
        source, destination = _PORTS.unpack_from(frame, at)
        # Clients take answers from whatever port they come.
        if source != DHCP_SERVER and destination != DHCP_CLIENT:
            return True
        self._counters.dhcp_servers_refused += 1
        text = "guest %d (%s) answers DHCP clients, and is refused: gvproxy is their server"
        self._servers.make(now, text, station.port.number, ethernet.format_mac(station.mac))
        return False

    # Addresses

    def _may_use(self, address: bytes, station: Station, now: float) -> bool:
        holder = self._holders.get(address)
        if holder is not None and holder.port is station.port:
            holder.seen = now
            return True
        config = self._config
        if address in self._ours:
            return self._refuse(address, station, "it is the gateway's", now)
        inside = config.in_subnet(address)
        if config.is_group(address) or (inside and not config.is_guest(address)):
            return self._refuse(address, station, "it is no guest's", now)
        if not inside:
            return True
        owner = self.binding(address, now)
        if owner is not None:
            if owner != station.mac and not self._is_behind(owner, station.port):
                why = f"it is leased to {ethernet.format_mac(owner)}"
                return self._refuse(address, station, why, now)
        elif holder is not None and not self._gives_way(holder, now):
            why = f"guest {holder.port.number} has it"
            return self._refuse(address, station, why, now)
        if holder is not None:
            self._forget(holder)
        self._hold(_Holder(address, station.port, station.mac, now))
        return True

    def _refuse(self, address: bytes, station: Station, why: str, now: float) -> bool:
        self._counters.addresses_spoofed += 1
        text = "guest %d (%s) may not send as %s: %s"
        mac, number = ethernet.format_mac(station.mac), station.port.number
        self._addresses.make(now, text, number, mac, ip_address(address), why)
        return False

    def _is_behind(self, mac: bytes, port: Port) -> bool:
        station = self._switch.stations.get(mac)
        return station is not None and station.port is port

    def _gives_way(self, holder: _Holder, now: float) -> bool:
        """Tell whether another may have the address: its holder is silent, and was asked."""
        if not holder.port.attached:  # detached amid a batch of its own
            return True
        if now - holder.seen < AGEING:
            return False
        if holder.asked > holder.seen:
            return now - holder.asked >= ANSWER_TIME
        holder.asked = now
        self._ask(holder.port, holder.mac, holder.address)
        return False

    def _ask(self, port: Port, mac: bytes, address: bytes) -> None:
        ours = self._config.mac
        eth = ethernet.HEADER.pack(mac, ours, ethernet.TYPE_ARP)
        body = arp.build(arp.REQUEST, ours, self._config.gateway, bytes(6), address)
        port.send(vnet.PLAIN, eth + body)

    def _hold(self, holder: _Holder) -> None:
        held = self._held.setdefault(holder.port, {})
        if len(held) >= MAX_ADDRESSES:
            self._forget(min(held.values(), key=lambda one: one.seen))
        held[holder.address] = self._holders[holder.address] = holder

    def _forget(self, holder: _Holder) -> None:
        del self._holders[holder.address]
        del self._held[holder.port][holder.address]


def is_another(was: Station, mac: bytes, port: Port) -> bool:
    """Tell whether a MAC address behind `port` is of another guest's than a station's.

    A guest that comes back is known by its MAC address, and by where its link comes from.
    """
    before = was.port
    return before is not port and (mac, port.identity) != (was.mac, before.identity)
