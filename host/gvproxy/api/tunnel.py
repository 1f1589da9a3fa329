"""POST /tunnel?ip=&port=: the two bytes `OK` in place of an HTTP response, then a guest's port.

The caller's socket waits, unread, until the guest has answered.  Then it becomes one end of a flow,
like that of a published port: half-closes and resets pass both ways.  Where there is no connection,
the caller gets an HTTP response that says why, in one line.
"""

import logging
import socket
from asyncio import AbstractEventLoop
from contextlib import suppress
from http import HTTPStatus
from ipaddress import IPv4Address
from urllib.parse import parse_qs

from gvproxy.flows.tcp import TcpFlows
from gvproxy.ports.access import Refusal
from gvproxy.stack.stack import Stack
from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.states import End
from taplink.text import one_line
from taplink.upgrade import Request

log = logging.getLogger(__name__)

_ENDS = {
    End.RESET: (HTTPStatus.BAD_GATEWAY, "{} refuses the connection"),
    End.UNREACHABLE: (HTTPStatus.BAD_GATEWAY, "no guest answers for {}"),
    End.TIMED_OUT: (HTTPStatus.GATEWAY_TIMEOUT, "{} does not answer"),
}


class Tunnels:
    """Those of one network that are being opened."""

    def __init__(
        self, stack: Stack, loop: AbstractEventLoop, flows: TcpFlows, timeout: float
    ) -> None:
        """`timeout`: seconds until a guest's answer is no longer waited for."""
        self.stack = stack
        self.loop = loop
        self.flows = flows
        self.opening: set[_Opening] = set()
        self._timeout = timeout

    def open(self, sock: socket.socket, request: Request) -> None:
        """Take over a connection to the daemon, non-blocking, that asks for a tunnel."""
        try:
            address, port = _destination(request.target)
            if not self.stack.config.is_guest(address.packed):
                raise ValueError(f"{address} is no address of a guest")
        except ValueError as error:
            _refuse(sock, HTTPStatus.BAD_REQUEST, str(error))
            return
        opening = _Opening(self, sock, request.rest, f"{address}:{port}")
        if self.flows.full:
            opening.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "there are too many connections")
            return
        try:
            opening.connection = self.stack.connections.open(
                opening, address.packed, port, self.loop.time()
            )
        except OSError as error:
            opening.refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        opening.wait(self._timeout)

    def close(self) -> None:
        """End those that are not open yet."""
        for opening in list(self.opening):
            opening.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "gvproxy ends")


class _Opening:
    """A connection to a guest that is being made; implements `gvproxy.tcp.connection.User`."""

    def __init__(self, tunnels: Tunnels, sock: socket.socket, rest: bytes, name: str) -> None:
        self.connection: Connection | None = None
        self._tunnels = tunnels
        self._sock = sock
        self._rest = rest
        self._name = name

    def wait(self, timeout: float) -> None:
        """Give the guest so many seconds to answer."""
        self._timer = self._tunnels.loop.call_later(timeout, self.ended, End.TIMED_OUT, 0.0)
        self._tunnels.opening.add(self)

    def _leave(self) -> Connection | None:
        if self in self._tunnels.opening:
            self._tunnels.opening.remove(self)
            self._timer.cancel()
        connection, self.connection = self.connection, None
        return connection

    def established(self, now: float) -> None:
        connection = self._leave()
        assert connection is not None
        with suppress(OSError):  # where the caller has gone, the flow finds out
            self._sock.send(b"OK")  # the first two bytes, for which there is always room
        self._tunnels.flows.join(connection, self._sock, self._rest, now)

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        raise AssertionError("the flow is the user by then")

    def received_eof(self, now: float) -> None:
        raise AssertionError("the flow is the user by then")

    def writable(self, now: float) -> None:
        raise AssertionError("nothing has been sent")

    def ended(self, end: End, now: float) -> None:
        status, text = _ENDS[end]
        self.refuse(status, text.format(self._name))

    def refuse(self, status: HTTPStatus, text: str) -> None:
        """Tell the caller why there is no tunnel."""
        connection = self._leave()
        if connection is not None:
            connection.user = None
            calls.abort(connection, self._tunnels.loop.time())
        _refuse(self._sock, status, text)


def _destination(target: str) -> tuple[IPv4Address, int]:
    """Read the address and the port of a request's target; raises ValueError."""
    query = parse_qs(target.partition("?")[2])
    ip, port = (query.get(name, [""])[0] for name in ("ip", "port"))
    try:
        address = IPv4Address(ip)
    except ValueError:
        raise ValueError(f"ip {ip!r} is no IPv4 address") from None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise ValueError(f"port {port!r} is not a number from 1 to 65535")
    return address, int(port)


def _refuse(sock: socket.socket, status: HTTPStatus, text: str) -> None:
    """Answer by HTTP, and close."""
    log.debug("no tunnel: %s", one_line(text))
    Refusal(status, one_line(text)).answer(sock)
