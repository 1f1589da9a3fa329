"""Attaches guests: makes their ports, and keeps what is known of all of them."""

import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable

from gvproxy.ports.capture import (
    Capture,
    Captured,
    CapturedDatagramPort,
    CapturedPacketPort,
    CapturedStreamPort,
)
from gvproxy.ports.datagram import Address, DatagramPort
from gvproxy.ports.guestport import GuestPort, PortCounters
from gvproxy.ports.packet import PacketPort
from gvproxy.ports.pipes import Pipes
from gvproxy.ports.stream import StreamPort
from gvproxy.stack.stack import Stack
from taplink.framing import HYPERKIT, Framing
from taplink.vnet import Offload, format_offload

log = logging.getLogger(__name__)


class Guests:
    """The attached guests of one stack."""

    def __init__(
        self, stack: Stack, loop: AbstractEventLoop, left: Callable[[GuestPort], None]
    ) -> None:
        """`left` hears of each port whose guest has gone."""
        self.capture: Capture | None = None
        self._stack = stack
        self._loop = loop
        self._left = left
        self._departed = PortCounters()

    @property
    def ports(self) -> list[GuestPort]:
        """Return the ports of those that are there."""
        return [port for port in self._stack.switch.ports.values() if isinstance(port, GuestPort)]

    def counters(self) -> PortCounters:
        """Return the sums over all guests that there were."""
        counters = PortCounters()
        counters.add(self._departed)
        for port in self.ports:
            counters.add(port.counters)
        return counters

    def close(self) -> None:
        """Let all of them go."""
        for port in self.ports:
            port.close("the daemon ends")

    # The sockets, non-blocking and connected, belong to the ports from here on.

    def attach_stream(
        self,
        sock: socket.socket | Pipes,
        framing: Framing = HYPERKIT,
        offload: Offload = Offload.NONE,
        rest: bytes = b"",
    ) -> StreamPort:
        """Attach the guest at the other end of a byte stream, of which `rest` has been read."""
        make = StreamPort if self.capture is None else CapturedStreamPort
        port = make(sock, framing, offload, self._stack, self._loop, self._closed)
        self._watch(port)
        port.start(rest)
        self._came(port, f"{framing.name}, {format_offload(offload) or 'no offloads'}")
        return port

    def attach_packets(self, sock: socket.socket) -> PacketPort:
        """Attach the guest at the other end of a socket that keeps frames apart."""
        make = PacketPort if self.capture is None else CapturedPacketPort
        port = make(sock, self._stack, self._loop, self._closed)
        self._watch(port)
        port.start()
        self._came(port, "packets, no offloads")
        return port

    def attach_datagrams(self, sock: socket.socket, peer: Address) -> DatagramPort:
        """Attach the guest whose socket is bound to `peer`; `sock` stays its owner's."""
        make = DatagramPort if self.capture is None else CapturedDatagramPort
        port = make(sock, peer, self._stack, self._loop, self._closed)
        self._watch(port)
        port.start()
        self._came(port, "datagrams, no offloads")
        return port

    def _watch(self, port: GuestPort) -> None:
        if isinstance(port, Captured):
            assert self.capture is not None
            port.capture = self.capture

    def _came(self, port: GuestPort, how: str) -> None:
        log.info("guest %d has come (%s)", port.number, how)

    def _closed(self, port: GuestPort, why: str) -> None:
        log.info("guest %d has gone: %s", port.number, why)
        self._departed.add(port.counters)
        self._left(port)
