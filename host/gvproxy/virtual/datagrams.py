"""A UDP port of the gateway's as a transport of asyncio.

As with TCP, the protocol is called by the loop.  Nothing is kept: a datagram to a guest that has to
be found first leaves when it has answered, and is lost if others look for it at that time.
"""

import asyncio
import errno
import os
from ipaddress import ip_address
from typing import Any

from gvproxy.stack.port import Station
from gvproxy.stack.stack import Stack
from gvproxy.stack.udp import Datagram
from gvproxy.wire import ipv4, udp

MAX_PAYLOAD = 65535 - ipv4.SIZE - udp.SIZE


class VirtualDatagramTransport(asyncio.DatagramTransport):
    """Receives what guests send to one address and port, and sends from there."""

    def __init__(
        self,
        stack: Stack,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.DatagramProtocol,
        where: tuple[bytes, int],
        endpoints: set["VirtualDatagramTransport"],
    ) -> None:
        """`where` is a packed address of the gateway's and a free port of it.

        `endpoints` has those of the network that are open.
        """
        super().__init__({"sockname": (str(ip_address(where[0])), where[1])})
        self._stack = stack
        self._loop = loop
        self._protocol = protocol
        self._where = where
        self._endpoints = endpoints
        stack.udp.listen(where, self._arrived)
        endpoints.add(self)

    def _arrived(self, datagram: Datagram, now: float) -> None:
        source = str(ip_address(datagram.packet.source)), datagram.source_port
        self._loop.call_soon(self._tell, bytes(datagram.payload), source)

    def _tell(self, payload: bytes, source: tuple[str, int]) -> None:
        if not self.is_closing():
            self._protocol.datagram_received(payload, source)

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send to `(address, port)` of a guest; what cannot be sent, `error_received` is told."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be a bytes-like object, not {type(data).__name__}")
        if addr is None:
            raise ValueError("a datagram needs the address and the port it is for")
        if self.is_closing():
            return
        payload, (host, port) = bytes(data), addr
        address = ip_address(host).packed
        if not self._stack.config.is_guest(address):
            self._fail(errno.EHOSTUNREACH)
        elif len(payload) > MAX_PAYLOAD:
            self._fail(errno.EMSGSIZE)
        else:
            self._send(address, port, payload)

    def _send(self, address: bytes, port: int, payload: bytes) -> None:
        def found(_: bytes, station: Station, now: float) -> None:
            self._stack.udp.send(station, *self._where, address, port, payload)

        neighbours, now = self._stack.neighbours, self._loop.time()
        station = neighbours.get(address)
        if station is not None:
            found(address, station, now)
        else:
            neighbours.resolve(address, found, now)

    def _fail(self, number: int) -> None:
        self._loop.call_soon(self._protocol.error_received, OSError(number, os.strerror(number)))

    def close(self) -> None:
        if not self.is_closing():
            self._endpoints.remove(self)
            del self._stack.udp.handlers[self._where]
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self not in self._endpoints
