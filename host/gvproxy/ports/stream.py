"""A guest behind a byte stream: frames in from one large read, frames out in one `sendmsg`.

Out: frames are queued, and the queue leaves at the end of the batch that made it, with the loop's
next turn, or as soon as it is long.  A queue past `HIGH_WATER` says "congested", on which
connections stop sending; a queue past `LIMIT` drops, as a cable would.  A guest that does not read
costs that much and nothing else.
"""

import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from gvproxy.stack.stack import Stack
from taplink.framing import FrameReader, Framing, LinkError
from taplink.text import reason
from taplink.vnet import Offload

log = logging.getLogger(__name__)

T = TypeVar("T")

HIGH_WATER = 2 << 20  # bytes
LOW_WATER = 512 << 10
LIMIT = 8 << 20
MAX_BUFFERS = 1024  # Linux: UIO_MAXIOV
EARLY = 24 << 10
"""Bytes that do not wait for the end of their batch where frames are complete: making them took
some 50 µs, and the guest reads them while more are made.  That is a third more at one segment in a
thousand lost (`bench-loss`).  Super-frames are made faster than read, and it would cost 5 %.
"""


@dataclass(slots=True)
class PortCounters:
    """What went through one port; bytes are those of the frames, from Ethernet on."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    dropped: int = 0

    def add(self, other: "PortCounters") -> None:
        """Add another port's counters to these."""
        self.frames_in += other.frames_in
        self.bytes_in += other.bytes_in
        self.frames_out += other.frames_out
        self.bytes_out += other.bytes_out
        self.dropped += other.dropped


class StreamPort:
    """Implements `gvproxy.stack.port.Port`; owns its socket from `start` on."""

    def __init__(
        self,
        sock: socket.socket,
        framing: Framing,
        offload: Offload,
        stack: Stack,
        loop: AbstractEventLoop,
        closed: Callable[["StreamPort", str], None],
    ) -> None:
        """`closed` is called with the reason when the guest has gone, once."""
        self.number = -1
        self.attached = False
        self.offset = framing.offset
        self.offload = int(offload)
        self.congested = False
        self.counters = PortCounters()
        self._sock = sock
        self._fd = sock.fileno()
        self._pack = framing.length.pack
        self._overhead = framing.length.size + framing.offset
        self._largest = framing.limit - framing.offset
        self._reader: FrameReader | None = FrameReader(framing)
        self._stack = stack
        self._loop = loop
        self._closed: Callable[[StreamPort, str], None] | None = closed
        self._queue: list[bytes | memoryview] = []
        self._size = 0
        self._early = LIMIT if self.offload else EARLY
        self._flush_due = False
        self._blocked = False  # waiting for the socket to take more

    def start(self, rest: bytes) -> None:
        """Attach to the stack; `rest` are bytes of the stream that have been read already."""
        self._stack.attach(self)
        self._loop.add_reader(self._fd, self._readable)
        if rest and self._reader is not None:
            self._take(self._reader.feed, rest)

    def close(self, why: str) -> None:
        """Detach from the stack and close the socket."""
        closed, self._closed = self._closed, None
        if closed is None:
            return
        self._loop.remove_reader(self._fd)
        if self._blocked:
            self._loop.remove_writer(self._fd)
        self._sock.close()
        self._queue.clear()
        self._size = 0
        self.congested = False
        self._reader = None  # stations may refer to this port for long, and its buffer is large
        self._stack.detach(self, self._loop.time())
        closed(self, why)

    # In

    def _readable(self) -> None:
        if self._reader is not None:
            self._take(self._reader.receive, self._sock)

    def _take(self, read: Callable[[T], list[memoryview]], source: T) -> None:
        try:
            frames = read(source)
        except (BlockingIOError, InterruptedError):
            return
        except EOFError:
            self.close("the guest has closed its end")
            return
        except (LinkError, OSError) as error:
            self.close(reason(error))
            return
        counters = self.counters
        counters.frames_in += len(frames)
        counters.bytes_in += sum(map(len, frames)) - self.offset * len(frames)
        flush_due, self._flush_due = self._flush_due, True  # here, at the end of the batch
        try:
            self._stack.receive(self, frames, self._loop.time())
        finally:
            self._flush_due = flush_due
        if not self._blocked:
            self._flush()

    # Out

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> None:
        counters = self.counters
        size = len(header) + len(payload)
        if self._size > LIMIT or size > self._largest or self._closed is None:
            counters.dropped += 1
            return
        if self.offset:
            self._queue.append(self._pack(size + self.offset) + meta + header)
        else:
            self._queue.append(self._pack(size) + header)
        if payload:
            self._queue.append(payload)
        counters.frames_out += 1
        counters.bytes_out += size
        self._size += size + self._overhead
        if self._size > HIGH_WATER:
            self.congested = True
        if self._blocked:
            return
        if self._size >= self._early:
            # Only that: whoever sends is in the midst of it, and hears what follows a turn later.
            with suppress(OSError):
                self._write()
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_turn)

    def flush(self) -> None:
        if not self._blocked and self._closed is not None:
            self._flush()

    def _flush_turn(self) -> None:
        self._flush_due = False
        self.flush()

    def _flush(self) -> None:
        """Send the queue, and do what follows: let connections send again, or end."""
        try:
            self._write()
        except OSError as error:
            self.close(reason(error))
            return
        if self.congested and self._size < LOW_WATER:
            self.congested = False
            self._stack.port_ready(self, self._loop.time())

    def _write(self) -> None:
        """Send the queue, as far as the socket takes it; raises OSError when the link is gone."""
        queue = self._queue
        while queue:
            batch = queue[:MAX_BUFFERS]
            try:
                count = self._sock.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                self._block()
                return
            self._size -= count
            if not self._size:
                queue.clear()
                return
            sent = 0
            for buffer in batch:
                if count < len(buffer):
                    break
                count -= len(buffer)
                sent += 1
            del queue[:sent]
            if count:
                queue[0] = memoryview(queue[0])[count:]

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        self._flush()
        if self._blocked and not self._queue and self._closed is not None:
            self._blocked = False
            self._loop.remove_writer(self._fd)
