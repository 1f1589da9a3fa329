"""Attaches guests: makes their ports, and keeps what is known of all of them."""

import logging
import os
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from dataclasses import asdict
from math import inf

from gvproxy import heap
from gvproxy.complaint import Complaint
from gvproxy.limits import Limits, Use
from gvproxy.listening import Dialect
from gvproxy.ports.access import peer_credentials
from gvproxy.ports.capture import (
    Capture,
    Captured,
    CapturedDatagramPort,
    CapturedPacketPort,
    CapturedStreamPort,
)
from gvproxy.ports.datagram import Address, DatagramPort
from gvproxy.ports.fairness import Fairness
from gvproxy.ports.guestport import GuestPort, PortCounters
from gvproxy.ports.packet import PacketPort
from gvproxy.ports.pipes import Pipes
from gvproxy.ports.stream import StreamPort
from gvproxy.ports.tapsocket import TapSocket
from gvproxy.stack.stack import Stack
from gvproxy.wire import ethernet
from taplink import vnet
from taplink.deafness import Deafness
from taplink.framing import HYPERKIT, Framing
from taplink.liveness import end_when_dead
from taplink.tap import Tap
from taplink.text import one_line
from taplink.vnet import Offload, format_offload

log = logging.getLogger(__name__)

OFFLOADS = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO4 | Offload.USO6
"""What the stack and the switch can take unfinished from a guest, and give."""
AWAY = 20.0
"""Seconds that connections wait for their guest: four times the longest that an agent takes."""
SWEEP_INTERVAL = 1.0
"""Seconds between two searches for such connections, however many guests have gone."""
LINES = 60
"""Of the log, for guests that come and for those that go, in a minute."""


class Guests:
    """The attached guests of one stack."""

    def __init__(
        self,
        stack: Stack,
        loop: AbstractEventLoop,
        left: Callable[[GuestPort], None],
        limits: Limits | None = None,
    ) -> None:
        """`left` hears of each port whose guest has gone."""
        limits = limits or Limits()
        self._most, self._queues = limits.guests, limits.send_queues
        self.refused = 0
        self.capture: Capture | None = None
        self._stack = stack
        self._loop = loop
        self._left = left
        self._departed = PortCounters()
        self._sweeping = False  # a search for connections whose guest has gone is due
        self._full = Complaint(log)
        self._comings = Complaint(log, logging.INFO, LINES)
        self._goings = Complaint(log, logging.INFO, LINES)
        self._fairness = Fairness(self._moved)
        self._deafness = Deafness(loop)

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

    @property
    def uses(self) -> dict[str, Use]:
        """Return how many guests there are, and how much waits for them."""
        queued, queues = [port.queued for port in self.ports], self._queues
        refused = self.counters().dropped
        return {
            "guests": Use(len(queued), 1, self._most, 1, self.refused),
            "send_queues": Use(
                sum(queued), max(queued, default=0), queues.total, queues.guest, refused
            ),
        }

    def close(self) -> None:
        """Let all of them go."""
        for port in self.ports:
            port.close("the daemon ends")

    def describe(self) -> list[dict[str, object]]:
        """Return what there is to say of each guest that is there."""
        stations: dict[int, list[str]] = {}
        for mac, number in self._stack.switch.table().items():
            stations.setdefault(number, []).append(ethernet.format_mac(mac))
        return [
            {
                "port": port.number,
                "dialect": port.dialect,
                "offloads": format_offload(Offload(port.offload)),
                "peer": port.peer,
                "macs": stations.get(port.number, []),
                **asdict(port.counters),
                "queued_bytes": port.queued,
            }
            for port in self.ports
        ]

    # The sockets, non-blocking and connected, belong to the ports from here on.  Where there is no
    # room for another guest, its socket is closed, and None returned.

    def _no_room(self) -> bool:
        if len(self._stack.switch.ports) < self._most:
            return False
        self.refused += 1
        self._full.make(self._loop.time(), "a guest is refused: there are %d", self._most)
        return True

    def _share_memory(self) -> None:
        """Have no queue hold more than its part of what all of them may."""
        ports = self.ports
        for port in ports:
            port.bound_queue(min(self._queues.guest, self._queues.total // len(ports)))

    def attach_stream(
        self,
        sock: socket.socket | Pipes,
        framing: Framing = HYPERKIT,
        offload: Offload = Offload.NONE,
        rest: bytes = b"",
        *,
        dialect: str = "",
    ) -> StreamPort | None:
        """Attach the guest at the other end of a byte stream, of which `rest` has been read.

        `dialect` is what it speaks, where that is not what the framing is called.
        """
        if self._no_room():
            sock.close()
            return None
        if not isinstance(sock, Pipes):
            end_when_dead(sock)
        make = StreamPort if self.capture is None else CapturedStreamPort
        port = make(sock, framing, offload, self._stack, self._loop, self._closed)
        self._prepare(port, dialect or framing.name, *peer_of(sock))
        port.start(rest)
        self._came(port)
        return port

    def attach_packets(self, sock: socket.socket, *, dialect: str) -> PacketPort | None:
        """Attach the guest at the other end of a socket that keeps frames apart."""
        if self._no_room():
            sock.close()
            return None
        make = PacketPort if self.capture is None else CapturedPacketPort
        port = make(sock, self._stack, self._loop, self._closed)
        self._prepare(port, dialect, *peer_of(sock))
        port.start()
        self._came(port)
        return port

    def attach_tap(self, tap: Tap, closed: Callable[[], None] = lambda: None) -> PacketPort | None:
        """Attach the kernel at the other side of a tap, which belongs to the port from here on.

        `closed` is called with the port's end.  Raises TapError, and then the tap is the caller's.
        """
        if self._no_room():
            tap.close()
            return None
        tap.set_offload(tap.offload & OFFLOADS)
        offset = vnet.SIZE if tap.vnet_hdr else 0
        make = PacketPort if self.capture is None else CapturedPacketPort
        device = TapSocket(tap, closed)
        port = make(device, self._stack, self._loop, self._closed, offset, int(tap.offload))
        self._prepare(port, Dialect.TAP, tap.name, f"tap {tap.name}")
        port.start()
        self._came(port)
        return port

    def attach_datagrams(
        self, sock: socket.socket, peer: Address, *, dialect: str
    ) -> DatagramPort | None:
        """Attach the guest whose socket is bound to `peer`; `sock` stays its owner's."""
        if self._no_room():
            return None
        make = DatagramPort if self.capture is None else CapturedDatagramPort
        port = make(sock, peer, self._stack, self._loop, self._closed)
        self._prepare(port, dialect, os.fsdecode(peer), f"socket {os.fsdecode(peer)}")
        port.start()
        self._came(port)
        return port

    def _prepare(self, port: GuestPort, dialect: str, peer: str, identity: str) -> None:
        port.dialect, port.peer, port.identity = dialect, one_line(peer), identity
        port.fairness = self._fairness
        port.deafness = self._deafness
        if isinstance(port, Captured):
            assert self.capture is not None
            port.capture = self.capture

    def _moved(self) -> Iterator[tuple[int, int]]:
        for port in self.ports:
            yield port.number, port.moved

    def _came(self, port: GuestPort) -> None:
        offloads = format_offload(Offload(port.offload)) or "no offloads"
        text = "guest %d has come (%s, %s)"
        self._comings.make(self._loop.time(), text, port.number, port.dialect, offloads)
        self._share_memory()

    def _closed(self, port: GuestPort, why: str) -> None:
        self._goings.make(self._loop.time(), "guest %d has gone: %s", port.number, why)
        self._departed.add(port.counters)
        self._share_memory()
        self._left(port)
        if self._stack.connections.find and not self._sweeping:
            self._sweeping = True
            self._loop.call_later(AWAY, self._sweep)

    def _sweep(self) -> None:
        """End the connections of guests that have not come back, some with each turn."""
        now = self._loop.time()
        overdue = now - AWAY
        left = self._stack.connections.drop_deserted(overdue, now)
        if left <= overdue:
            self._loop.call_soon(self._sweep)
            return
        heap.give_back()
        self._sweeping = left < inf
        if self._sweeping:
            self._loop.call_later(max(SWEEP_INTERVAL, left - overdue), self._sweep)


def peer_of(sock: socket.socket | Pipes) -> tuple[str, str]:
    """Return who is at the other end: an address, or the process that has connected.

    And what of that is the same when it comes back: a VM, a host, a user.
    """
    if isinstance(sock, Pipes):
        return "standard input and output", ""
    try:
        if sock.family == getattr(socket, "AF_UNIX", None):
            credentials = peer_credentials(sock)
            if credentials is None:
                return "", ""
            return f"process {credentials[0]}", f"user {credentials[1]}"
        host, port, *_ = sock.getpeername()
    except (OSError, AttributeError):  # it has gone already; or another system
        return "", ""
    if isinstance(port, str):  # of Hyper-V's: the GUIDs of a VM and a service
        return f"vm {host}", f"vm {host}"
    if isinstance(host, int):
        return f"cid {host}", f"cid {host}"
    return f"{host}:{port}", f"host {host}"
