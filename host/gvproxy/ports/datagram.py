"""Guests behind a socket for datagrams, as vfkit has it: a frame is a datagram.

All of them share one socket, for a guest that has connected its own takes nothing from another.  A
guest is known by the address its socket is bound to.  Nothing tells when such a guest reads again,
so what it did not take is tried again a millisecond later; nothing tells when it leaves, until
something is sent to it.
"""

import logging
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from math import inf

from gvproxy.complaint import Complaint
from gvproxy.ports.guestport import Closed
from gvproxy.ports.packet import FRAMES_PER_WAKEUP, PacketPort
from gvproxy.stack.stack import Stack
from taplink.framing import MAX_FRAME

log = logging.getLogger(__name__)

GREETING = b"VFKT"
"""What vfkit sends first, and which is no frame."""
RETRY_INTERVAL = 0.001  # seconds
SEARCH_INTERVAL = 1.0
"""Seconds between two searches for guests that have left, when there is no room for another."""

Address = str | bytes
"""Of a unix socket; bytes are an abstract one."""


class DatagramPort(PacketPort):
    """One guest; the socket is its listener's."""

    def __init__(
        self,
        sock: socket.socket,
        peer: Address,
        stack: Stack,
        loop: AbstractEventLoop,
        closed: Closed,
    ) -> None:
        super().__init__(sock, stack, loop, closed)
        self._shared = sock
        self._address = peer
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Attach to the stack."""
        self._stack.attach(self)

    def _release(self) -> None:
        if self._blocked:
            self._stop_waiting()
        self._queue.clear()

    def received(self, frames: list[memoryview]) -> int:
        """Take a batch; while it is paused what comes is dropped, for the socket is all guests'."""
        if self.paused:
            self.counters.dropped += len(frames)
            return len(frames)
        return super().received(frames)

    def _pause(self) -> None:
        pass

    def _go_on(self) -> None:
        pass

    def _sendmsg(self, buffers: tuple[bytes | memoryview, ...]) -> None:
        self._shared.sendmsg(buffers, (), 0, self._address)

    def _wait(self) -> None:
        self._timer = self._loop.call_later(RETRY_INTERVAL, self._again)

    def _again(self) -> None:
        self._flush()
        if self._blocked:
            self._wait()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class DatagramListener:
    """Takes frames on a bound socket, which it owns, until it is closed."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        sock: socket.socket,
        attach: Callable[[socket.socket, Address], DatagramPort | None],
    ) -> None:
        """`attach` makes the port of a peer, unless there is no room for another."""
        self._loop = loop
        self._sock = sock
        self._attach = attach
        self._ports: dict[Address, DatagramPort] = {}
        self._complaint = Complaint(log)
        self._searched_at = -inf
        loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Take nothing any more, and let the guests go."""
        self._loop.remove_reader(self._sock.fileno())
        for port in self._ports.values():
            port.close("the daemon ends")
        self._sock.close()

    def _readable(self) -> None:
        """Read what is there, and hand each guest's frames over as one batch."""
        batches: dict[Address, list[memoryview]] = {}
        try:
            for _ in range(FRAMES_PER_WAKEUP):
                frame, peer = self._sock.recvfrom(MAX_FRAME)
                batches.setdefault(peer, []).append(memoryview(frame))
        except OSError:  # BlockingIOError: that is all
            pass
        for peer, frames in batches.items():
            port = self._port(peer)
            if port is not None:
                port.received([frame for frame in frames if frame != GREETING])

    def _port(self, peer: Address) -> DatagramPort | None:
        port = self._ports.get(peer)
        if port is not None and not port.gone:
            return port
        if not peer:
            text = "frames are dropped: their socket is bound to no address"
            self._complaint.make(self._loop.time(), text)
            return None
        self._ports = {name: port for name, port in self._ports.items() if not port.gone}
        port = self._attach(self._sock, peer)
        if port is None and self._search():
            port = self._attach(self._sock, peer)
        if port is not None:
            self._ports[peer] = port
        return port

    def _search(self) -> bool:
        """Let the guests go whose sockets are closed, and tell whether there were any."""
        now = self._loop.time()
        if now < self._searched_at + SEARCH_INTERVAL:
            return False
        self._searched_at = now
        left = [port for name, port in self._ports.items() if not _is_there(name)]
        for port in left:
            port.close("the guest has closed its socket")
        return bool(left)


def _is_there(peer: Address) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(peer)
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        pass  # it is connected to us, and takes nothing from others; or there is no descriptor
    return True
