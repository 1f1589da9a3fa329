"""A tap that another program has opened and handed over: no agent, and no link.

The kernel on the tap's other side is the guest: that of a container, a namespace, or a VM.
"""

import errno
import os
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from gvproxy.ports.guestport import GuestPort
from taplink.framing import LinkError
from taplink.tap import Tap, TapError, adopt_tap

_MAX_HANDED = 253
"""SCM_MAX_FD (net/scm.h): as many as a message can have."""
_MESSAGE_SIZE = 256
"""Bytes beside them, which say nothing."""

Attach = Callable[[Tap, Callable[[], None]], GuestPort | None]
"""Makes a tap's port, which calls back when it closes; None where there is no room for another."""


class TapSocket:
    """A tap with the calls of a connected socket that a port makes; owns it."""

    def __init__(self, tap: Tap, closed: Callable[[], None]) -> None:
        self.tap = tap
        self._closed = closed

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
        self._closed()


class Handover:
    """A connection that brings a tap in its first message (SCM_RIGHTS, unix(7)).

    The guest is there for as long as the connection: with a descriptor of the tap in our hands, a
    container that has ended would leave its network namespace behind, and the kernel in there
    would go on answering.
    """

    def __init__(self, loop: AbstractEventLoop, sock: socket.socket, attach: Attach) -> None:
        self._loop = loop
        self._sock = sock
        self._attach = attach
        self._handed: list[int] = []
        self._cut = False
        self._port: GuestPort | None = None

    def receive(self, sock: socket.socket) -> bytes:
        """Read what there is; raises OSError."""
        data, self._handed, flags, _ = socket.recv_fds(sock, _MESSAGE_SIZE, _MAX_HANDED)
        self._cut = bool(flags & socket.MSG_CTRUNC)
        return data

    def feed(self, data: bytes) -> Callable[[], None]:
        """Take the tap, and return what attaches it; answers with what is wrong, by LinkError."""
        handed, self._handed = self._handed, []
        try:
            if self._cut:
                raise LinkError("what was handed over has no room: too many open files")
            if len(handed) != 1:
                raise LinkError(f"one descriptor is to be handed over, not {len(handed)}")
            tap = adopt_tap(handed[0])
        except (LinkError, TapError) as error:
            for descriptor in handed:
                os.close(descriptor)
            self._answer(str(error))
            raise LinkError(str(error)) from error
        return partial(self._follow, tap)

    def _follow(self, tap: Tap) -> None:
        try:
            self._port = self._attach(tap, self._let_go)
        except TapError as error:  # it was deleted this very moment
            tap.close()
            self._answer(str(error))
            self._sock.close()
            return
        if self._port is None:
            self._answer("there is no room for another guest")
            self._sock.close()
            return
        self._answer("OK")
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _answer(self, text: str) -> None:
        with suppress(OSError):
            self._sock.send(f"{text}\n".encode())

    def _readable(self) -> None:
        """Wait for the end; whatever else is said is nothing to us."""
        try:
            if self._sock.recv(_MESSAGE_SIZE):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        assert self._port is not None
        self._port.close("who handed the tap over has left")

    def _let_go(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
