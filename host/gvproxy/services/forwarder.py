"""The port forwarder: ports of the host that lead to ports of guests, over TCP.

Here is the host's half: addresses are checked, and sockets listen.  Each accepted connection is
handed to `dial`, which makes the one to the guest.  Taking a port back ends the listening;
connections that exist go on.

Whoever calls from inside the virtual network is a guest, and may publish and take back its own
ports only.
"""

import logging
import os
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, ip_address

from gvproxy.errors import (
    AlreadyExposedError,
    BadLocalError,
    BadPortError,
    BadRemoteError,
    ForbiddenError,
    ListenError,
    NotExposedError,
    NotSupportedError,
    UnknownProtocolError,
)
from gvproxy.ports.acceptor import Acceptor

log = logging.getLogger(__name__)

BACKLOG = 1024

Dial = Callable[[socket.socket, bytes, int], None]
"""Joins a socket, which it owns from then on, to a guest's packed address and port."""


class Protocol(StrEnum):
    """What the API calls the kinds of forwards."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"
    NPIPE = "npipe"


@dataclass(frozen=True, slots=True)
class _Published:
    """One published port."""

    address: IPv4Address
    port: int
    acceptor: Acceptor


class Forwarder:
    """The published ports of one virtual network."""

    def __init__(
        self, loop: AbstractEventLoop, subnet: IPv4Network, owned: Set[IPv4Address], dial: Dial
    ) -> None:
        """`owned` are the addresses of the subnet that are gvproxy's own."""
        self._loop = loop
        self._subnet = subnet
        self._no_guests = {subnet.network_address, subnet.broadcast_address, *owned}
        self._dial = dial
        self._published: dict[str, _Published] = {}

    async def expose(
        self, local: str, remote: str, protocol: str = Protocol.TCP, caller: str | None = None
    ) -> None:
        """Publish a guest's port; raises ForwarderError, and then nothing has changed.

        `local` is `address:port` or `:port` for all addresses of the host.  `remote` is
        `address:port` in the virtual network, or `:port` of the caller, whose address `caller` is.
        """
        guest = self._guest(caller)
        _check(protocol)
        if local in self._published:
            raise AlreadyExposedError(protocol, local)
        address, port = self._remote(remote, caller)
        if guest not in (None, address):
            raise ForbiddenError(f"{guest} may publish its own ports, not those of {address}")

        def accepted(sock: socket.socket) -> None:
            self._dial(sock, address.packed, port)

        acceptor = Acceptor(self._loop, _listen(local), accepted)
        self._published[local] = _Published(address, port, acceptor)
        log.info("%s leads to %s:%d", local, address, port)

    async def unexpose(
        self, local: str, protocol: str = Protocol.TCP, caller: str | None = None
    ) -> None:
        """Take a published port back; raises ForwarderError."""
        guest = self._guest(caller)
        _check(protocol)
        published = self._published.get(local)
        if published is None:
            raise NotExposedError
        if guest not in (None, published.address):
            raise ForbiddenError(f"{guest} may not take back what leads to {published.address}")
        del self._published[local]
        published.acceptor.close()
        log.info("%s leads nowhere any more", local)

    def all(self) -> list[dict[str, str]]:
        """Return what is published, by local address, as the API shows it."""
        return [
            {
                "local": local,
                "remote": f"{published.address}:{published.port}",
                "protocol": Protocol.TCP,
            }
            for local, published in sorted(self._published.items())
        ]

    def close(self) -> None:
        """Take everything back."""
        for published in self._published.values():
            published.acceptor.close()
        self._published.clear()

    def _guest(self, caller: str | None) -> IPv4Address | None:
        """Return the address of a caller that is a guest; None for the host itself."""
        try:
            address = IPv4Address(caller or "")
        except ValueError:
            return None
        return address if address in self._subnet else None

    def _remote(self, remote: str, caller: str | None) -> tuple[IPv4Address, int]:
        host, separator, port = remote.rpartition(":")
        if not separator:
            raise BadRemoteError(f"remote {remote!r} has no port")
        if not host and not caller:
            raise BadRemoteError(f"remote {remote!r} has no address, and its caller is no guest")
        try:
            address = IPv4Address(host or caller or "")
        except ValueError:
            raise BadRemoteError(f"remote {remote!r} is no IPv4 address with a port") from None
        if address not in self._subnet:
            raise BadRemoteError(f"remote {address} is not in the virtual network {self._subnet}")
        if address in self._no_guests:
            raise BadRemoteError(f"remote {address} is no address of a guest")
        return address, _port(port)


def _check(protocol: str) -> None:
    try:
        known = Protocol(protocol)
    except ValueError:
        raise UnknownProtocolError(protocol) from None
    if known is not Protocol.TCP:
        raise NotSupportedError(f"protocol {protocol} is not supported yet")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise BadPortError(f"port {text!r} is not a number from 1 to 65535")
    return int(text)


def _listen(local: str) -> socket.socket:
    """Open the listening socket; no address means every one of both families, as in Go."""
    host, separator, port_text = local.rpartition(":")
    if not separator:
        raise BadLocalError(f"local {local!r} has no port")
    port = _port(port_text)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        if host:
            version = ip_address(host).version
            family = socket.AF_INET6 if version == 6 else socket.AF_INET
            sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
        else:
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            sock = socket.create_server(
                ("", port), family=family, backlog=BACKLOG, dualstack_ipv6=dual
            )
    except (ValueError, TypeError):  # TypeError: a zone (RFC 4007) that cannot be a name
        raise ListenError(f"cannot listen on {local!r}: it is no IP address with a port") from None
    except OSError as error:
        number = error.errno or 0  # negative: getaddrinfo's, which knows no such zone
        reason = os.strerror(number) if number > 0 else "there is no such interface"
        raise ListenError(f"cannot listen on {local}: {reason}") from error
    sock.setblocking(False)
    return sock
