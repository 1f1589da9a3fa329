"""The port forwarder: ports and unix sockets of the host that lead to guests.

Here is the book of what is published, and who may publish what; `forwards` reads what is asked
for, and `listeners` opens it.  A range of ports is a call for each of them, which succeed or fail
as one.  Taking something back ends the listening; connections that exist go on.

Whoever calls from inside the virtual network is a guest, and may publish and take back its own
ports only.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from gvproxy.config import Config, Forward
from gvproxy.errors import (
    AlreadyExposedError,
    BadRemoteError,
    ForbiddenError,
    ForwarderError,
    ListenError,
    NotExposedError,
)
from gvproxy.limits import Quota
from gvproxy.services import forwards
from gvproxy.services.forwards import Local, Protocol, Remote
from gvproxy.services.listeners import Listener, Listeners
from gvproxy.stack.port import Port
from taplink.text import one_line

if TYPE_CHECKING:
    from asyncssh import SSHKey

log = logging.getLogger(__name__)

_HOST_NAME = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)

Resolve = Callable[[str], Awaitable[Collection[IPv4Address]]]
"""Gives the addresses of a host's name; none for one that nobody knows."""


@dataclass(frozen=True, slots=True)
class _Published:
    """One published port or socket; `remote` has the guest's address."""

    remote: Remote
    listener: Listener
    owner: Port | None
    """The guest that has published it; None is the host."""


def _is_address(host: str) -> bool:
    try:
        return bool(IPv4Address(host))
    except ValueError:
        return False


class Forwarder:
    """What is published of one virtual network."""

    def __init__(
        self,
        config: Config,
        listeners: Listeners,
        resolve: Resolve,
        quota: Quota,
    ) -> None:
        """`quota` is of published ports and sockets, each of which takes a descriptor."""
        self._subnet = config.subnet
        ends = config.subnet.network_address, config.subnet.broadcast_address
        self._no_guests = {*ends, config.gateway_ip, *config.virtual_ips}
        self._listeners = listeners
        self._resolve = resolve
        self._quota = quota
        self._published: dict[tuple[Protocol, str], _Published] = {}
        self._closed = False
        self.changed: Callable[[int], None] = lambda count: None
        """Called with how many there are, when that has changed."""
        self.own_ports: Collection[int] = ()
        """TCP ports where the daemon listens, at some address."""

    async def expose(
        self,
        local: str,
        remote: str,
        protocol: str = Protocol.TCP,
        caller: str | None = None,
        port: Port | None = None,
    ) -> None:
        """Publish what a guest has; raises ForwarderError, and then nothing has changed.

        `local` is `address:port` or `:port` for all addresses of the host, or the path of a unix
        socket.  `remote` is `address:port` in the virtual network, or `:port` of the caller, whose
        address `caller` is; for a unix socket it is a URL.  Both ports may be ranges.  `port` is
        that of the switch which a guest calls from: it may have many addresses.
        """
        kind = forwards.read_protocol(protocol)
        guest = self._guest(caller)
        if guest is not None and not kind.has_ports:
            raise ForbiddenError(f"{guest} may publish ports, not files of the host")
        pairs = forwards.read(kind, local, remote)
        if guest is not None and kind is Protocol.TCP:
            for one, _ in pairs:
                if one.port in self.own_ports:  # whoever calls us there might get a guest
                    raise ForbiddenError(f"{guest} may not publish {one.port}: gvproxy has it")
        host = pairs[0][1].host
        if guest is not None and host and not _is_address(host):
            raise ForbiddenError(f"{guest} may have no names looked up: {forwards.public(host)}")
        address = await self._address(host, caller)
        if guest not in (None, address):
            raise ForbiddenError(f"{guest} may publish its own ports, not those of {address}")
        key = await self._listeners.prepare(pairs[0][1])
        # From here on nothing is waited for, so nobody comes between.
        if self._closed:
            raise ListenError(f"cannot listen on {local}: gvproxy ends")
        opened: dict[tuple[Protocol, str], _Published] = {}
        try:
            for one, target in pairs:
                if (kind, one.name) in self._published:
                    raise AlreadyExposedError(kind, one.name)
                at = replace(target, host=str(address))
                opened[kind, one.name] = self._open(kind, one, at, key, port)
        except BaseException:
            for published in opened.values():
                self._close(published)
            raise
        self._published |= opened
        self.changed(len(self._published))
        first, last = (replace(pairs[end][1], host=str(address)) for end in (0, -1))
        target_text = f"{first} to {last}" if len(pairs) > 1 else str(first)
        log.info("%s %s leads to %s", kind, one_line(local), one_line(target_text))

    async def unexpose(
        self, local: str, protocol: str = Protocol.TCP, caller: str | None = None
    ) -> None:
        """Take back what is published; raises ForwarderError, and then nothing has changed."""
        kind = forwards.read_protocol(protocol)
        guest = self._guest(caller)
        if guest is not None and not kind.has_ports:
            raise ForbiddenError(f"{guest} may take back ports, not files of the host")
        if self._closed:
            raise ListenError(f"{local} is taken back already: gvproxy ends")
        try:
            keys = [(kind, one.name) for one in forwards.read_locals(kind, local)]
            found = [self._published[key] for key in keys]
        except (ForwarderError, KeyError):
            raise NotExposedError from None
        for published in found:
            if guest not in (None, IPv4Address(published.remote.host)):
                raise ForbiddenError(
                    f"{guest} may not take back what leads to {published.remote.host}"
                )
        for key in keys:
            self._close(self._published.pop(key))
        self.changed(len(self._published))
        log.info("%s %s leads nowhere any more", kind, one_line(local))

    def all(self) -> list[dict[str, str]]:
        """Return what is published, by local address, as the API shows it."""
        return [
            {"local": name, "remote": str(remote), "protocol": kind}
            for kind, name, remote in self._sorted()
        ]

    def kept(self) -> list[Forward]:
        """Return the same, as it can be published by again."""
        return [Forward(name, remote.kept, kind) for kind, name, remote in self._sorted()]

    def _sorted(self) -> list[tuple[Protocol, str, Remote]]:
        return [
            (kind, name, self._published[kind, name].remote)
            for kind, name in sorted(self._published, key=lambda key: (key[1], key[0]))
        ]

    @property
    def busy(self) -> bool:
        """A client goes on that has come by ssh; the others are connections of guests."""
        return self._listeners.busy

    def refuse(self) -> None:
        """Publish nothing any more, and take no new connections; UDP goes on until `close`."""
        if not self._closed:
            self._closed = True
            self._close_listeners(udp=False)

    async def close(self) -> None:
        """Take everything back, and publish nothing any more."""
        self.refuse()
        self._close_listeners(udp=True)
        self._published.clear()
        await self._listeners.close()

    def _open(
        self,
        kind: Protocol,
        local: Local,
        remote: Remote,
        key: "SSHKey | None",
        owner: Port | None,
    ) -> _Published:
        if not self._quota.has_room(owner):
            self._drop_deserted()
        if not self._quota.take(owner):
            count = self._quota.held(owner) if owner else self._quota.used
            raise ListenError(f"cannot listen on {local.name}: {count} are published")
        try:
            listener = self._listeners.open(kind, local, remote, key, owner)
        except BaseException:
            self._quota.give(owner)
            raise
        return _Published(remote, listener, owner)

    def _close(self, published: _Published) -> None:
        published.listener.close()
        self._quota.give(published.owner)

    def _drop_deserted(self) -> None:
        """Take back what guests have published that have gone."""
        for key, published in list(self._published.items()):
            if published.owner is not None and not published.owner.attached:
                self._close(self._published.pop(key))
        self.changed(len(self._published))

    def _close_listeners(self, *, udp: bool) -> None:
        for (kind, _), published in self._published.items():
            if (kind is Protocol.UDP) is udp:
                self._close(published)

    def _guest(self, caller: str | None) -> IPv4Address | None:
        """Return the address of a caller that is a guest; None for the host itself."""
        try:
            address = IPv4Address(caller or "")
        except ValueError:
            return None
        return address if address in self._subnet else None

    async def _address(self, host: str, caller: str | None) -> IPv4Address:
        """Return a guest's address; no host means the caller's.  Raises BadRemoteError."""
        if not host and not caller:
            raise BadRemoteError("remote has no address, and the caller is no guest")
        text = host or caller or ""
        try:
            found: Collection[IPv4Address] = [IPv4Address(text)]
        except ValueError:
            found = await self._look_up(text)
        for address in found:
            if address in self._subnet and address not in self._no_guests:
                return address
        address = next(iter(found))
        if address in self._subnet:
            raise BadRemoteError(f"remote {address} is no address of a guest")
        raise BadRemoteError(f"remote {address} is not in the virtual network {self._subnet}")

    async def _look_up(self, name: str) -> Collection[IPv4Address]:
        if not _HOST_NAME.fullmatch(name) or len(name) > 253:
            shown = forwards.public(name)
            raise BadRemoteError(f"remote {shown!r} is no IPv4 address, and no name of a host")
        found = await self._resolve(name)
        if not found:
            raise BadRemoteError(f"remote {name} has no IPv4 address that anybody knows")
        return found
