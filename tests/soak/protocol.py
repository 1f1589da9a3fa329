"""Transfers that are acknowledged: the receiver answers with the SHA-256 of what has arrived.

    UPLOAD     header, bytes →    ← digest
    DOWNLOAD   header →           ← bytes, digest    digest →
    ECHO       header, bytes →    ← bytes

One connection takes any number of them.  Each end compares digests, so an acknowledged transfer is
known to be intact at both.  Every wait ends after `STALL` without a byte.
"""

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from enum import IntEnum
from struct import Struct

from tests.lab.sockets import reset

STALL = 60.0
"""Seconds without a byte, after which an operation counts as stuck."""
IDLE = 300.0
"""Seconds a server waits for the next request."""
_HEADER = Struct("!4sBQ")
_MAGIC = b"SOAK"
_CHUNK = 256 * 1024
_DIGEST = 32
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}
"""A receiver learns of a host that has crashed by these: in 40 s, longer than any stop."""


class CorruptError(Exception):
    """What arrived is not what was sent."""


class EarlyEndError(Exception):
    """The stream has ended, in all order, in the middle of something."""


class StuckError(Exception):
    """Nothing moved for STALL."""


class Kind(IntEnum):
    """What the header of a request says."""

    UPLOAD = 1
    DOWNLOAD = 2
    ECHO = 3


def prepare(sock: socket.socket, timeout: float = STALL) -> None:
    """Have a connection notice that its peer is gone, and a wait end."""
    sock.settimeout(timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Ends:
    """Reads and writes one connection; errors are told apart."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.answered = False
        """Something has arrived."""
        self._buffer = bytearray(_CHUNK)

    def read(self, size: int, *, first: bool = False) -> bytes:
        """Read as much; an end in front of the `first` byte is in order, and returns nothing."""
        data = bytearray()
        while len(data) < size:
            part = self._receive(min(size - len(data), _CHUNK))
            if not part:
                if first and not data:
                    return b""
                raise EarlyEndError(f"{len(data):,} of {size:,} bytes")
            data += part
        return bytes(data)

    def digest(self, size: int) -> bytes:
        """Read as much and return its digest."""
        digest, left = hashlib.sha256(), size
        while left:
            part = self._receive(min(left, _CHUNK))
            if not part:
                raise EarlyEndError(f"{size - left:,} of {size:,} bytes")
            digest.update(part)
            left -= len(part)
        return digest.digest()

    def send_random(self, size: int) -> bytes:
        """Send as much and return its digest."""
        digest, left = hashlib.sha256(), size
        while left:
            block = os.urandom(min(left, _CHUNK))
            digest.update(block)
            self.send(block)
            left -= len(block)
        return digest.digest()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except TimeoutError as error:
                raise _stuck(error, "sending") from error

    def _receive(self, size: int) -> memoryview:
        view = memoryview(self._buffer)[:size]
        try:
            count = self.sock.recv_into(view)
        except TimeoutError as error:
            raise _stuck(error, "receiving") from error
        self.answered = self.answered or bool(count)
        return view[:count]


def _stuck(error: TimeoutError, doing: str) -> Exception:
    # The kernel's own ETIMEDOUT, of keep-alive or retransmission, is a connection that broke.
    return StuckError(f"{doing}: not a byte for so long") if error.errno is None else error


class Client(_Ends):
    """The end of a connection that asks; raises this module's errors, and OSError."""

    def _ask(self, kind: Kind, size: int) -> None:
        self.send(_HEADER.pack(_MAGIC, kind, size))

    def upload(self, size: int) -> None:
        """Send so many bytes, and have it acknowledged."""
        self._ask(Kind.UPLOAD, size)
        _compare(self.send_random(size), self.read(_DIGEST), f"an upload of {size:,} bytes")

    def download(self, size: int) -> None:
        """Receive so many bytes, and acknowledge them."""
        self._ask(Kind.DOWNLOAD, size)
        digest = self.digest(size)
        _compare(digest, self.read(_DIGEST), f"a download of {size:,} bytes")
        self.send(digest)

    def echo(self, size: int) -> None:
        """Send so many bytes, and have the same back."""
        self._ask(Kind.ECHO, size)
        data = os.urandom(size)
        self.send(data)
        _compare(data, self.read(size), f"an echo of {size:,} bytes")


def _compare(sent: bytes, arrived: bytes, what: str) -> None:
    if sent != arrived:
        raise CorruptError(f"{what} differs at the two ends")


def answer(sock: socket.socket) -> None:
    """Serve a connection to its end; raises as a `Client` does."""
    ends = _Ends(sock)
    while True:
        sock.settimeout(IDLE)
        head = ends.read(_HEADER.size, first=True)
        if not head:
            return
        sock.settimeout(STALL)
        magic, kind, size = _HEADER.unpack(head)
        if magic != _MAGIC:
            raise CorruptError(f"a request begins with {magic!r}")
        match Kind(kind):
            case Kind.UPLOAD:
                ends.send(ends.digest(size))
            case Kind.DOWNLOAD:
                digest = ends.send_random(size)
                ends.send(digest)
                _compare(digest, ends.read(_DIGEST), f"a download of {size:,} bytes")
            case Kind.ECHO:
                ends.send(ends.read(size))


def serve(listener: socket.socket, failed: Callable[[Exception], None]) -> threading.Thread:
    """Answer, each connection in a thread, until the listener is shut down.

    What went wrong with one is given to `failed`; its peer sees a reset.
    """

    def take(sock: socket.socket) -> None:
        try:
            prepare(sock)
            answer(sock)
        except (OSError, CorruptError, EarlyEndError, StuckError) as error:
            reset(sock)
            failed(error)
        finally:
            sock.close()

    def accept() -> None:
        listener.settimeout(None)
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=take, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    return thread
