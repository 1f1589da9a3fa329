"""Records what passes the ports, for Wireshark and tcpdump: a pcap file of Ethernet frames.

A guest's frames are written as they come, and as they leave to another; so are super-frames, whose
checksums their guest's kernel completes.  What a full disk does not take is missing in the file,
which goes on when there is room.
"""

import errno
import logging
import os
import time
from asyncio import AbstractEventLoop, TimerHandle
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from dpkt import pcap

from gvproxy.complaint import Complaint
from gvproxy.errors import StartError
from gvproxy.ports.datagram import DatagramPort
from gvproxy.ports.guestport import GuestPort
from gvproxy.ports.packet import PacketPort
from gvproxy.ports.stream import StreamPort
from gvproxy.stack.stack import MAX_COSTLY
from taplink.framing import MAX_FRAME
from taplink.text import reason

log = logging.getLogger(__name__)

FLUSH_INTERVAL = 1.0
"""Seconds until what was recorded is in the file."""
MAX_WAITING = 256 << 10
"""Bytes that wait for that, at most."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What may change while we run."""


class Captured(GuestPort):
    """Stands before a class of ports, whose frames are recorded on both of their ways."""

    capture: "Capture"

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> bool:
        self.capture.record(b"".join((header, payload)))
        return super().send(meta, header, payload)

    def received(self, frames: list[memoryview]) -> int:
        frames = frames[:MAX_COSTLY]  # all of which are taken
        for frame in frames:
            self.capture.record(bytes(frame[self.offset :]))
        return super().received(frames)


class CapturedStreamPort(Captured, StreamPort):
    """A `StreamPort` whose frames are recorded."""


class CapturedPacketPort(Captured, PacketPort):
    """A `PacketPort` whose frames are recorded."""


class CapturedDatagramPort(Captured, DatagramPort):
    """A `DatagramPort` whose frames are recorded."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Capture:
    """The file at `path`, made anew; raises StartError where it cannot be."""

    def __init__(self, path: Path, loop: AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._timer: TimerHandle | None = None
        self._waiting = BytesIO()
        self._frames = 0  # that wait
        self._writer: pcap.Writer | None = pcap.Writer(self._waiting, snaplen=MAX_FRAME)
        self._size = 0
        """Of the file, up to its last whole frame."""
        self._lost = 0
        self._complaint = Complaint(log)
        try:
            self._file = open(path, "wb", buffering=0, opener=_private)  # noqa: SIM115
            self._write(self._taken())
        except (OSError, ValueError) as error:
            raise StartError(f"-pcap {path} cannot be written: {reason(error)}") from error

    def record(self, frame: bytes) -> None:
        """Have one frame written, within FLUSH_INTERVAL."""
        if self._writer is None:
            return
        # Whole microseconds: dpkt rounds, and there are no 1,000,000 of them in a second.
        self._writer.writepkt_time(frame, time.time_ns() // 1000 / 1e6)
        self._frames += 1
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL, self._flush)
        if self._waiting.tell() >= MAX_WAITING:
            self._timer.cancel()
            self._flush()

    def close(self) -> None:
        """Complete the file."""
        if self._timer is not None:
            self._timer.cancel()
            self._flush()
        if self._lost:
            log.warning("-pcap %s: %d frames are missing at its end", self._path, self._lost)
        self._end()

    def _flush(self) -> None:
        self._timer = None
        frames, self._frames = self._frames, 0
        try:
            self._write(self._taken())
        except OSError as error:
            self._failed(error, frames)
            return
        if self._lost:
            log.info("-pcap %s goes on; %d frames are missing", self._path, self._lost)
            self._lost = 0

    def _taken(self) -> bytes:
        data = self._waiting.getvalue()
        self._waiting.seek(0)
        self._waiting.truncate()
        return data

    def _write(self, data: bytes) -> None:
        """Write all of it or nothing, for half a frame spoils the file; raises OSError."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):  # it is a pipe
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        self._size += len(data)

    def _failed(self, error: OSError, frames: int) -> None:
        if error.errno not in _FULL:
            log.warning("-pcap %s ends here: %s", self._path, reason(error))
            self._end()
            return
        if not self._lost:
            text = "-pcap %s: frames are not recorded, until there is room: %s"
            self._complaint.make(self._loop.time(), text, self._path, reason(error))
        self._lost += frames

    def _end(self) -> None:
        self._writer = None
        with suppress(OSError):
            self._file.close()
