"""Opens what is published: ports, unix sockets, and what takes the clients of each.

A connected stream is handed to `dial`, which joins it to a guest's port, or to an ssh tunnel; UDP
is `udpforward`'s.
"""

import asyncio
import logging
import os
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from gvproxy.errors import BadRemoteError, ListenError, NotSupportedError
from gvproxy.limits import Quota
from gvproxy.ports.acceptor import Acceptor
from gvproxy.sandbox import Explain, unconfined
from gvproxy.sandbox.files import Use
from gvproxy.services import background, forwards, udpforward
from gvproxy.services.forwards import Local, Remote, SshRemote
from gvproxy.services.udpforward import UdpForward
from gvproxy.stack.port import Port
from gvproxy.virtual import VirtualNetwork
from taplink import endpoint
from taplink.endpoint import EndpointError
from taplink.text import reason

if TYPE_CHECKING:
    from asyncssh import SSHKey

    from gvproxy.services.sshtunnel import SshTunnel

log = logging.getLogger(__name__)

BACKLOG = 1024
KEY_TIMEOUT = 10.0
"""Seconds to read a private key, which may be on a network's disk."""

Dial = Callable[[socket.socket, bytes, int], None]
"""Joins a socket, which it owns from then on, to a guest's packed address and port."""
Take = Callable[[socket.socket], None]


class Listener(Protocol):
    """Something published."""

    def close(self) -> None:
        """Publish it no longer."""


class Listeners:
    """Opens listeners on the host for one virtual network."""

    def __init__(
        self, loop: AbstractEventLoop, network: VirtualNetwork, dial: Dial, clients: Quota
    ) -> None:
        """`clients` is of those of UDP ports."""
        self._clients = clients
        self._loop = loop
        self._network = network
        self._dial = dial
        self._tunnels: set[SshTunnel] = set()
        self.explain: Explain = unconfined

    async def prepare(self, remote: Remote) -> "SSHKey | None":
        """Read the key of a remote that has one, for `open`; raises BadRemoteError."""
        if not isinstance(remote, SshRemote):
            return None
        try:
            async with asyncio.timeout(KEY_TIMEOUT):  # a passphrase costs a second of CPU
                return await background.call(lambda: _read_key(remote))
        except BadRemoteError as error:
            raise BadRemoteError(self._explained(error, remote.key, Use.READ)) from None
        except TimeoutError:
            raise BadRemoteError(f"key {remote.key} cannot be read: no answer") from None
        except OSError as error:  # of the call, or of the import
            raise BadRemoteError(f"key {remote.key} cannot be read: {reason(error)}") from None

    def open(
        self,
        protocol: forwards.Protocol,
        local: Local,
        remote: Remote,
        key: "SSHKey | None",
        owner: Port | None,
    ) -> Listener:
        """Publish one remote, whose host is an address; raises ForwarderError.

        `owner` is the guest that asks for it, None for the host.
        """
        match protocol:
            case forwards.Protocol.TCP:
                return Acceptor(self._loop, _open_port(local, _listen), self._dialler(remote))
            case forwards.Protocol.UDP:
                sock = _open_port(local, udpforward.listen)
                guest = remote.host, remote.port
                return UdpForward(self._loop, self._network, sock, guest, self._clients, owner)
            case forwards.Protocol.UNIX if isinstance(remote, SshRemote):
                return self._open_tunnel(local.name, remote, key)
            case forwards.Protocol.UNIX:
                return self._open_unix(local.name, self._dialler(remote))
            case forwards.Protocol.NPIPE:
                raise NotSupportedError("protocol npipe needs a host with Windows")

    @property
    def busy(self) -> bool:
        """A tunnel has clients."""
        return any(tunnel.busy for tunnel in self._tunnels)

    async def close(self) -> None:
        """End the ssh connections; the listeners are their owners'."""
        await asyncio.gather(*(tunnel.close() for tunnel in self._tunnels))

    def _dialler(self, remote: Remote) -> Take:
        address, port = IPv4Address(remote.host).packed, remote.port

        def accepted(sock: socket.socket) -> None:
            self._dial(sock, address, port)

        return accepted

    def _open_unix(
        self, path: str, take: Take, closed: Callable[[], None] | None = None
    ) -> Listener:
        try:
            return _UnixListener(self._loop, path, take, partial(self._stays, path), closed)
        except ListenError as error:
            raise ListenError(self._explained(error, path, Use.SOCKETS)) from error

    def _stays(self, path: str, error: OSError) -> None:
        hint = self.explain(path, Use.REMOVE) if isinstance(error, PermissionError) else ""
        log.warning("%s cannot be removed: %s%s", path, reason(error), hint)

    def _explained(self, error: Exception, path: str, use: Use) -> str:
        """Return an error's text, with what the sandbox has to do with it."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PermissionError):
            cause = cause.__cause__
        return str(error) if cause is None else f"{error}{self.explain(path, use)}"

    def _open_tunnel(self, path: str, remote: SshRemote, key: "SSHKey | None") -> Listener:
        from gvproxy.services.sshtunnel import SshTunnel  # loaded by `prepare`, in another thread

        assert key is not None
        tunnel = SshTunnel(self._network, remote, key)
        listener = self._open_unix(path, tunnel.take, tunnel.retire)
        tunnel.ended = lambda: self._tunnels.discard(tunnel)
        self._tunnels.add(tunnel)
        return listener


class _UnixListener:
    """A published unix socket; its file goes with it."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        path: str,
        take: Take,
        stays: Callable[[OSError], None],
        closed: Callable[[], None] | None,
    ) -> None:
        """`stays` is called with why its file could not be removed."""
        self._path = path
        self._stays = stays
        self._closed = closed
        try:
            # Mode 0600; a socket that nobody answers on is replaced, and nothing else.
            sock = endpoint.listen(endpoint.parse_listener(f"unix://{quote(path)}"), BACKLOG)
        except EndpointError as error:
            raise ListenError(f"cannot listen on {error}") from error
        self._identity = endpoint.identity(path)
        self._acceptor = Acceptor(loop, sock, take)

    def close(self) -> None:
        self._acceptor.close()
        error = endpoint.unlink(self._path, self._identity)
        if error is not None:
            self._stays(error)
        if self._closed is not None:
            self._closed()


def _read_key(remote: SshRemote) -> "SSHKey":
    from gvproxy.services import sshtunnel

    return sshtunnel.read_key(remote)


def _open_port(local: Local, listen: Callable[[str, int], socket.socket]) -> socket.socket:
    try:
        if local.host:
            ip_address(local.host)
        return listen(local.host, local.port)
    except (ValueError, TypeError):  # TypeError: a zone (RFC 4007) that cannot be a name
        text = f"cannot listen on {local.name!r}: it is no IP address with a port"
        raise ListenError(text) from None
    except OSError as error:
        number = error.errno or 0  # negative: getaddrinfo's, which knows no such zone
        why = os.strerror(number) if number > 0 else "there is no such interface"
        raise ListenError(f"cannot listen on {local.name}: {why}") from error


def _listen(host: str, port: int) -> socket.socket:
    """Listen for TCP, without blocking; no `host` means every address of both families."""
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    sock.setblocking(False)
    return sock
