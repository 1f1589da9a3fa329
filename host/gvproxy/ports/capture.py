"""Records what passes the ports, for Wireshark and tcpdump: a pcap file of Ethernet frames.

A guest's frames are written as they come, and as they leave to another; so are super-frames, whose
checksums their guest's kernel completes.
"""

import logging
import os
import time
from asyncio import AbstractEventLoop, TimerHandle
from contextlib import suppress
from pathlib import Path

from dpkt import pcap

from gvproxy.errors import StartError
from gvproxy.ports.datagram import DatagramPort
from gvproxy.ports.guestport import GuestPort
from gvproxy.ports.packet import PacketPort
from gvproxy.ports.stream import StreamPort
from taplink.framing import MAX_FRAME
from taplink.text import reason

log = logging.getLogger(__name__)

FLUSH_INTERVAL = 1.0
"""Seconds until what was recorded is in the file."""


class Captured(GuestPort):
    """Stands before a class of ports, whose frames are recorded on both of their ways."""

    capture: "Capture"

    def send(self, meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> None:
        self.capture.record(b"".join((header, payload)))
        super().send(meta, header, payload)

    def received(self, frames: list[memoryview]) -> None:
        for frame in frames:
            self.capture.record(bytes(frame[self.offset :]))
        super().received(frames)


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
        try:
            self._file = open(path, "wb", opener=_private)  # noqa: SIM115
            self._writer: pcap.Writer | None = pcap.Writer(self._file, snaplen=MAX_FRAME)
        except (OSError, ValueError) as error:
            raise StartError(f"-pcap {path} cannot be written: {reason(error)}") from error

    def record(self, frame: bytes) -> None:
        """Write one frame; a full disk ends the recording, and nothing else."""
        if self._writer is None:
            return
        try:
            # Whole microseconds: dpkt rounds, and there are no 1,000,000 of them in a second.
            self._writer.writepkt_time(frame, time.time_ns() // 1000 / 1e6)
        except OSError as error:
            self._end(error)
            return
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL, self._flush)

    def close(self) -> None:
        """Complete the file."""
        if self._timer is not None:
            self._timer.cancel()
            self._flush()
        self._end(None)

    def _flush(self) -> None:
        self._timer = None
        try:
            self._file.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError | None) -> None:
        if error is not None and self._writer is not None:
            log.warning("-pcap %s ends here: %s", self._path, reason(error))
        self._writer = None
        with suppress(OSError):
            self._file.close()
