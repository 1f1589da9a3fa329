"""A guest behind a byte stream: frames in from one large read, frames out in one `sendmsg`.

Out: frames are queued, and the queue leaves at the end of the batch that made it, with the loop's
next turn, or as soon as it is long.
"""

import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from gvproxy.ports.guestport import LIMIT, Closed, GuestPort
from gvproxy.ports.pipes import Pipes
from gvproxy.stack.stack import Stack
from taplink.framing import FrameReader, Framing, LinkError
from taplink.text import reason
from taplink.vnet import Offload

MAX_BUFFERS = 1024  # Linux: UIO_MAXIOV
LAST_SECONDS = 0.01
"""For how long a guest that takes nothing is read before it is given up."""
EARLY = 24 << 10
"""Bytes that do not wait for the end of their batch where frames are complete: making them took
some 50 µs, and the guest reads them while more are made.  That is a third more at one segment in a
thousand lost (`bench-loss`).  Super-frames are made faster than read, and it would cost 5 %.
"""


class StreamPort(GuestPort):
    """Owns its socket from `start` on."""

    def __init__(
        self,
        sock: socket.socket | Pipes,
        framing: Framing,
        offload: Offload,
        stack: Stack,
        loop: AbstractEventLoop,
        closed: Closed,
    ) -> None:
        super().__init__(framing.offset, int(offload), stack, loop, closed)
        self._sock = sock
        self._fd = sock.fileno()
        self._write_fd = sock.writer if isinstance(sock, Pipes) else self._fd
        self._pack = framing.length.pack
        self._overhead = framing.length.size + framing.offset
        self._largest = framing.limit - framing.offset
        self._reader: FrameReader | None = FrameReader(framing)
        self._queue: list[bytes | memoryview] = []
        self._more_due = False  # a batch that needs no reading follows with the loop's next turn
        self._early = LIMIT if self.offload else EARLY

    def start(self, rest: bytes = b"") -> None:
        """Attach to the stack; `rest` are bytes of the stream that have been read already."""
        self._stack.attach(self)
        self._watch(self._loop.add_reader, self._fd, self._readable)
        if rest and self._reader is not None:
            self._take(partial(self._reader.feed, rest))

    def _release(self) -> None:
        if not self.paused:
            self._loop.remove_reader(self._fd)
        if self._blocked:
            self._loop.remove_writer(self._write_fd)
        self._sock.close()
        self._queue.clear()
        self._reader = None  # stations may refer to this port for long, and its buffer is large

    # In

    def _readable(self) -> None:
        if not self._more_due:
            self._read()
        self._heard()

    def _read(self) -> bool:
        """Take a batch; tells whether there was anything."""
        reader = self._reader
        return reader is not None and self._take(
            partial(reader.receive, self._sock, self._turns.frames)
        )

    def _read_on(self) -> None:
        """Take what was read and is too much for one batch."""
        self._more_due = False
        if not self.paused:
            self._read()

    def _take(self, read: Callable[[], list[memoryview]]) -> bool:
        """Take what can be read, or its beginning; tells whether there was anything."""
        try:
            frames = read()
        except (BlockingIOError, InterruptedError):
            return False
        except EOFError:
            self.close("the guest has closed its end")
            return False
        except (LinkError, OSError) as error:
            self.close(reason(error))
            return False
        if not frames:
            return True
        taken = self.received(frames)
        reader = self._reader
        if reader is None:  # it has gone meanwhile
            return True
        reader.put_back(frames[taken:])
        if reader.more and not self._more_due:
            self._more_due = True
            self._loop.call_soon(self._read_on)
        return True

    def _polled(self) -> int:
        return self._fd

    def _pause(self) -> None:
        self._loop.remove_reader(self._fd)

    def _go_on(self) -> None:
        self._watch(self._loop.add_reader, self._fd, self._readable)
        if not self._more_due:
            self._read()

    def _broken(self, why: str) -> None:
        """End, but for what the guest said before it closed: a lease given back, say."""
        clock = self.fairness.clock
        ends = clock() + LAST_SECONDS
        while clock() < ends and self._read():
            pass
        self.close(why)

    # Out

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        counters = self.counters
        size = len(header) + len(payload)
        if self._size > self._limit or size > self._largest or self._closed is None:
            counters.dropped += 1
            return False
        if self.offset:
            self._queue.append(self._pack(size + self.offset) + meta + header)
        else:
            self._queue.append(self._pack(size) + header)
        if payload:
            self._queue.append(payload)
        counters.frames_out += 1
        counters.bytes_out += size
        self._size += size + self._overhead
        if self._size > self._high_water:
            self.congested = True
        if self._blocked:
            return True
        if self._size >= self._early:
            # Only that: whoever sends is in the midst of it, and hears what follows a turn later.
            with suppress(OSError):
                self._write()
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_turn)
        return True

    def _write(self) -> None:
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
            self._watch(self._loop.add_writer, self._write_fd, self._writable)

    def _writable(self) -> None:
        self._flush()
        if self._blocked and not self._queue and self._closed is not None:
            self._blocked = False
            self._loop.remove_writer(self._write_fd)
