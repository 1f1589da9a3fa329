"""Cuts the link's byte stream into frames, in place.

A dialect is a `Framing`: the shape of the length before each frame and the limit a length must
keep to.  `FrameReader` owns one large buffer; a single `recv_into` fills it with as many frames as
the kernel has, and the views it hands out point into it.  Writing needs no class: a length is one
`framing.length.pack(n)`, and how frames are gathered for one `sendmsg` is each side's own affair.
"""

import sys
from dataclasses import dataclass
from struct import Struct
from typing import Protocol

from taplink import vnet

ETHERNET_HEADER = 14
MAX_FRAME = ETHERNET_HEADER + 4 + 65535
"""The longest frame: one IP packet behind an Ethernet header with a VLAN tag."""


class LinkError(Exception):
    """The stream is not, or no longer, what its dialect says; the link has to be closed."""


@dataclass(frozen=True, slots=True)
class Framing:
    """One dialect of the link.

    `length` packs and unpacks a frame's length; `offset` is where the Ethernet header begins in
    what the length counts (behind a virtio-net header or at 0); `limit` is the largest length.
    """

    name: str
    length: Struct
    offset: int
    limit: int


HYPERKIT = Framing("hyperkit", Struct("<H"), 0, 0xFFFF)
QEMU = Framing("qemu", Struct(">I"), 0, MAX_FRAME)
TAPLINK = Framing("taplink/1", Struct(">I"), vnet.SIZE, vnet.SIZE + MAX_FRAME)


class Source(Protocol):
    """What frames are read from: a socket, or what acts as one."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as there is something; 0 at the end.  Raises OSError."""


class FrameReader:
    """Takes bytes from a link and hands out the frames that are complete.

    The views are valid until the next `receive` or `feed`; what must live longer is copied.
    """

    __slots__ = ("_buffer", "_end", "_framing", "_start", "_view", "more")

    def __init__(self, framing: Framing, capacity: int = 512 * 1024) -> None:
        assert capacity >= framing.length.size + framing.limit
        self._framing = framing
        self._buffer = bytearray(capacity)
        self._view = memoryview(self._buffer)
        self._start = 0  # of the first frame that is not complete yet
        self._end = 0  # of the bytes received
        self.more = False
        """There may be complete frames that were not handed out: the next call does not read."""

    def receive(self, sock: Source, most: int = sys.maxsize) -> list[memoryview]:
        """Read once from `sock` and return the complete frames, `most` at most; may be none.

        Raises EOFError when the peer has closed, LinkError on an impossible length, OSError
        (BlockingIOError among them) as `recv_into` does.
        """
        if not self.more:
            self._make_room()
            count = sock.recv_into(self._view[self._end :])
            if not count:
                raise EOFError
            self._end += count
        return self._frames(most)

    def feed(self, data: bytes) -> list[memoryview]:
        """Take bytes that were read elsewhere, such as those behind a request head.

        `data` must fit beside an incomplete frame; raises LinkError on an impossible length.
        """
        self._make_room()
        end = self._end + len(data)
        self._view[self._end : end] = data
        self._end = end
        return self._frames()

    def put_back(self, frames: list[memoryview]) -> None:
        """Have the last frames that were handed out be handed out again."""
        if frames:
            self._start -= sum(map(len, frames)) + self._framing.length.size * len(frames)
            self.more = True

    def _make_room(self) -> None:
        start, end = self._start, self._end
        if start:
            self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start

    def _frames(self, most: int = sys.maxsize) -> list[memoryview]:
        framing, view = self._framing, self._view
        unpack, size, offset = framing.length.unpack_from, framing.length.size, framing.offset
        start, end = self._start, self._end
        frames: list[memoryview] = []
        self.more = False
        for _ in range(most):
            if end - start < size:
                break
            (length,) = unpack(view, start)
            if not offset <= length <= framing.limit:
                self._start = start
                raise LinkError(
                    f"a frame of {length} bytes ({framing.name} allows {offset} to "
                    f"{framing.limit}): the stream is out of step"
                )
            stop = start + size + length
            if stop > end:
                break
            frames.append(view[start + size : stop])
            start = stop
        else:
            self.more = True
        self._start = start
        return frames
