"""A guest's connections joined to sockets on loopback: how they begin, carry, wait and end."""

import errno
import logging
import os
import select
import socket
from contextlib import suppress

import pytest

from gvproxy.flows import hangups
from gvproxy.flows import tcp as module
from gvproxy.limits import Limit, Limits
from gvproxy.tcp.connection import RECEIVE_BUFFER
from gvproxy.wire import ethernet, icmp, ipv4
from gvproxy.wire import tcp as wire
from tests.manual_loop import ManualLoop

from .guest import (
    CONNECT_TIMEOUT,
    GATEWAY,
    GUEST,
    HOST,
    METADATA,
    OUTSIDE,
    Guest,
    Socket,
    is_reset,
    linger_reset,
)

FLAGS = ethernet.SIZE + ipv4.SIZE + 13
LARGE = bytes(range(256)) * 4096 * 12  # more than any two buffers on the way hold


def open_pair(guest: Guest, server: socket.socket, *, reads: bool = True):  # type: ignore[no-untyped-def]
    """Return a guest's socket and the server's."""
    sock = guest.connect(HOST, server.getsockname()[1], reads=reads)
    guest.loop.until(lambda: sock.told)
    assert sock.told == ["established"]
    accepted, _ = server.accept()
    accepted.settimeout(10)
    return sock, accepted


def wait_for_end(guest: Guest) -> None:
    """Wait until the kernel has the outside's end, before the flow looks."""
    (flow,) = guest.tcp.open
    poll = select.poll()
    poll.register(flow._sock, select.POLLRDHUP)
    assert poll.poll(10_000)


def receive(guest: Guest, sock: socket.socket, size: int) -> bytes:
    """Read from the server's side while the loop goes on."""
    data = bytearray()
    sock.setblocking(False)

    def more() -> bool:
        try:
            data.extend(sock.recv(1 << 20))
        except BlockingIOError:
            return False
        return len(data) >= size

    for _ in range(100_000):
        if more():
            break
        guest.loop.turn()
    sock.settimeout(10)
    return bytes(data)


# The beginning


def test_a_connection_carries_both_ways(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        sock.send(b"from the guest")
        guest.loop.run()
        assert outside.recv(100) == b"from the guest"
        outside.sendall(b"from outside")
        guest.loop.until(lambda: sock.data)
        assert sock.data == b"from outside"
        assert outside.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        (flow,) = guest.tcp.open
        assert flow._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_refused_is_refused(
    guest: Guest, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")
    sock = guest.connect(HOST, closed_port)
    guest.loop.until(lambda: sock.told)
    assert sock.told == ["RESET"]
    assert guest.tcp.failed == 1
    assert guest.unreachable == []
    assert not guest.host.connections.find
    where = f"192.168.127.254:{closed_port}"
    assert caplog.messages == [f"no connection to {where}: Connection refused"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENETUNREACH, icmp.NET_UNREACHABLE),
        (errno.EHOSTUNREACH, icmp.HOST_UNREACHABLE),
        (errno.EHOSTDOWN, icmp.HOST_UNREACHABLE),
        (errno.EACCES, icmp.ADMIN_PROHIBITED),
        (errno.EPERM, icmp.ADMIN_PROHIBITED),
    ],
)
def test_unreachable_is_unreachable(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, error: int, code: int
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: error)
    sock = guest.connect(OUTSIDE, 80)
    guest.loop.run()
    ((source, got, quote),) = guest.unreachable
    assert (source, got) == (GATEWAY, code)
    assert quote[12:20] == GUEST + OUTSIDE
    assert quote[22:24] == (80).to_bytes(2, "big")
    assert quote[24:28] == (sock.connection.iss & 0xFFFFFFFF).to_bytes(4, "big")
    assert (sock.told, guest.tcp.failed) == ([], 1)
    assert not guest.host.connections.find


def test_closed_addresses_are_prohibited(guest: Guest) -> None:
    guest.connect(METADATA, 80)
    guest.loop.run()
    assert [code for _, code, _ in guest.unreachable] == [icmp.ADMIN_PROHIBITED]
    assert not guest.tcp.open


def stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no connection be decided: a socket that is not even connecting is never writable."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: errno.EINPROGRESS)
    monkeypatch.setattr(module.TcpFlow, "_connect_decided", lambda flow: None)


def test_a_dead_destination_times_out_in_silence(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stall(patch)
        sock = guest.connect(OUTSIDE, 80)
        guest.loop.turn()
        assert guest.quotas.half_open.used == 1
        (timer,) = guest.loop.timers
        assert timer.at == guest.loop.now + CONNECT_TIMEOUT
        guest.loop.now = timer.at
        timer.callback()
        timer.cancel()
    assert (guest.quotas.half_open.used, guest.tcp.failed) == (0, 1)
    assert (sock.told, guest.unreachable) == ([], [])
    assert not guest.tcp.open
    assert not guest.host.connections.find


def test_half_open_connections_are_bounded(
    loop: ManualLoop, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest(loop, limits=Limits(half_open=Limit(4, 3)))
    with monkeypatch.context() as patch:
        stall(patch)
        for port in range(5):
            guest.connect(OUTSIDE, 80 + port)
        guest.loop.turn()
        assert guest.quotas.half_open.used == 3
        assert len(guest.host.connections.find) == 3
        assert guest.host.counters.connections_refused == 2
        guest.tcp.close()
    assert guest.quotas.half_open.used == 0
    open_pair(guest, server)[1].close()
    guest.close()


def test_connections_leave_descriptors_to_others(loop: ManualLoop, server: socket.socket) -> None:
    guest = Guest(loop, tcp_limit=2)
    pairs = [open_pair(guest, server) for _ in range(2)]
    sock = guest.connect(HOST, server.getsockname()[1])
    here, client = socket.socketpair()
    guest.tcp.dial(here, GUEST, 22)
    loop.run()
    assert (sock.told, client.recv(1)) == ([], b"")
    assert guest.host.counters.connections_refused == 2
    client.close()
    for _, outside in pairs:
        linger_reset(outside)
    loop.until(lambda: not guest.tcp.open)
    guest.tick(1.1)  # its SYN comes again
    assert sock.told == ["established"]
    guest.close()


def test_what_is_decided_later_is_told_later(
    guest: Guest, server: socket.socket, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other hosts than this one the answer takes a while."""
    connect_ex = socket.socket.connect_ex
    asked = set()

    def slow(sock: socket.socket, address: tuple[str, int]) -> int:
        if sock not in asked:
            asked.add(sock)
            connect_ex(sock, address)
        return errno.EINPROGRESS

    monkeypatch.setattr(socket.socket, "connect_ex", slow)
    socks = [guest.connect(HOST, port) for port in (server.getsockname()[1], closed_port)]
    guest.loop.until(lambda: all(sock.told for sock in socks))
    assert [sock.told for sock in socks] == [["established"], ["RESET"]]
    assert guest.quotas.half_open.used == 0
    assert guest.loop.timers == []


def test_no_descriptor_left_is_a_lost_syn(
    guest: Guest, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(module.socket, "socket", fail)
        sock = guest.connect(HOST, server.getsockname()[1])
        guest.loop.run()
    assert sock.told == []
    assert guest.host.counters.connections_refused == 1
    guest.tick(1.1)
    assert sock.told == ["established"]


# The ends


def test_the_guest_ends_its_direction_first(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        sock.send(b"request")
        sock.shutdown()
        guest.loop.run()
        assert outside.recv(100) == b"request"
        assert outside.recv(100) == b""
        outside.sendall(b"answer")
        guest.loop.until(lambda: sock.data)
        assert "eof" not in sock.told
    guest.loop.until(lambda: "eof" in sock.told)
    assert sock.data == b"answer"
    assert not guest.tcp.open


def test_the_outside_ends_its_direction_first(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        outside.sendall(b"hello")
        outside.shutdown(socket.SHUT_WR)
        guest.loop.until(lambda: "eof" in sock.told)
        assert sock.data == b"hello"
        assert guest.tcp.open, "half of it is still there"
        sock.send(b"the rest")
        guest.loop.run()
        assert outside.recv(100) == b"the rest"
        sock.shutdown()
        guest.loop.until(lambda: not guest.tcp.open)
        assert outside.recv(100) == b""
    assert "RESET" not in sock.told


def test_an_answer_and_its_end_go_in_one_segment(
    guest: Guest, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock, outside = open_pair(guest, server)
    sent: list[int] = []
    send = guest.host_port.send

    def watch(meta: bytes, header: bytes, payload: bytes | memoryview = b"") -> None:
        sent.append(header[FLAGS])
        send(meta, header, payload)

    monkeypatch.setattr(guest.host_port, "send", watch)
    outside.sendall(b"answer")
    outside.close()
    wait_for_end(guest)
    guest.loop.until(lambda: "eof" in sock.told)
    assert sock.data == b"answer"
    assert sent == [wire.ACK | wire.PSH | wire.FIN]


def test_an_answer_and_a_reset_behind_it(guest: Guest, server: socket.socket) -> None:
    """The reset is no clean end, though the kernel tells of it only once."""
    sock, outside = open_pair(guest, server)
    outside.sendall(b"answer")
    linger_reset(outside)
    wait_for_end(guest)
    guest.loop.until(lambda: len(sock.told) > 1)
    assert sock.data == b"answer"
    assert sock.told == ["established", "RESET"]
    assert not guest.tcp.open


def test_an_empty_connection_ends_cleanly(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    outside.close()
    sock.shutdown()
    guest.loop.until(lambda: not guest.tcp.open)
    assert sock.told[-1] == "DONE"


def test_the_guest_resets(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        sock.reset()
        guest.loop.run()
        assert not guest.tcp.open
        assert is_reset(outside)


def test_what_came_before_a_reset_is_still_sent(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        sock.send(b"last words")
        guest.loop.run()
        assert outside.recv(100) == b"last words"
        sock.reset()
        guest.loop.run()
        assert is_reset(outside)


def test_the_outside_resets(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    linger_reset(outside)
    guest.loop.until(lambda: "RESET" in sock.told)
    assert not guest.tcp.open
    assert not guest.host.connections.find


@pytest.mark.parametrize("before", [0, 2 * hangups.DELAY])
def test_a_reset_after_the_outside_has_ended(
    guest: Guest, server: socket.socket, before: float
) -> None:
    """The guest is idle; it learns of the reset all the same."""
    sock, outside = open_pair(guest, server)
    outside.shutdown(socket.SHUT_WR)
    guest.loop.until(lambda: "eof" in sock.told)
    guest.loop.advance(before)
    linger_reset(outside)
    guest.loop.advance(2 * hangups.DELAY - before)
    guest.loop.until(lambda: "RESET" in sock.told)
    assert not guest.tcp.open


def test_watching_for_resets_takes_no_further_descriptor(
    guest: Guest, server: socket.socket
) -> None:
    """One for all of them is there from the start: what is counted later is the flows'."""
    _, outside = open_pair(guest, server)
    with outside:
        before = len(os.listdir("/proc/self/fd"))
        (flow,) = guest.tcp.open
        guest.tcp.hangups.watch(flow._fd, lambda: None)
        guest.loop.advance(2 * hangups.DELAY)
        assert len(os.listdir("/proc/self/fd")) == before
        guest.tcp.hangups.forget(flow._fd)


def test_urgent_data_stays_in_the_stream(guest: Guest, server: socket.socket) -> None:
    """RFC 9293 MUST-31, the way of RFC 6093: no byte is taken out."""
    sock, outside = open_pair(guest, server)
    with outside:
        outside.sendall(b"abc")
        outside.send(b"X", socket.MSG_OOB)
        outside.sendall(b"def")
        guest.loop.until(lambda: len(sock.data) == 7)
        assert sock.data == b"abcXdef"


def test_urgent_data_on_a_published_port(guest: Guest) -> None:
    there = Socket(guest)
    guest.stack.connections.listeners[GUEST, 22] = there.accept
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    with client:
        client.send(b"X", socket.MSG_OOB)
        guest.tcp.dial(here, GUEST, 22)
        client.sendall(b"def")
        guest.loop.until(lambda: len(there.data) == 4)
        assert there.data == b"Xdef"


def test_a_reset_found_while_sending(guest: Guest, server: socket.socket) -> None:
    """Before the loop has looked at the socket."""
    sock, outside = open_pair(guest, server)
    guest.loop.readers.clear()
    linger_reset(outside)
    sock.send(b"into the void")
    guest.loop.until(lambda: "RESET" in sock.told)
    assert not guest.tcp.open


def test_closing_the_flows_resets_both_sides(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        guest.tcp.close()
        guest.loop.run()
        assert sock.told[-1] == "RESET"
        assert is_reset(outside)


# Back-pressure


def test_an_outside_that_does_not_read(guest: Guest, server: socket.socket) -> None:
    """What the socket does not take is kept, in bounds, and moves on when it does."""
    sock, outside = open_pair(guest, server)
    with outside:
        sock.send(LARGE)
        guest.loop.run()
        (flow,) = guest.tcp.open
        assert flow._pending is not None
        kept = sum(map(len, flow._pending))
        assert 0 < kept <= RECEIVE_BUFFER + (RECEIVE_BUFFER >> 4)
        assert flow.connection is not None
        assert flow.connection.rcv_held == kept
        assert receive(guest, outside, len(LARGE)) == LARGE
        assert flow._pending is None
        assert not guest.loop.writers
        assert flow.connection.rcv_held == 0


def test_a_guest_that_does_not_read(guest: Guest, server: socket.socket) -> None:
    """No more is read from outside than the guest's window allows."""
    sock, outside = open_pair(guest, server, reads=False)
    with outside:
        outside.setblocking(False)
        guest.loop.run()
        (flow,) = guest.tcp.open
        sent = 0
        while flow._fd in guest.loop.readers or len(sock.data) < RECEIVE_BUFFER // 2:
            with suppress(BlockingIOError):
                sent += outside.send(LARGE[sent:])
            guest.tick(0.01)  # for delayed acknowledgments
        guest.loop.run()
        # The edge is rounded up, by a sixteenth in all at the most (`output.emit`).
        assert len(sock.data) <= RECEIVE_BUFFER + (RECEIVE_BUFFER >> 4)
        sock.read()
        while len(sock.data) < sent:
            guest.tick(0.01)
        assert sock.data == LARGE[:sent]
        outside.setblocking(True)
        outside.sendall(b"more")
        guest.loop.until(lambda: len(sock.data) >= sent + 4)
        assert sock.data.endswith(b"more")


class Recorded(socket.socket):
    """A socket that keeps what is set of it."""

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.told.append((option, value))
        super().setsockopt(level, option, value)


def test_the_socket_of_a_bulk_transfer_holds_more(guest: Guest, server: socket.socket) -> None:
    """A megabyte on, its buffer is large, and a few bytes still come at once.

    How large the kernel makes it by itself depends on how busy the machine is.
    """
    sock, outside = open_pair(guest, server)
    with outside:
        (flow,) = guest.tcp.open
        flow._sock = recorded = Recorded(fileno=flow._sock.detach())
        recorded.setblocking(False)
        recorded.told = []
        piece = bytes(8000)
        while len(sock.data) <= module.BULK:
            assert recorded.told == []
            outside.sendall(piece)
            expected = len(sock.data) + len(piece)
            guest.loop.until(lambda expected=expected: len(sock.data) == expected)
        options = [(socket.SO_RCVLOWAT, module.WIDE), (socket.SO_RCVLOWAT, 1)]
        assert recorded.told == options
        assert recorded.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= module.WIDE
        outside.sendall(b"more")
        guest.loop.until(lambda: sock.data.endswith(b"more"))


def test_the_guests_end_waits_behind_what_is_kept(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        size = fill(guest, sock)
        sock.shutdown()
        guest.loop.run()
        (flow,) = guest.tcp.open
        assert flow._eof
        assert flow._pending is not None
        assert len(receive(guest, outside, size)) == size
        guest.loop.run()
        assert outside.recv(1) == b""
        outside.sendall(b"got it")
        guest.loop.until(lambda: sock.data)


def fill(guest: Guest, sock: Socket) -> int:
    """Send a little more than the socket outside takes; return how much that was."""
    size = 0
    (flow,) = guest.tcp.open
    while flow._pending is None:
        sock.send(LARGE[:100_000])
        size += 100_000
        guest.loop.run()
    return size


def test_a_connection_that_is_over_drains_and_closes(guest: Guest, server: socket.socket) -> None:
    """Both directions have ended for the guest; what it sent is not lost."""
    sock, outside = open_pair(guest, server)
    with outside:
        outside.shutdown(socket.SHUT_WR)
        guest.loop.until(lambda: "eof" in sock.told)
        size = fill(guest, sock)
        sock.shutdown()
        guest.loop.until(lambda: sock.told[-1] == "DONE")
        (flow,) = guest.tcp.open
        assert flow.connection is None
        assert len(receive(guest, outside, size)) == size
        guest.loop.until(lambda: not guest.tcp.open)
        assert outside.recv(1) == b""


def test_what_a_connection_leaves_behind_is_still_its_guests(
    guest: Guest, server: socket.socket
) -> None:
    """An outside that reads nothing has the guest end one connection after the other."""
    sock, outside = open_pair(guest, server)
    with outside:
        (flow,) = guest.tcp.open
        for one in (outside, flow._sock):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        outside.shutdown(socket.SHUT_WR)
        guest.loop.until(lambda: "eof" in sock.told)
        fill(guest, sock)
        sock.send(LARGE[:800_000])
        sock.shutdown()
        guest.loop.until(lambda: sock.told[-1] == "DONE")
        guest.tick(10)
        assert not guest.host.connections.find
        assert guest.quotas.connections.held(guest.host_port) == 1
        waiting = len(b"".join(flow._pending or ()))
        assert guest.host.connections.buffered.used == waiting
        guest.tick(module.STALLED - 20)
        while len(b"".join(flow._pending or ())) == waiting:
            receive(guest, outside, 1)
            guest.loop.run()
        guest.tick(module.STALLED - 1)
        assert guest.tcp.open, "the outside has taken something"
        guest.tick(1)
        assert not guest.tcp.open
    assert guest.quotas.connections.used == guest.host.connections.buffered.used == 0


def test_a_reset_while_something_is_kept(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    fill(guest, sock)
    linger_reset(outside)
    guest.loop.until(lambda: "RESET" in sock.told)
    assert not guest.tcp.open


def test_a_congested_link_stops_reading(guest: Guest, server: socket.socket) -> None:
    sock, outside = open_pair(guest, server)
    with outside:
        guest.loop.run()
        guest.host_port.congested = True
        outside.sendall(b"wait for it")
        (flow,) = guest.tcp.open
        guest.loop.until(lambda: flow._fd not in guest.loop.readers)
        assert sock.data == b""
        guest.host_port.congested = False
        guest.host.port_ready(guest.host_port, guest.loop.now)
        guest.loop.until(lambda: sock.data)
        assert sock.data == b"wait for it"
