"""Both APIs as they are served: the host's at sockets it is given, the guests' at the gateway."""

import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from gvproxy.api.app import Backend, make_app, make_guest_app, make_runner
from gvproxy.api.callers import Callers
from gvproxy.api.guestcalls import GuestCalls
from gvproxy.api.profiler import Profiler
from gvproxy.api.turns import Turns
from gvproxy.limits import Quota, Use
from gvproxy.ports.access import Access
from gvproxy.virtual import VirtualNetwork
from taplink.upgrade import Request

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

GUEST_PORT = 80
"""Of the gateway's address, in the virtual network: Go's gvproxy has the guests' API there."""


class ApiService:
    """The APIs of one daemon."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        backend: Backend,
        access: Access,
        limit: int,
        profiler: Profiler | None = None,
    ) -> None:
        """`limit` is of connections to the host's API."""
        self._loop = loop
        self._access = access
        self._forwarder = backend.forwarder
        self._callers = Callers(loop, limit)
        app = make_app(backend, access, profiler)
        self._callers.serve(app)
        self._http = make_runner(app)
        self._guest_http = make_runner(make_guest_app(backend.forwarder, Turns()))

    async def start(self) -> None:
        """Be ready for the host's calls."""
        await self._http.setup()

    async def serve_guests(
        self,
        network: VirtualNetwork,
        gateway: IPv4Address,
        is_gateway: Callable[[str], bool],
        quota: Quota,
    ) -> None:
        """Serve guests at the gateway, which they may call by what `is_gateway` knows.

        `quota` is of their connections.
        """
        callers = Callers(self._loop, quota.limit.total)
        app = self._guest_http.app
        GuestCalls(self._loop, is_gateway).serve(app)
        callers.serve(app)
        await self._guest_http.setup()
        assert self._guest_http.server is not None
        await network.create_server(
            partial(callers.make_protocol, self._guest_http.server),
            str(gateway),
            GUEST_PORT,
            quota=quota,
        )

    def take(self, sock: socket.socket, request: Request) -> None:
        """Take over a connection of the host's, non-blocking, after a request's head."""
        if not sent_away(sock):
            assert self._http.server is not None
            self._callers.adopt(self._http.server, sock, request.head + request.rest)

    def counters(self) -> "dict[str, DataclassInstance]":
        """Return what there is to count, for /stats."""
        return {"Access": self._access.counters}

    @property
    def uses(self) -> dict[str, Use]:
        """Return how many callers of the host's API there are; those of guests are a quota's."""
        callers = self._callers
        return {
            "api_connections": Use(callers.used, 1, callers.limit, callers.limit, callers.refused)
        }

    async def close(self) -> None:
        """End all connections; those to the gateway end with their network."""
        await self._http.cleanup()
        await self._guest_http.cleanup()


def sent_away(sock: socket.socket) -> bool:
    """Close the connection of a caller over vsock: it is a guest, and the API is the host's.

    Hyper-V's sockets are vsock by another name.
    """
    families = getattr(socket, "AF_VSOCK", None), getattr(socket, "AF_HYPERV", None)
    if sock.family not in families:
        return False
    with suppress(OSError):
        sock.send(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")
    sock.close()
    return True
