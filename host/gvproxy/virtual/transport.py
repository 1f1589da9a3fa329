"""A TCP connection to a guest as a transport of asyncio: the way in for all that speaks asyncio.

Two worlds meet here, each with a rule of its own:

* The stack tells a connection's user what happens in the midst of a batch of frames, while it holds
  views and lists of its own.  A protocol answers whatever it likes at once: it writes, closes,
  opens others.  So a protocol is never called from there.  What the stack tells is noted, and
  `_tell` comes with the loop's next turn to call the protocol, in asyncio's order:
  `connection_made`, data, the end of it, `connection_lost`.  Only what calls nobody is done in the
  batch: bytes that wait are sent when there is room.
* Both directions are bounded.  What the protocol was not given yet takes up window, so a guest
  stops when its reader pauses.  Of what is written the connection is given as much as leaves at
  once; the rest waits here, and past the high-water mark `pause_writing` is called.

`close` is close(2): what was written is still sent, with a FIN behind it, but a guest whose data
was not read, or that sends more, is reset.  `abort` resets at once.

It does not offer what asyncio does for sockets of the kernel only: `sendfile`, TLS, and protocols
that bring their own buffer.
"""

import asyncio
import errno
import os
from collections.abc import Callable
from ipaddress import ip_address
from typing import cast

from gvproxy.stack.path import TcpPath
from gvproxy.tcp import calls
from gvproxy.tcp.connection import MAX_SEGMENT, Connection
from gvproxy.tcp.states import End

MAX_READ = 256 * 1024  # bytes of one `data_received`, as asyncio's own transports have it
HIGH_WATER = 64 * 1024  # asyncio's

_ERRNO = {
    End.RESET: errno.ECONNRESET,
    End.TIMED_OUT: errno.ETIMEDOUT,
    End.UNREACHABLE: errno.EHOSTUNREACH,
}

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class VirtualTransport(asyncio.Transport):
    """Implements `gvproxy.tcp.connection.User`.

    `connection` is None once it is over, or no longer this transport's affair.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: ProtocolFactory,
        gone: Callable[["VirtualTransport"], None],
    ) -> None:
        """`factory` is called when the connection is made, `gone` when `connection` becomes None.

        The latter may be in the midst of a batch.
        """
        super().__init__()
        self.connection: Connection | None = None
        self.opened: asyncio.Future[None] = loop.create_future()
        """Done when the protocol has been told, or has the error for which it never will be."""
        self._loop = loop
        self._factory = factory
        self._gone = gone
        self._protocol: asyncio.BaseProtocol | None = None
        self._due = False  # `_tell` is on its way
        self._established = False
        self._inbox = bytearray()
        self._reading = True
        self._eof = self._eof_told = False
        self._outbox = bytearray()
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._writing = True  # False from pause_writing to resume_writing
        self._eof_written = False
        self._closing = False
        self._lost = self._lost_told = False
        self._error: Exception | None = None

    def join(self, connection: Connection) -> None:
        """Be for `connection`, whose user this is."""
        path = connection.path
        assert isinstance(path, TcpPath)
        self.connection = connection
        self._extra = {
            "peername": (str(ip_address(path.guest)), path.guest_port),
            "sockname": (str(ip_address(path.address)), path.port),
            "guest": path.owner,
        }

    # What the stack tells, in a batch (gvproxy.tcp.connection.User)

    def established(self, now: float) -> None:
        self._established = True
        self._tell_soon()

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        if not self._closing:  # else nobody reads it, and it takes up window like all that is held
            for view in views:
                self._inbox += view
            self._tell_soon()
        return 0

    def received_eof(self, now: float) -> None:
        self._eof = True
        self._tell_soon()

    def writable(self, now: float) -> None:
        self._pump(now)

    def ended(self, end: End, now: float) -> None:
        self._leave()
        if end is End.DONE:
            return  # both directions have ended; like a socket, it waits to be closed
        number = _ERRNO[end]
        if end is End.RESET and not self._established:
            number = errno.ECONNREFUSED
        self._lose(OSError(number, os.strerror(number)))

    # What the protocol is told, by the loop

    def _tell_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        """Call the protocol once, and come back for more.

        So the tasks it has started run before the next call, as they do with sockets: aiohttp fails
        where a connection is lost in the turn in which it was made.
        """
        self._due = False
        if self._lost_told:
            return
        try:
            if self._established and self._tell_what_came():
                self._tell_soon()
                return
        except Exception as error:
            self._loop.call_exception_handler(
                {
                    "message": "a protocol failed, its connection is reset",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
            self._fail(error)
            return
        if self._lost:
            self._lost_told = True
            if not self.opened.done():
                self.opened.set_exception(self._error or ConnectionAbortedError())
                self.opened.exception()  # that nobody waits for it is no mistake
            if self._protocol is not None:
                self._protocol.connection_lost(self._error)

    def _tell_what_came(self) -> bool:
        """Call the protocol with what comes first, where there is anything."""
        if self._protocol is None:
            if self._lost:
                return False
            self._protocol = self._factory()
            self._protocol.connection_made(self)
            if not self.opened.done():
                self.opened.set_result(None)
        elif not (self._writing or self._lost) and len(self._outbox) <= self._low:
            self._writing = True
            self._protocol.resume_writing()
        elif self._inbox and self._reading:
            data = bytes(self._inbox[:MAX_READ])
            del self._inbox[:MAX_READ]
            if self.connection is not None:
                calls.consumed(self.connection, len(data), self._loop.time())
            self._stream.data_received(data)
        elif self._eof and not self._eof_told and self.is_reading():
            self._eof_told = True
            if not self._stream.eof_received():
                self.close()
        else:
            return False
        return True

    @property
    def _stream(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, self._protocol)

    # What the protocol asks for (asyncio.Transport): reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._tell_soon()

    def is_reading(self) -> bool:
        return self._reading and not self.is_closing()

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be a bytes-like object, not {type(data).__name__}")
        if self._eof_written:
            raise RuntimeError("cannot write after write_eof")
        connection = self.connection
        if self.is_closing() or connection is None:
            return
        data, now = bytes(data), self._loop.time()
        if not self._outbox and 0 < len(data) <= min(connection.room(now), MAX_SEGMENT):
            calls.send(connection, data, now)
            return
        self._outbox += data
        self._pump(now)
        if self._writing and len(self._outbox) > self._high and self._protocol is not None:
            self._writing = False
            self._protocol.pause_writing()

    def _pump(self, now: float) -> None:
        """Give the connection what it has room for, and what comes behind the last of it."""
        connection = self.connection
        assert connection is not None
        largest = MAX_SEGMENT - MAX_SEGMENT % connection.mss
        while self._outbox:
            size = min(connection.room(now), largest)
            if not size:
                break  # until `writable`
            data = bytes(self._outbox[:size])
            del self._outbox[:size]
            calls.send(connection, data, now)
        if not self._writing and len(self._outbox) <= self._low:
            self._tell_soon()
        if not self._outbox:
            self._end_output(now)

    def _end_output(self, now: float) -> None:
        """Do what waited for all to be sent."""
        if self._closing:
            connection = self._leave()
            if connection is not None:
                calls.release(connection, now)
            self._lose(None)
        elif self._eof_written and self.connection is not None:
            calls.shutdown(self.connection, now)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not (self._eof_written or self.is_closing()):
            self._eof_written = True
            if not self._outbox:
                self._end_output(self._loop.time())

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and that at least 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._outbox)

    # The end

    def close(self) -> None:
        if not self.is_closing():
            self._closing = True
            self._inbox.clear()
            if not self._outbox:
                self._end_output(self._loop.time())

    def abort(self) -> None:
        self._fail(None)

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def _fail(self, error: Exception | None) -> None:
        """Reset the connection."""
        connection = self._leave()
        if connection is not None:
            connection.user = None
            calls.abort(connection, self._loop.time())
        self._inbox.clear()
        self._lose(error)

    def _leave(self) -> Connection | None:
        """Have no connection any more; returns the one there was."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._gone(self)
        return connection

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost, self._error = True, error
            self._outbox.clear()
            self._tell_soon()

    # What else a transport has

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
