"""A port of the gateway's at which protocols of asyncio take what guests connect to it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

from gvproxy.stack.path import TcpPath
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
        limits: tuple[int, int],
        members: Members,
    ) -> None:
        """`where` is a packed address of the gateway's and a free port of it.

        `limits` are of connections at a time, of all guests' and of each address's; `members` are
        those of the network.
        """
        self._stack = stack
        self._loop = loop
        self._factory = factory
        self._where = where
        self._limit, self._share = limits
        self._members = members
        self._clients = 0
        self._by_guest: Counter[bytes] = Counter()
        members.servers.add(self)
        stack.connections.listeners[where] = self._offered

    def _offered(self, connection: Connection, path: TcpPath, now: float) -> None:
        guest = path.guest
        if self._clients >= self._limit or self._by_guest[guest] >= self._share:
            self._stack.counters.connections_refused += 1
            calls.drop(connection, now)  # its SYN comes again
            return
        transport = VirtualTransport(self._loop, self._factory, partial(self._gone, guest))
        transport.join(connection)
        connection.user = transport
        self._clients += 1
        self._by_guest[guest] += 1
        self._members.transports.add(transport)
        calls.accept(connection, now)

    def _gone(self, guest: bytes, transport: VirtualTransport) -> None:
        self._clients -= 1
        self._by_guest[guest] -= 1
        if not self._by_guest[guest]:
            del self._by_guest[guest]
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
