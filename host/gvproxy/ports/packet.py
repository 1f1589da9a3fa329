"""A guest behind what keeps frames apart: a socket such as bess has (SOCK_SEQPACKET), or a tap.

A frame takes a call each way.  It leaves at once; what the socket does not take
waits, and then all that follows waits behind it.
"""

import errno
import socket
from asyncio import AbstractEventLoop
from collections import deque

from gvproxy.ports.guestport import Closed, GuestPort
from gvproxy.ports.tapsocket import TapSocket
from gvproxy.stack.stack import MAX_COSTLY, Stack
from taplink.framing import MAX_FRAME
from taplink.text import reason

FRAMES_PER_WAKEUP = MAX_COSTLY
"""All of which the stack takes."""
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.EINTR)
"""The guest does not read as fast; macOS says ENOBUFS."""
_LOST = (errno.EMSGSIZE, errno.EIO, errno.EINVAL)
"""That frame never will arrive: too large, or the tap's interface is down, or declines it."""


class PacketPort(GuestPort):
    """Owns its socket, connected and non-blocking, from `start` on."""

    def __init__(
        self,
        sock: socket.socket | TapSocket,
        stack: Stack,
        loop: AbstractEventLoop,
        closed: Closed,
        offset: int = 0,
        offload: int = 0,
    ) -> None:
        super().__init__(offset, offload, stack, loop, closed)
        self._sock = sock
        self._queue: deque[tuple[bytes, bytes | memoryview]] = deque()

    def start(self) -> None:
        """Attach to the stack."""
        self._stack.attach(self)
        self._watch(self._loop.add_reader, self._sock.fileno(), self._readable)

    def _release(self) -> None:
        if not self.paused:
            self._loop.remove_reader(self._sock.fileno())
        if self._blocked:
            self._stop_waiting()
        self._sock.close()
        self._queue.clear()

    # In

    def _readable(self) -> None:
        frames: list[memoryview] = []
        why = ""
        most = min(FRAMES_PER_WAKEUP, self._turns.frames)
        try:
            while len(frames) < most and not why:
                frame = self._sock.recv(MAX_FRAME + self.offset)
                if frame:
                    frames.append(memoryview(frame))
                else:
                    why = "the guest has closed its end"
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            why = reason(error)
        if frames:
            self.received(frames)
        if why:
            self.close(why)
        self._heard()

    def _polled(self) -> int:
        return self._sock.fileno()

    def _pause(self) -> None:
        self._loop.remove_reader(self._sock.fileno())

    def _go_on(self) -> None:
        self._watch(self._loop.add_reader, self._sock.fileno(), self._readable)

    # Out

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        counters, size = self.counters, len(header) + len(payload)
        if self._size > self._limit or size > MAX_FRAME or self._closed is None:
            counters.dropped += 1
            return False
        counters.frames_out += 1
        counters.bytes_out += size
        if self.offset:
            header = meta + header
        if not self._queue and self._transmit(header, payload):
            return True
        self._queue.append((header, payload))
        self._size += len(header) + len(payload)
        if self._size > self._high_water:
            self.congested = True
        if not self._blocked:
            self._blocked = True
            self._wait()
        return True

    def _transmit(self, header: bytes, payload: bytes | memoryview) -> bool:
        """Send one frame; False where the guest does not take it now, or has gone."""
        try:
            self._sendmsg((header, payload) if payload else (header,))
        except OSError as error:
            # Whoever sends is in the midst of it, and hears of the end when this is tried again.
            if error.errno in _LOST:
                self.counters.dropped += 1
                return True
            return False
        return True

    def _sendmsg(self, buffers: tuple[bytes | memoryview, ...]) -> None:
        self._sock.sendmsg(buffers)

    def _write(self) -> None:
        queue = self._queue
        while queue:
            header, payload = queue[0]
            try:
                self._sendmsg((header, payload))
            except OSError as error:
                if error.errno in _FULL:
                    return
                if error.errno not in _LOST:
                    raise
                self.counters.dropped += 1
            queue.popleft()
            self._size -= len(header) + len(payload)
        if self._blocked:
            self._blocked = False
            self._stop_waiting()

    def _wait(self) -> None:
        """Have `_flush` called when the guest may take more."""
        self._watch(self._loop.add_writer, self._sock.fileno(), self._flush)

    def _stop_waiting(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
