"""A guest's TCP connection and the host's socket it is joined to.

The connection to the outside is made first: the guest's SYN is answered once it is known what the
outside says, and is answered with that.  From then on each side is read only as far as the other
takes it: `Connection.room` bounds what is read from the socket, and what the socket does not take
stays in the window offered to the guest.

Events: the guest's data and FIN come through `User`; the socket's through the loop.  What nobody
waits for, such as closing a socket, is left to the loop's next turn: a batch often holds one
connection's FIN and the next one's SYN, and its answers leave at the batch's end.  A flow is
over when both directions have ended, or when either side has reset.
"""

import errno
import logging
import os
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import islice
from struct import Struct

from gvproxy.complaint import Complaint
from gvproxy.errors import OUT_OF_RESOURCES
from gvproxy.flows.destinations import Destinations
from gvproxy.flows.hangups import HangUps
from gvproxy.flows.unreachable import code_for
from gvproxy.rules import Protocol
from gvproxy.stack.path import TcpPath
from gvproxy.stack.port import Port
from gvproxy.stack.stack import Stack
from gvproxy.tcp import calls
from gvproxy.tcp.connection import MAX_SEGMENT, Connection
from gvproxy.tcp.states import End
from gvproxy.wire import icmp
from taplink.deafness import Deafness

log = logging.getLogger(__name__)

READS_PER_WAKEUP = 4
"""Super-frames read from one socket before the others get their turn."""
MAX_VIEWS = 1024  # Linux: UIO_MAXIOV
BULK = 1 << 20
"""Bytes of the outside, after which its socket is to hold more, and how much."""
WIDE = 512 << 10
STALLED = 120.0
"""Seconds that an outside which takes nothing is waited for, once the guest's connection is over:
about as long as Linux has patience for a socket that was closed (tcp_orphan_retries)."""
_RESET_ON_CLOSE = Struct("@ii").pack(1, 0)  # struct linger: on, 0 seconds


class TcpFlows:
    """Makes flows: to the outside for guests, and into the network for the forwarder."""

    def __init__(
        self,
        stack: Stack,
        loop: AbstractEventLoop,
        destinations: Destinations,
        connect_timeout: float,
        limit: int,
    ) -> None:
        """`connect_timeout` in seconds, for connections to the outside.

        `limit` is of sockets; it may be set anew at any time.
        """
        self.stack = stack
        self.loop = loop
        self.failed = 0
        self.open: set[TcpFlow] = set()
        self.hangups = HangUps(loop)
        self.deafness = Deafness(loop)
        self._destinations = destinations
        self._connect_timeout = connect_timeout
        self.limit = limit
        self.closing = False
        """Guests' new connections are refused."""
        self._complaint = Complaint(log)
        stack.connections.forward = self._forward

    def _forward(self, connection: Connection, path: TcpPath, now: float) -> None:
        if self.closing:
            calls.abort(connection, now)
            return
        station = path.station
        assert station is not None  # whose SYN it was
        host = self._destinations.resolve(
            Protocol.TCP, path.address, path.port, path.guest, station.mac, now
        )
        if host is None:
            self.stack.connections.unreachable(connection, icmp.ADMIN_PROHIBITED, now)
        else:
            self.connect(connection, (host, path.port), now)

    def connect(self, connection: Connection, address: tuple[str, int], now: float) -> None:
        """Join a guest's connection, in LISTEN, to a new one to `address` of the host's network."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        if self.full:
            self._complaint.make(now, "no connection for a guest: there are %d", self.limit)
            self._refuse(connection, now)
            return
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.no_socket(error.strerror or "", now)
            self._refuse(connection, now)
            return
        _take_urgent(sock)
        flow = TcpFlow(self, connection, sock)
        flow.connect(address, self._connect_timeout, now)

    def no_socket(self, why: str, now: float) -> None:
        """Say why a connection outward could not be tried."""
        self._complaint.make(now, "no socket for a guest's connection: %s", why)

    def _refuse(self, connection: Connection, now: float) -> None:
        """Drop a SYN; it comes again, when there may be room."""
        self.stack.counters.connections_refused += 1
        calls.drop(connection, now)

    def dial(self, sock: socket.socket, address: bytes, port: int) -> None:
        """Join a host's connected socket, which the flow owns from now on, to a guest's port."""
        sock.setblocking(False)
        _take_urgent(sock)
        now = self.loop.time()
        flow = TcpFlow(self, None, sock)
        if len(self.open) > self.limit:
            self.stack.counters.connections_refused += 1
            self._complaint.make(now, "no connection to the guest: there are %d", self.limit)
            flow.discard(reset=True)
            return
        try:
            flow.connection = self.stack.connections.open(flow, address, port, now)
        except OSError as error:
            self._complaint.make(now, "no connection to the guest: %s", error)
            flow.discard(reset=True)

    @property
    def full(self) -> bool:
        """There are as many flows as there may be."""
        return len(self.open) >= self.limit

    def join(self, connection: Connection, sock: socket.socket, first: bytes, now: float) -> None:
        """Join an established connection to a socket, non-blocking, which the flow owns then.

        `first` has been read of it already.
        """
        flow = TcpFlow(self, connection, sock)
        connection.user = flow
        if first:
            self.loop.call_soon(flow.send_first, first)
        flow.established(now)

    def nobody_answers(self, connection: Connection, now: float) -> None:
        """Say that there is no guest where a published port leads."""
        path: TcpPath = connection.path  # type: ignore[assignment]
        guest = socket.inet_ntoa(path.guest)
        self._complaint.make(now, "a connection is reset: no guest answers at %s", guest)

    def close(self) -> None:
        """Reset every flow on both of its sides."""
        now = self.loop.time()
        for flow in list(self.open):
            flow.abort(now)
        self.hangups.close()


class TcpFlow:
    """Implements `gvproxy.tcp.connection.User`."""

    __slots__ = (
        "_brief",
        "_ended",
        "_eof",
        "_fd",
        "_flows",
        "_left",
        "_loop",
        "_narrow",
        "_pending",
        "_reading",
        "_sock",
        "_timer",
        "connection",
    )

    def __init__(self, flows: TcpFlows, connection: Connection | None, sock: socket.socket) -> None:
        self._flows = flows
        self._loop = flows.loop
        self._sock = sock
        self._fd = sock.fileno()
        self._pending: deque[bytes] | None = None  # from the guest, for the socket
        self._eof = False  # the guest has ended its direction
        self._ended = False  # the outside has ended its own
        self._reading = False
        self._brief = True  # until the outside has paused: it may say one thing and end
        self._narrow = True  # the socket holds what the kernel thinks is enough
        self._timer: TimerHandle | None = None
        self._left: tuple[Port | None, int] | None = None  # whose, and how many bytes
        self.connection = connection
        flows.open.add(self)

    # Making the connection to the outside

    def connect(self, address: tuple[str, int], timeout: float, now: float) -> None:
        """Begin to connect the socket; the guest is answered when that is decided."""
        connection = self.connection
        assert connection is not None
        connection.user = self
        error = self._sock.connect_ex(address)
        if error == errno.EINPROGRESS:
            # On the host itself it is already decided: asking again costs less than the loop.
            error = self._sock.connect_ex(address)
        if error in (errno.EALREADY, errno.EINPROGRESS):
            try:
                self._loop.add_writer(self._fd, self._connect_decided)
            except OSError as failure:
                error = failure.errno or errno.ENOMEM
            else:
                self._timer = self._loop.call_later(timeout, self._connect_timed_out)
                return
        self._connected(error, now)

    def _end_wait(self) -> None:
        if self._timer is not None:
            self._loop.remove_writer(self._fd)
            self._timer.cancel()
            self._timer = None

    def _connect_decided(self) -> None:
        self._end_wait()
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._connected(error, self._loop.time())

    def _connect_timed_out(self) -> None:
        self._end_wait()
        self._connected(errno.ETIMEDOUT, self._loop.time())

    def _connected(self, error: int, now: float) -> None:
        connection = self.connection
        assert connection is not None
        if not error:
            with suppress(OSError):  # no memory
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            calls.accept(connection, now)
            return
        self._flows.failed += 1
        if error in OUT_OF_RESOURCES:
            self._flows.no_socket(os.strerror(error), now)
        if log.isEnabledFor(logging.DEBUG):
            path = connection.path
            assert isinstance(path, TcpPath)
            where = socket.inet_ntoa(path.address), path.port
            log.debug("no connection to %s:%d: %s", *where, os.strerror(error))
        connection.user = None
        code = code_for(error)
        if error == errno.ECONNREFUSED:
            calls.abort(connection, now)
        elif code is not None:
            self._flows.stack.connections.unreachable(connection, code, now)
        else:  # timed out: the guest's own SYNs run out as they would on the host
            calls.drop(connection, now)
        self.discard(reset=False)

    # What the guest does (gvproxy.tcp.connection.User)

    def established(self, now: float) -> None:
        # After this batch: what the guest sent with its ACK is on its way to the socket first.
        self._loop.call_soon(self._start_reading)

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        done = 0
        if self._pending is None:
            try:
                if len(views) == 1:
                    done = self._sock.send(views[0])
                else:
                    done = self._sock.sendmsg(views[:MAX_VIEWS])
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.abort(now)
                return 0
        skip = done
        for view in views:
            size = len(view)
            if skip >= size:
                skip -= size
                continue
            if self._pending is None:
                try:
                    self._loop.add_writer(self._fd, self._writable)
                except OSError:
                    self.abort(now)
                    return 0
                self._pending = deque()
            self._pending.append(bytes(view[skip:]))
            skip = 0
        return done

    def received_eof(self, now: float) -> None:
        self._eof = True
        if self._pending is None:
            self._loop.call_soon(self._shutdown)

    def writable(self, now: float) -> None:
        self._pump(now)

    def ended(self, end: End, now: float) -> None:
        connection, self.connection = self.connection, None
        self._stop_reading()
        if end is End.UNREACHABLE and connection is not None:
            self._flows.nobody_answers(connection, now)
        if end is not End.DONE:
            self.discard(reset=True)
        elif self._pending is None:
            self._loop.call_soon(self._close)
        elif connection is not None:
            self._outlive(connection)

    def _outlive(self, connection: Connection) -> None:
        """Go on without the guest's connection, on its account, until the socket has taken all."""
        assert self._pending is not None
        path = connection.path
        assert isinstance(path, TcpPath)
        self._left = path.owner, sum(map(len, self._pending))
        self._flows.stack.connections.outlive(*self._left)
        self._wait_for_outside()

    def _wait_for_outside(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(STALLED, partial(self.discard, reset=True))

    # What the socket does

    def send_first(self, data: bytes) -> None:
        """Send what was read of the socket before it was this flow's."""
        if self.connection is not None:
            calls.send(self.connection, data, self._loop.time())

    def _readable(self) -> None:
        self._pump(self._loop.time())
        if self._reading:
            self._flows.deafness.heard(self)

    @property
    def polled(self) -> int:
        return self._fd if self._reading else -1

    def poll_again(self) -> None:
        self._stop_reading()
        self._start_reading()

    def _pump(self, now: float) -> None:
        """Read from the socket what the guest takes, up to the budget."""
        connection = self.connection
        assert connection is not None
        largest = MAX_SEGMENT - MAX_SEGMENT % connection.mss
        for _ in range(READS_PER_WAKEUP):
            size = min(connection.room(now), largest)
            if not size:
                self._stop_reading()  # until `writable`
                return
            data, end = self._read(size)
            if end is End.DONE:
                self._stop_reading()
                self._ended = True
                if not self._eof:
                    self._flows.hangups.watch(self._fd, self._hung_up)
                calls.shutdown(connection, now, data)
                return
            calls.send(connection, data, now)
            if end is End.RESET:
                self.abort(now)
                return
            if len(data) < size:
                if self._narrow and connection.out.end - connection.iss > BULK:
                    self._widen()
                break
        self._start_reading()

    def _widen(self) -> None:
        """Have the socket hold more, however short the way to its other end is.

        Linux gives a buffer what is read in a round trip: over loopback 95 KB, which is one large
        read and a small one.  It makes room for SO_RCVLOWAT (net/ipv4/tcp.c, tcp_set_rcvlowat),
        keeps it, and makes more where it finds that right; SO_RCVBUF would end that.  One stream
        down is 1.14 times as fast with an MTU of 65520, 1.1 without offloads, 1.06 with them.
        """
        self._narrow = self._brief = False
        with suppress(OSError):  # of other systems
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, WIDE)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _read(self, size: int) -> tuple[bytes, End | None]:
        """Read from the socket what is there, and how the outside has ended behind it, if it has.

        Many a server ends right behind its answer, and has done so before the answer is read.  Then
        both go in one segment: `make bench` has a tenth more new connections per second (new1).
        """
        data = b""
        try:
            data = self._sock.recv(size)
            if data and (
                len(data) == size or not self._brief or self._sock.recv(1, socket.MSG_PEEK)
            ):
                return data, None
        except (BlockingIOError, InterruptedError):
            self._brief = False
            return data, None
        except OSError:
            return data, End.RESET
        return data, End.DONE

    def _hung_up(self) -> None:
        self.abort(self._loop.time())

    def _start_reading(self) -> None:
        if not (self._reading or self._ended) and self.connection is not None:
            try:
                self._loop.add_reader(self._fd, self._readable)
            except OSError:
                self.abort(self._loop.time())
                return
            self._reading = True

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _writable(self) -> None:
        pending = self._pending
        assert pending is not None
        now = self._loop.time()
        try:
            count = self._sock.sendmsg(list(islice(pending, MAX_VIEWS)))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort(now)
            return
        left = count
        while pending and left >= len(pending[0]):
            left -= len(pending.popleft())
        if left:
            pending[0] = pending[0][left:]
        if not pending:
            self._pending = None
            self._loop.remove_writer(self._fd)
            if self._eof:
                self._shutdown()
        if self.connection is not None:
            calls.consumed(self.connection, count, now)
        elif self._pending is None:
            self._close()
        else:
            self._wait_for_outside()

    def _shutdown(self) -> None:
        if self._ended:
            return  # both directions are over: closing the socket says it all
        with suppress(OSError):  # the other side has reset: reading tells
            self._sock.shutdown(socket.SHUT_WR)

    # The end

    def _close(self) -> None:
        self.discard(reset=False)

    def abort(self, now: float) -> None:
        """Reset both sides."""
        connection, self.connection = self.connection, None
        self.discard(reset=True)
        if connection is not None:
            connection.user = None
            calls.abort(connection, now)

    def discard(self, *, reset: bool) -> None:
        """Close the socket, with a reset where the other side must not take it for a clean end."""
        self._end_wait()
        self._stop_reading()
        self._flows.deafness.forget(self)
        if self._ended:
            self._flows.hangups.forget(self._fd)
        if self._pending is not None:
            self._pending = None
            self._loop.remove_writer(self._fd)
        if self._left is not None:
            self._flows.stack.connections.give_back(*self._left)
            self._left = None
        if reset:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._sock.close()
        self._flows.open.discard(self)


def _take_urgent(sock: socket.socket) -> None:
    """Have urgent data be data."""
    with suppress(OSError):  # no memory
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
