"""A port of the gateway's at which protocols of asyncio take what guests connect to it."""

import asyncio
from dataclasses import dataclass, field
from types import TracebackType

from gvproxy.limits import Quota
from gvproxy.stack.path import TcpPath
from gvproxy.stack.port import Port
from gvproxy.stack.stack import Stack
from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.virtual.transport import ProtocolFactory, VirtualTransport


@dataclass(slots=True)
class Members:
    """What one network has that lives: transports with a connection, servers that listen."""

    transports: set[VirtualTransport] = field(default_factory=set)
    servers: set["VirtualServer"] = field(default_factory=set)


class VirtualServer:
    """Listens from the start until `close`; as a context manager, until its end."""

    def __init__(
        self,
        stack: Stack,
        loop: asyncio.AbstractEventLoop,
        factory: ProtocolFactory,
        where: tuple[bytes, int],
        quota: Quota,
        members: Members,
    ) -> None:
        """`where` is a packed address of the gateway's and a free port of it.

        `quota` is of connections at a time; `members` are those of the network.
        """
        self._stack = stack
        self._loop = loop
        self._factory = factory
        self._where = where
        self._quota = quota
        self._members = members
        members.servers.add(self)
        stack.connections.listeners[where] = self._offered

    def _offered(self, connection: Connection, path: TcpPath, now: float) -> None:
        if not self._quota.has_room(path.owner):
            self._drop_deserted()
        if not self._quota.take(path.owner):
            self._stack.counters.connections_refused += 1
            calls.drop(connection, now)  # its SYN comes again
            return
        transport = VirtualTransport(self._loop, self._factory, self._gone)
        transport.join(connection)
        connection.user = transport
        self._members.transports.add(transport)
        calls.accept(connection, now)

    def _drop_deserted(self) -> None:
        """Reset the connections of guests that have gone, or come back: those have others."""
        for transport in list(self._members.transports):
            owner: Port | None = transport.get_extra_info("guest")
            if owner is not None and not owner.attached:
                transport.abort()

    def _gone(self, transport: VirtualTransport) -> None:
        self._quota.give(transport.get_extra_info("guest"))
        self._members.transports.discard(transport)

    def close(self) -> None:
        """Listen no longer; the connections there are go on."""
        if self in self._members.servers:
            self._members.servers.remove(self)
            del self._stack.connections.listeners[self._where]

    async def __aenter__(self) -> "VirtualServer":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
