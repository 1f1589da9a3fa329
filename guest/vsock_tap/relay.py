"""Moves frames between the tap and the link: the agent's hot path.

Towards the link, every frame the tap has is read into one buffer, each right behind its length, so
that a batch is one contiguous region and leaves in one `send`.  Towards the tap, one `recv_into`
takes what the link has, and each frame is written from where it lies.  Back-pressure needs no
queue: what the link did not take stays in the buffer, and until it has gone the tap is not read;
the kernel then drops at the tap as a full network card does.

While there is no link, the tap is not read either.  That costs nothing, and what its queue holds
by then is stale: `start` throws it away, as a burst of old retransmissions, in the shape of the
last link's offloads, helps nobody.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taplink import vnet
from taplink.deafness import Deafness
from taplink.framing import MAX_FRAME, FrameReader, Framing, LinkError
from taplink.tap import Tap
from taplink.upgrade import Agreed
from vsock_tap.errors import AgentError

BATCH = 256 * 1024
"""Bytes one wake-up may take from the tap: four super-frames.  From 128 KiB to 1 MiB throughput
differs by less than the noise of two runs, so it is the smaller burst that counts."""
RECEIVE = 512 * 1024
"""Bytes one wake-up may take from the link."""
LAST_READS = 64
"""How often a broken link is read before it is given up; it does not hold that much."""
STALE_FRAMES = 65536
"""A tap's queue is `txqueuelen` long; more than this is not its queue but traffic."""
MAX_DHCP_FRAME = 1600
"""Bytes of a frame that may be an answer to the DHCP client."""


@dataclass(slots=True)
class Counters:
    """Frames of one link; `dropped` are those the tap did not take."""

    to_link: int = 0
    to_tap: int = 0
    dropped: int = 0


class Batch:
    """Frames read from the tap, each behind its length: `view[:end]` is ready to send.

    `fill()` reads until the tap has no more or the batch is full, and returns `end`; it raises
    OSError as `readv` does, except that nothing to read is 0.  It is one of three, by whether the
    tap's virtio-net header is what the link wants; only the first has to be fast.
    """

    __slots__ = ("_fd", "_length", "_stop", "buffer", "fill", "frames", "view")

    def __init__(self, tap: Tap, framing: Framing) -> None:
        self._fd = tap.fd
        self._length = framing.length
        self._stop = BATCH - framing.length.size - vnet.SIZE - MAX_FRAME
        self.buffer = bytearray(BATCH)
        self.view = memoryview(self.buffer)
        self.frames = 0
        self.fill: Callable[[], int]
        if tap.vnet_hdr == bool(framing.offset):
            self.fill = self._fill_as_is
        elif tap.vnet_hdr:
            self.fill = self._fill_without_header
        else:
            self.fill = self._fill_with_header

    def _fill_as_is(self) -> int:
        fd, view, buffer, stop = self._fd, self.view, self.buffer, self._stop
        readv, pack, lead = os.readv, self._length.pack_into, self._length.size
        end = frames = 0
        try:
            while end <= stop:
                count = readv(fd, (view[end + lead :],))
                pack(buffer, end, count)
                end += lead + count
                frames += 1
        except BlockingIOError:
            pass
        self.frames += frames
        return end

    def _fill_without_header(self) -> int:
        header = bytearray(vnet.SIZE)
        lead, end = self._length.size, 0
        try:
            while end <= self._stop:
                count = os.readv(self._fd, (header, self.view[end + lead :])) - vnet.SIZE
                if header[0] & vnet.F_NEEDS_CSUM or header[1] != vnet.GSO_NONE:
                    continue  # on its way since before the offloads were turned off
                self._length.pack_into(self.buffer, end, count)
                end += lead + count
                self.frames += 1
        except BlockingIOError:
            pass
        return end

    def _fill_with_header(self) -> int:
        lead, end = self._length.size + vnet.SIZE, 0
        try:
            while end <= self._stop:
                count = os.readv(self._fd, (self.view[end + lead :],))
                self._length.pack_into(self.buffer, end, vnet.SIZE + count)
                self.view[end + lead - vnet.SIZE : end + lead] = vnet.PLAIN
                end += lead + count
                self.frames += 1
        except BlockingIOError:
            pass
        return end


def _write_with_header(fd: int, frame: memoryview) -> int:
    return os.writev(fd, (vnet.PLAIN, frame))


def _write_without_header(fd: int, frame: memoryview) -> int:
    return os.write(fd, frame[vnet.SIZE :])


class Relay:
    """One link's relay, from `start` until the link ends or `stop`.

    `intercept` is asked about small frames from the link while `watch(True)` is in force; those
    it returns True for are not the tap's.  Its view of the Ethernet frame is valid only during
    the call.
    """

    def __init__(
        self,
        tap: Tap,
        sock: socket.socket,
        agreed: Agreed,
        intercept: Callable[[memoryview], bool],
    ) -> None:
        self.counters = Counters()
        self._loop = asyncio.get_running_loop()
        self._deafness = Deafness(self._loop)
        self._tap = tap
        self._sock = sock
        self._framing = agreed.framing
        self._reader = FrameReader(agreed.framing, RECEIVE)
        self._rest = agreed.rest
        self._batch = Batch(tap, agreed.framing)
        self._write: Callable[[int, memoryview], int] = os.write
        if tap.vnet_hdr and not agreed.framing.offset:
            self._write = _write_with_header
        elif agreed.framing.offset and not tap.vnet_hdr:
            self._write = _write_without_header
        self._intercept = intercept
        self._watching = False
        self._unsent: memoryview | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._flushed = asyncio.Event()
        self._flushed.set()

    def start(self) -> None:
        """Begin: throw away what the tap's queue holds, take what was read with the handshake."""
        self._drain_tap()
        self._loop.add_reader(self._sock.fileno(), self._on_link)
        self._loop.add_reader(self._tap.fd, self._on_tap)
        if self._rest:
            try:
                self._deliver(self._reader.feed(self._rest))
            except LinkError as error:
                self._end(error)

    def stop(self) -> None:
        """End; the socket and the tap stay open."""
        self._deafness.forget(self)
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._loop.remove_reader(self._tap.fd)
        self.counters.to_link = self._batch.frames
        if not self._ended.done():
            self._ended.set_result(None)
        self._flushed.set()

    async def ended(self) -> None:
        """Wait for the end.

        Raises LinkError, EOFError or OSError when it was the link's, AgentError when it was the
        tap's, and nothing after `stop`.
        """
        await asyncio.shield(self._ended)

    def watch(self, on: bool) -> None:
        """Ask `intercept` about small frames, or stop asking."""
        self._watching = on

    def inject(self, frame: bytes) -> None:
        """Send a frame of the agent's own, behind what waits already."""
        header = vnet.PLAIN if self._framing.offset else b""
        data = self._framing.length.pack(len(header) + len(frame)) + header + frame
        if self._unsent is None:
            self._send(memoryview(data))
        else:
            self._unsent = memoryview(bytes(self._unsent) + data)

    async def flushed(self) -> None:
        """Wait until the link has taken everything, or has ended."""
        await self._flushed.wait()

    def _on_tap(self) -> None:
        try:
            end = self._batch.fill()
        except OSError as error:
            self._end(AgentError(f"{self._tap.name}: the interface is gone ({error.strerror})"))
            return
        if end:
            self._send(self._batch.view[:end])

    def _send(self, data: memoryview) -> None:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._loop.call_soon(self._broken, error)
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._flushed.clear()
            self._loop.remove_reader(self._tap.fd)
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        assert self._unsent is not None
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._loop.call_soon(self._broken, error)
            return
        if sent < len(self._unsent):
            self._unsent = self._unsent[sent:]
            return
        self._unsent = None
        self._flushed.set()
        self._loop.remove_writer(self._sock.fileno())
        self._loop.add_reader(self._tap.fd, self._on_tap)

    def _broken(self, error: OSError) -> None:
        """End, but for what the host said before it closed: resets of what it had to end."""
        if self._ended.done():
            return
        with contextlib.suppress(OSError, EOFError, LinkError):
            for _ in range(LAST_READS):
                self._deliver(self._reader.receive(self._sock))
        self._end(error)

    def _on_link(self) -> None:
        try:
            frames = self._reader.receive(self._sock)
        except BlockingIOError:
            return
        except (EOFError, LinkError, OSError) as error:
            self._end(error)
            return
        self._deliver(frames)
        self._deafness.heard(self)

    @property
    def polled(self) -> int:
        """See `taplink.deafness.Reader`."""
        return self._sock.fileno()

    def poll_again(self) -> None:
        """See `taplink.deafness.Reader`."""
        self._loop.remove_reader(self._sock.fileno())
        self._loop.add_reader(self._sock.fileno(), self._on_link)

    def _deliver(self, frames: list[memoryview]) -> None:
        if self._watching:
            frames = self._without_intercepted(frames)
        fd, write, dropped = self._tap.fd, self._write, 0
        for frame in frames:
            # Refused are a frame for an interface that is down (EIO), one that is none or has a
            # broken virtio-net header (EINVAL), one for which the kernel has no memory.
            try:
                write(fd, frame)
            except OSError:
                dropped += 1
        self.counters.to_tap += len(frames) - dropped
        self.counters.dropped += dropped

    def _without_intercepted(self, frames: Sequence[memoryview]) -> list[memoryview]:
        offset = self._framing.offset
        return [
            frame
            for frame in frames
            if len(frame) > MAX_DHCP_FRAME or not self._intercept(frame[offset:])
        ]

    def _drain_tap(self) -> None:
        scratch = bytearray(vnet.SIZE + MAX_FRAME)
        try:
            for _ in range(STALE_FRAMES):
                os.readv(self._tap.fd, (scratch,))
        except OSError:
            pass  # nothing left, or an error `_on_tap` will meet as well

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
        self.stop()
