"""The interface's settings in the kernel: MAC, MTU, state, address and default route.

By netlink through pyroute2, in a thread: its asyncio sockets need a loop that knows their address
family, and uvloop does not.  Each call is some milliseconds, a few times in a lease's life.

What the agent sets is marked as DHCP's (`IFA_PROTO`, Linux 5.18, and `rtm_protocol`), so that it is
known again after a crash, and what others have set is left alone.
"""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from taplink.text import reason
from vsock_tap.errors import AgentError, RefusedError

METRIC = 500
"""Of the default route: behind a network card's, whose DHCP clients use 100 (NetworkManager) or
less, before a radio's (600)."""
TX_QUEUE_LENGTH = 8192
"""Frames the interface holds while the agent is busy; a tap has 500, which two hundred connections
that end at once overrun.  The ring is of pointers: 64 KiB."""
RTPROT_DHCP = 16
"""linux/rtnetlink.h."""
IFF_UP = 1
DESCRIPTORS = 8
"""More than IPRoute opens: a socket, and a loop of its own."""


class Network:
    """One interface.

    Every method raises RefusedError when the kernel refuses, another AgentError when the
    interface is not there.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        # A call that was cancelled still runs in its thread; the next one comes after it.
        self._busy = threading.Lock()

    async def set_up(self, mac: str, mtu: int) -> None:
        """Set MAC, MTU and queue, and bring the interface up; what is so already is not touched."""
        await asyncio.to_thread(self._set_up, mac, mtu)

    async def set_mtu(self, mtu: int) -> None:
        """Set the MTU."""
        await asyncio.to_thread(self._set_mtu, mtu)

    async def foreign_addresses(self) -> list[IPv4Address]:
        """Return the IPv4 addresses others have given the interface."""
        return await asyncio.to_thread(self._foreign_addresses)

    async def mac(self) -> str:
        """Return the MAC address the interface has."""
        return await asyncio.to_thread(self._mac)

    async def configure(self, address: IPv4Interface, router: IPv4Address | None) -> None:
        """Make these the agent's address and default route, in place of what it set before.

        What is so already is not touched.
        """
        await asyncio.to_thread(self._configure, address, router)

    async def clear(self) -> None:
        """Remove the agent's address and default route."""
        await asyncio.to_thread(self._clear)

    @contextmanager
    def _netlink(self) -> Iterator[tuple[IPRoute, int]]:
        try:
            _check_descriptors()
            with self._busy, IPRoute() as netlink:
                # Not if_nametoindex(3), which without a descriptor says that there is none.
                found = netlink.link_lookup(ifname=self._interface)
                if not found:
                    raise AgentError(f"{self._interface}: no interface with this name")
                yield netlink, found[0]
        except NetlinkError as error:
            kind = AgentError if error.code == errno.ENODEV else RefusedError
            raise kind(f"{self._interface}: {error.args[1]}") from error
        except OSError as error:
            raise RefusedError(f"{self._interface}: {reason(error)}") from error

    def _set_up(self, mac: str, mtu: int) -> None:
        with self._netlink() as (netlink, index):
            link = netlink.get_links(index)[0]
            if link.get("address") != mac:
                netlink.link("set", index=index, address=mac)
            if link.get("mtu") != mtu:
                netlink.link("set", index=index, mtu=mtu)
            if link.get("txqlen") < TX_QUEUE_LENGTH:
                netlink.link("set", index=index, txqlen=TX_QUEUE_LENGTH)
            if not link.get("flags") & IFF_UP:
                netlink.link("set", index=index, state="up")

    def _set_mtu(self, mtu: int) -> None:
        with self._netlink() as (netlink, index):
            if netlink.get_links(index)[0].get("mtu") != mtu:
                netlink.link("set", index=index, mtu=mtu)

    def _mac(self) -> str:
        with self._netlink() as (netlink, index):
            return str(netlink.get_links(index)[0].get("address"))

    def _foreign_addresses(self) -> list[IPv4Address]:
        with self._netlink() as (netlink, index):
            return [
                IPv4Address(address.get("local"))
                for address in netlink.get_addr(index=index, family=socket.AF_INET)
                if address.get("proto") != RTPROT_DHCP
            ]

    def _configure(self, wanted: IPv4Interface, router: IPv4Address | None) -> None:
        with self._netlink() as (netlink, index):
            # First the old: a second address of one subnet goes when its first one does, unless
            # promote_secondaries says otherwise.
            addresses = self._addresses(netlink, index)
            for stale in addresses - {wanted}:
                self._remove_address(netlink, index, stale)
            if wanted not in addresses:
                netlink.addr(
                    "replace",
                    index=index,
                    address=str(wanted.ip),
                    prefixlen=wanted.network.prefixlen,
                    broadcast=str(wanted.network.broadcast_address),
                    proto=RTPROT_DHCP,
                )
            routers = self._routers(netlink, index)
            for gateway in routers - {router}:
                self._route(netlink, "del", index, gateway)
            if router is not None and router not in routers:
                # Behind another of the same metric, which is a second agent's.
                self._route(netlink, "append", index, router)

    def _clear(self) -> None:
        with self._netlink() as (netlink, index):
            for router in self._routers(netlink, index):
                self._route(netlink, "del", index, router)
            for address in self._addresses(netlink, index):
                self._remove_address(netlink, index, address)

    def _addresses(self, netlink: IPRoute, index: int) -> set[IPv4Interface]:
        """Return the agent's own addresses."""
        return {
            IPv4Interface((address.get("local"), address.get("prefixlen")))
            for address in netlink.get_addr(index=index, family=socket.AF_INET)
            if address.get("proto") == RTPROT_DHCP
        }

    def _routers(self, netlink: IPRoute, index: int) -> set[IPv4Address]:
        """Return the gateways of the agent's own default routes."""
        return {
            IPv4Address(gateway)
            for route in netlink.get_routes(oif=index, family=socket.AF_INET)
            if route.get("proto") == RTPROT_DHCP
            and route.get("priority") == METRIC
            and route.get("dst_len") == 0
            and (gateway := route.get("gateway")) is not None
        }

    def _remove_address(self, netlink: IPRoute, index: int, address: IPv4Interface) -> None:
        netlink.addr(
            "del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen
        )

    def _route(self, netlink: IPRoute, command: str, index: int, router: IPv4Address) -> None:
        netlink.route(
            command,
            dst="0.0.0.0/0",
            gateway=str(router),
            oif=index,
            priority=METRIC,
            proto=RTPROT_DHCP,
        )


def _check_descriptors() -> None:
    """Raise OSError where there are too few: a loop that is half made ends with a traceback."""
    taken: list[int] = []
    try:
        for _ in range(DESCRIPTORS // 2):
            taken += os.pipe()
    finally:
        for descriptor in taken:
            os.close(descriptor)
