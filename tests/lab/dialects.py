"""Stand-ins for hypervisors: each speaks its dialect to gvproxy, frame by frame.

`feed` says how a byte stream is written: each frame `whole`, `bytes` one by one, or several frames
`coalesced` in one write.
"""

import contextlib
import os
import socket
import struct
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.namespace import Namespace
from tests.lab.programs import GVPROXY

TIMEOUT = 10.0
UUID = "c3d68012-0208-11ea-9fd7-f2189899ab08"


class Guest(ABC):
    """A guest that is attached; `close` it."""

    @abstractmethod
    def send(self, *frames: bytes) -> None:
        """Send frames."""

    @abstractmethod
    def receive(self) -> bytes:
        """Return the next frame; raises EOFError at the end, TimeoutError when none comes."""

    @abstractmethod
    def close(self) -> None:
        """Go."""


class Stream(Guest):
    """A guest behind a byte stream."""

    def __init__(self, sock: socket.socket, length: struct.Struct, feed: str = "whole") -> None:
        self._sock = sock
        self._sock.settimeout(TIMEOUT)
        self._length = length
        self._feed = feed
        self._received = b""

    def write(self, data: bytes) -> None:
        """Write bytes as the feed is."""
        if self._feed == "bytes":
            for at in range(len(data)):
                self._sock.sendall(data[at : at + 1])
        else:
            self._sock.sendall(data)

    def read(self, count: int) -> bytes:
        """Read as many bytes; raises EOFError."""
        while len(self._received) < count:
            data = self._sock.recv(65536)
            if not data:
                raise EOFError
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def send(self, *frames: bytes) -> None:
        framed = [self._length.pack(len(frame)) + frame for frame in frames]
        for data in [b"".join(framed)] if self._feed == "coalesced" else framed:
            self.write(data)

    def receive(self) -> bytes:
        (length,) = self._length.unpack(self.read(self._length.size))
        return self.read(length)

    def end(self) -> None:
        """End the stream both ways, upon which a `receive` elsewhere ends, too."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()


class Packets(Guest):
    """A guest whose frames are packets of their own."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(TIMEOUT)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._sock.send(frame)

    def receive(self) -> bytes:
        frame = self._sock.recv(65536)
        if not frame:
            raise EOFError
        return frame

    def close(self) -> None:
        self._sock.close()


class Datagrams(Packets):
    """A guest whose socket has a path of its own, by which the server knows it."""

    def __init__(self, sock: socket.socket, path: Path, server: Path) -> None:
        super().__init__(sock)
        self.path = path
        self._server = server
        self.connect()

    def connect(self) -> None:
        """Find the server, which may be another one than before."""
        self._sock.connect(str(self._server))

    def close(self) -> None:
        super().close()
        self.path.unlink()


HYPERKIT, QEMU = struct.Struct("<H"), struct.Struct(">I")


def connect(path: Path, feed: str = "whole") -> Guest:
    """Be gvforwarder, at -listen."""
    guest = Stream(_connected(path), HYPERKIT, feed)
    guest.write(b"POST /connect HTTP/1.1\r\nHost: gvproxy\r\n\r\n")
    return guest


def qemu(path: Path, feed: str = "whole") -> Guest:
    """Be QEMU, at -listen-qemu."""
    return Stream(_connected(path), QEMU, feed)


def vpnkit(path: Path, feed: str = "whole") -> Guest:
    """Be hyperkit, at -listen-vpnkit."""
    guest = Stream(_connected(path), HYPERKIT, feed)
    hello = (b"VMN3T" + struct.pack("<I", 22)).ljust(49, b"\0")
    guest.write(hello)
    assert guest.read(49) == hello
    guest.write((b"\1" + UUID.encode()).ljust(41, b"\0"))
    told = guest.read(258)
    assert told[:11] == struct.pack("<BHH", 1, 1500, 1514) + bytes.fromhex("5a94efe40cee")
    return guest


def bess(path: Path, feed: str = "whole") -> Guest:
    """Be BESS, at -listen-bess."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))
    return Packets(sock)


def vfkit(
    path: Path, feed: str = "whole", *, greet: bool = True, name: str = "vfkit-guest"
) -> Datagrams:
    """Be vfkit, at -listen-vfkit."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    own = path.with_name(f"{name}.sock")
    sock.bind(str(own))
    guest = Datagrams(sock, own, path)
    if greet:
        guest.send(b"VFKT")
    return guest


class Stdio(Stream):
    """A guest that has started gvproxy as its program."""

    def __init__(self, host: Namespace, folder: Path, feed: str, *flags: str) -> None:
        ours, theirs = socket.socketpair()
        self.log = folder / "stdio.log"
        command: list[str | Path] = [GVPROXY, "-listen-stdio", "accept", "-ssh-port", "-1", *flags]
        with theirs, self.log.open("wb") as log:
            argv, pipe = host.command(*command), theirs.fileno()
            self._program = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=log, process_group=0
            )
        super().__init__(ours, HYPERKIT, feed)

    def close(self) -> None:
        """Go, upon which the program ends by itself."""
        super().close()
        try:
            assert self._program.wait(TIMEOUT) == 0, self.log.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._program.pid, 9)


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


Come = Callable[[Path, str], Guest]

LISTENERS: dict[str, tuple[str, Come]] = {
    "qemu": ("unix", qemu),
    "vpnkit": ("unix", vpnkit),
    "bess": ("unixpacket", bess),
    "vfkit": ("unixgram", vfkit),
}
"""By the flag: the scheme of its URL, and who comes there."""


def flags(folder: Path, *names: str) -> list[str]:
    """Have gvproxy listen for some dialects, each at NAME.sock of the folder."""
    return [
        flag
        for name in names
        for flag in (f"-listen-{name}", f"{LISTENERS[name][0]}://{folder}/{name}.sock")
    ]


def come(folder: Path, name: str, feed: str = "whole") -> Guest:
    """Come to where `flags` has gvproxy listen; `connect` is the listener that is always there."""
    if name == "connect":
        return connect(folder / "gvproxy.sock", feed)
    return LISTENERS[name][1](folder / f"{name}.sock", feed)


@contextlib.contextmanager
def closing(guest: Guest) -> Iterator[Guest]:
    """Close a guest at the end."""
    try:
        yield guest
    finally:
        guest.close()
