"""A tap that another program has opened and handed over: no agent, and no link.

The kernel on the tap's other side is the guest: that of a container, a namespace, or a VM.
"""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from taplink.framing import LinkError
from taplink.tap import Tap, TapError, adopt_tap

_MAX_HANDED = 4
"""Descriptors taken of one message; the kernel closes others."""
_MESSAGE_SIZE = 256
"""Bytes beside them, which say nothing."""


class TapSocket:
    """A tap with the calls of a connected socket that a port makes; owns it."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def fileno(self) -> int:
        return self.tap.fd

    def recv(self, size: int) -> bytes:
        try:
            return os.read(self.tap.fd, size)
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise OSError(errno.EBADFD, "the interface was deleted") from error
            raise

    def sendmsg(self, buffers: Sequence[bytes | memoryview]) -> int:
        return os.writev(self.tap.fd, buffers)

    def close(self) -> None:
        self.tap.close()


class Handover:
    """A connection that brings a tap in its first message (SCM_RIGHTS, unix(7))."""

    def __init__(self, sock: socket.socket, attach: Callable[[Tap], object]) -> None:
        """The socket is closed once `attach` has the tap."""
        self._sock = sock
        self._attach = attach
        self._handed: list[int] = []

    def receive(self, sock: socket.socket) -> bytes:
        """Read what there is; raises OSError."""
        data, self._handed, _, _ = socket.recv_fds(sock, _MESSAGE_SIZE, _MAX_HANDED)
        return data

    def feed(self, data: bytes) -> Callable[[], None]:
        """Answer with OK or what is wrong; returns what attaches the tap, or raises LinkError."""
        handed, self._handed = self._handed, []
        try:
            if len(handed) != 1:
                raise LinkError(f"one descriptor is to be handed over, not {len(handed)}")
            tap = adopt_tap(handed[0])
        except (LinkError, TapError) as error:
            for descriptor in handed:
                os.close(descriptor)
            with suppress(OSError):
                self._sock.send(f"{error}\n".encode())
            raise LinkError(str(error)) from error

        def follow() -> None:
            with suppress(OSError):
                self._sock.send(b"OK\n")
            self._sock.close()
            self._attach(tap)

        return follow
