"""Connections of protocols: how they begin, carry, wait and end."""

import asyncio
import errno
from collections.abc import Iterator

import pytest

from gvproxy.tcp.connection import RECEIVE_BUFFER
from gvproxy.virtual import VirtualNetwork
from gvproxy.virtual.transport import HIGH_WATER, MAX_READ, VirtualTransport
from tests.host.flows.guest import GATEWAY, GUEST, Guest, Socket
from tests.manual_loop import ManualLoop

from .recorder import Recorder, watched

LARGE = bytes(range(256)) * 4096 * 12  # more than any two buffers on the way hold
DEVICE, PORT = "192.168.127.2", 80


@pytest.fixture(autouse=True)
def watch(guest: Guest) -> Iterator[None]:
    with watched(guest.host):
        yield


class Pair:
    """A connection from the gateway: `near` is the protocol, `far` the guest's socket."""

    def __init__(self, guest: Guest, network: VirtualNetwork, *, keep_open: bool = False) -> None:
        self.loop = guest.loop
        self.far = Socket(guest)
        guest.stack.connections.listeners[GUEST, PORT] = self.far.accept
        made = network.create_connection(lambda: Recorder(keep_open=keep_open), DEVICE, PORT)
        self.transport, self.near = self.loop.complete(made)
        self.loop.run()
        assert self.far.told == ["established"]

    def run(self) -> "Pair":
        self.loop.run()
        return self


@pytest.fixture
def pair(guest: Guest, network: VirtualNetwork) -> Pair:
    return Pair(guest, network)


@pytest.fixture
def half_open(guest: Guest, network: VirtualNetwork) -> Pair:
    """A pair whose protocol goes on when the guest has ended its direction."""
    return Pair(guest, network, keep_open=True)


def gone(guest: Guest) -> None:
    """Nothing is left of any connection, at either end, once TIME-WAIT is over."""
    guest.tick(3)
    assert not guest.host.connections.find
    assert not guest.stack.connections.find
    assert guest.host.connections.timers == 0
    assert guest.host.connections.pool.used == 0


# The beginning


def test_it_carries_both_ways(pair: Pair) -> None:
    pair.transport.write(b"from the host")
    pair.far.send(b"from the guest")
    pair.run()
    assert pair.far.data == b"from the host"
    assert pair.near.data == b"from the guest"
    assert pair.near.told == ["made", "data"]


def test_it_knows_both_ends(pair: Pair) -> None:
    connection = pair.transport.connection
    assert connection is not None
    assert pair.transport.get_extra_info("peername") == (DEVICE, PORT)
    address, port = pair.transport.get_extra_info("sockname")
    assert (address, port) == ("192.168.127.1", connection.path.port)  # type: ignore[attr-defined]
    assert pair.transport.get_extra_info("socket") is None


def test_refused(guest: Guest, network: VirtualNetwork) -> None:
    guest.stack.connections.listeners.clear()
    with pytest.raises(ConnectionRefusedError):
        guest.loop.complete(network.create_connection(Recorder, DEVICE, PORT))
    gone(guest)


def test_no_answer(guest: Guest, network: VirtualNetwork) -> None:
    guest.stack.connections.listeners[GUEST, PORT] = lambda *_: None
    task = guest.loop.start(network.create_connection(Recorder, DEVICE, PORT))
    guest.loop.run()
    for _ in range(300):
        assert not task.done()
        guest.tick(1)
        if task.done():
            break
    with pytest.raises(TimeoutError):
        task.result()


def test_nobody_there(guest: Guest, network: VirtualNetwork) -> None:
    task = guest.loop.start(network.create_connection(Recorder, "192.168.127.99", PORT))
    guest.loop.run()
    for _ in range(4):
        guest.tick(1)
    with pytest.raises(OSError, match="No route to host") as caught:
        task.result()
    assert caught.value.errno == errno.EHOSTUNREACH
    gone(guest)


@pytest.mark.parametrize("address", ["192.168.127.1", "10.0.0.1", "::1"])
def test_no_guests_address(network: VirtualNetwork, loop: ManualLoop, address: str) -> None:
    with pytest.raises(OSError, match="no guest has such an address"):
        loop.complete(network.create_connection(Recorder, address, PORT))


@pytest.mark.parametrize(("address", "port"), [(DEVICE, 0), (DEVICE, 65536), ("guest", 80)])
def test_no_address_at_all(
    network: VirtualNetwork, loop: ManualLoop, address: str, port: int
) -> None:
    with pytest.raises(ValueError, match="not"):
        loop.complete(network.create_connection(Recorder, address, port))


def test_a_call_that_is_cancelled(guest: Guest, network: VirtualNetwork) -> None:
    guest.stack.connections.listeners[GUEST, PORT] = lambda *_: None
    task = guest.loop.start(network.create_connection(Recorder, DEVICE, PORT))
    guest.loop.run()
    task.cancel()
    guest.loop.run()
    assert task.cancelled()
    assert not guest.host.connections.find
    guest.stack.connections.find.clear()


def test_the_network_ends_while_a_connection_is_made(guest: Guest, network: VirtualNetwork) -> None:
    guest.stack.connections.listeners[GUEST, PORT] = lambda *_: None
    task = guest.loop.start(network.create_connection(Recorder, DEVICE, PORT))
    guest.loop.run()
    network.close()
    guest.loop.run()
    with pytest.raises(ConnectionAbortedError):
        task.result()
    guest.stack.connections.find.clear()


# Back-pressure


def test_a_reader_that_pauses_closes_the_window(pair: Pair, guest: Guest) -> None:
    pair.transport.pause_reading()
    assert not pair.transport.is_reading()
    pair.far.send(LARGE)
    for _ in range(20):
        guest.tick(1)
    connection = pair.transport.connection
    assert connection is not None
    assert pair.near.data == b""
    assert 0 <= connection.rcv_held - RECEIVE_BUFFER < 1024, "the window, which is rounded up"
    pair.transport.resume_reading()
    for _ in range(20):
        guest.tick(1)
    assert pair.near.data == LARGE
    assert max(pair.near.pieces) <= MAX_READ
    assert connection.rcv_held == 0


def test_a_reader_may_pause_in_between(pair: Pair, guest: Guest) -> None:
    received = pair.near.data_received

    def once(data: bytes) -> None:
        received(data)
        pair.transport.pause_reading()

    pair.near.data_received = once  # type: ignore[method-assign]
    pair.transport.pause_reading()
    pair.far.send(LARGE[: 3 * MAX_READ])
    pair.run()
    for count in range(1, 4):
        pair.transport.resume_reading()
        pair.run()
        assert pair.near.pieces == [MAX_READ] * count


def test_a_reader_that_pauses_is_not_told_the_end(pair: Pair) -> None:
    pair.transport.pause_reading()
    pair.far.shutdown()
    pair.run()
    assert pair.near.told == ["made"]
    pair.transport.resume_reading()
    pair.run()
    assert pair.near.told == ["made", "eof", "lost"]


def test_a_writer_is_paused_until_the_guest_reads(pair: Pair, guest: Guest) -> None:
    pair.far.reads = False
    pair.transport.write(LARGE)
    pair.run()
    waiting = pair.transport.get_write_buffer_size()
    assert pair.near.told == ["made", "pause"]
    assert waiting > len(LARGE) - 2 * RECEIVE_BUFFER
    assert guest.host.connections.pool.used <= RECEIVE_BUFFER
    pair.far.read()
    for _ in range(20):
        guest.tick(1)
    assert pair.near.told == ["made", "pause", "resume"]
    assert pair.transport.get_write_buffer_size() == 0
    assert pair.far.data == LARGE


def test_a_writer_goes_on_before_more_is_read(pair: Pair) -> None:
    """A guest that sends without end must not keep it waiting."""
    pair.transport.set_write_buffer_limits(high=1000, low=0)
    pair.transport.pause_reading()
    pair.far.send(LARGE[: 3 * MAX_READ])
    pair.far.reads = False
    pair.transport.write(LARGE[: 2 * RECEIVE_BUFFER])
    pair.run()
    pair.far.read()
    while pair.transport.get_write_buffer_size():
        assert pair.loop.turn()
    pair.transport.resume_reading()
    pair.run()
    assert pair.near.told == ["made", "pause", "resume", "data", "data", "data"]


def test_many_small_writes_keep_their_order(pair: Pair) -> None:
    expected = b""
    for number in range(3000):
        piece = str(number).encode() * 50
        expected += piece
        pair.transport.write(piece if number % 2 else bytearray(piece))
    pair.transport.writelines([b"the ", memoryview(b"end")])
    pair.run()
    assert pair.far.data == expected + b"the end"


def test_marks_of_the_buffer(pair: Pair) -> None:
    transport = pair.transport
    assert transport.get_write_buffer_limits() == (HIGH_WATER // 4, HIGH_WATER)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    with pytest.raises(ValueError, match="high"):
        transport.set_write_buffer_limits(high=1, low=2)


# The end


def test_the_guest_ends(pair: Pair, guest: Guest) -> None:
    pair.far.send(b"last words")
    pair.far.shutdown()
    pair.run()
    assert pair.near.data == b"last words"
    assert pair.near.told == ["made", "data", "eof", "lost"]
    assert pair.near.lost == [None]
    assert pair.far.told == ["established", "eof", "DONE"]
    gone(guest)


def test_the_guest_ends_and_still_reads(half_open: Pair, guest: Guest) -> None:
    pair = half_open
    pair.far.shutdown()
    pair.run()
    assert pair.near.told == ["made", "eof"]
    pair.transport.write(b"answer")
    pair.transport.close()
    pair.run()
    assert pair.far.data == b"answer"
    assert pair.near.lost == [None]
    assert pair.far.told == ["established", "eof", "DONE"]
    gone(guest)


def test_the_protocol_ends_and_still_reads(pair: Pair, guest: Guest) -> None:
    assert pair.transport.can_write_eof()
    pair.transport.write(b"question")
    pair.transport.write_eof()
    pair.transport.write_eof()
    pair.run()
    assert (pair.far.data, pair.far.told) == (b"question", ["established", "eof"])
    pair.far.send(b"answer")
    pair.far.shutdown()
    pair.run()
    assert pair.near.data == b"answer"
    assert pair.near.told == ["made", "data", "eof", "lost"]
    gone(guest)


def test_an_end_waits_for_what_was_written(half_open: Pair, guest: Guest) -> None:
    pair = half_open
    pair.far.reads = False
    pair.transport.write(LARGE)
    pair.transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        pair.transport.write(b"more")
    pair.run()
    assert "eof" not in pair.far.told
    pair.far.read()
    for _ in range(20):
        guest.tick(1)
    assert pair.far.data == LARGE
    assert pair.far.told == ["established", "eof"]


def test_when_both_have_ended_it_waits_to_be_closed(half_open: Pair, guest: Guest) -> None:
    """`drain` behind `write_eof` must not fail because the guest was quick."""
    pair = half_open
    pair.transport.write_eof()
    pair.far.shutdown()
    pair.run()
    assert pair.near.told == ["made", "eof"]
    assert not pair.transport.is_closing()
    gone(guest)
    pair.transport.close()
    pair.run()
    assert pair.near.lost == [None]


def test_data_behind_which_all_has_ended_is_still_read(half_open: Pair, guest: Guest) -> None:
    pair = half_open
    pair.transport.write_eof()
    pair.transport.pause_reading()
    pair.far.send(b"late")
    pair.far.shutdown()
    pair.run()
    gone(guest)
    assert pair.near.told == ["made"]
    pair.transport.resume_reading()
    pair.run()
    assert (pair.near.data, pair.near.told) == (b"late", ["made", "data", "eof"])


def test_close_sends_what_was_written(pair: Pair, guest: Guest) -> None:
    pair.far.reads = False
    pair.transport.write(LARGE)
    pair.transport.close()
    pair.transport.close()
    pair.transport.write(b"too late")
    pair.run()
    assert pair.transport.is_closing()
    assert pair.near.lost == []
    pair.far.read()
    for _ in range(20):
        guest.tick(1)
    assert pair.far.data == LARGE
    assert pair.near.lost == [None]
    pair.far.shutdown()
    pair.run()
    assert pair.far.told == ["established", "eof", "DONE"]
    gone(guest)


def test_close_with_unread_data_resets(pair: Pair, guest: Guest) -> None:
    pair.transport.pause_reading()
    pair.far.send(b"unread")
    pair.run()
    pair.transport.close()
    pair.run()
    assert pair.far.told == ["established", "RESET"]
    assert pair.near.lost == [None]
    gone(guest)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_reader_that_ends_is_given_no_more(pair: Pair, end: str) -> None:
    received = pair.near.data_received

    def once(data: bytes) -> None:
        received(data)
        getattr(pair.transport, end)()

    pair.near.data_received = once  # type: ignore[method-assign]
    pair.transport.pause_reading()
    pair.far.send(LARGE[: 3 * MAX_READ])
    pair.run()
    pair.transport.resume_reading()
    pair.run()
    assert pair.near.pieces == [MAX_READ]
    assert pair.far.told == ["established", "RESET"]


def test_data_that_comes_while_it_closes_resets(pair: Pair, guest: Guest) -> None:
    pair.far.reads = False
    pair.transport.write(LARGE)
    pair.transport.close()
    pair.run()
    pair.far.send(b"nobody reads this")
    pair.run()
    assert "data" not in pair.near.told
    pair.far.read()
    for _ in range(20):
        guest.tick(1)
    assert pair.far.told == ["established", "RESET"]
    gone(guest)


def test_data_that_comes_after_it_has_closed_resets(pair: Pair, guest: Guest) -> None:
    pair.transport.close()
    pair.run()
    pair.far.send(b"nobody reads this")
    pair.run()
    assert pair.far.told == ["established", "eof", "RESET"]
    gone(guest)


def test_abort_resets(pair: Pair, guest: Guest) -> None:
    pair.far.reads = False
    pair.transport.write(LARGE)
    pair.transport.abort()
    pair.transport.abort()
    assert pair.near.lost == [], "never from within the call"
    assert pair.transport.get_write_buffer_size() == 0
    pair.run()
    assert pair.near.lost == [None]
    assert pair.far.told == ["established", "RESET"]
    gone(guest)


def test_the_guest_resets(pair: Pair, guest: Guest) -> None:
    pair.far.send(b"before")
    pair.far.reset()
    pair.run()
    assert pair.near.data == b"before"
    (error,) = pair.near.lost
    assert isinstance(error, ConnectionResetError)
    assert pair.near.told == ["made", "data", "lost"]
    pair.transport.write(b"to nobody")
    pair.transport.close()
    pair.run()
    gone(guest)


def test_to_abort_what_was_reset(pair: Pair) -> None:
    pair.far.reset()
    while pair.transport.connection is not None:
        pair.loop.turn()
    pair.transport.abort()
    pair.run()
    (error,) = pair.near.lost
    assert isinstance(error, ConnectionResetError)


def test_the_guest_resets_a_paused_writer(pair: Pair, guest: Guest) -> None:
    pair.far.reads = False
    pair.transport.write(LARGE)
    pair.run()
    pair.far.reset()
    pair.run()
    assert pair.near.told == ["made", "pause", "lost"], "to resume would say that it was sent"
    gone(guest)


def test_the_guest_is_silent(pair: Pair, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest.host_port, "send", lambda *_: None)
    pair.transport.write(b"is anybody there?")
    for _ in range(1000):
        guest.tick(1)
        if pair.near.lost:
            break
    (error,) = pair.near.lost
    assert isinstance(error, TimeoutError)
    guest.stack.connections.find.clear()


def test_the_network_ends(pair: Pair, guest: Guest, network: VirtualNetwork) -> None:
    network.close()
    pair.run()
    assert pair.far.told == ["established", "RESET"]
    assert pair.near.lost == [None]
    gone(guest)


# Protocols


class Answering(Recorder):
    """Does all it can from within what it is told."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(b"you said " + data)
        self.transport.close()


def test_a_protocol_may_answer_at_once(guest: Guest, network: VirtualNetwork) -> None:
    far = Socket(guest)
    guest.stack.connections.listeners[GUEST, PORT] = far.accept
    _, near = guest.loop.complete(network.create_connection(Answering, DEVICE, PORT))
    guest.loop.run()
    far.send(b"good day")
    guest.loop.run()
    assert far.data == b"helloyou said good day"
    far.shutdown()
    guest.loop.run()
    assert near.told == ["made", "data", "lost"]
    gone(guest)


def test_a_protocol_may_change(pair: Pair) -> None:
    other = Recorder()
    pair.transport.set_protocol(other)
    assert pair.transport.get_protocol() is other
    pair.far.send(b"for the other")
    pair.run()
    assert (pair.near.data, other.data) == (b"", b"for the other")


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
def test_a_protocol_that_fails(pair: Pair, guest: Guest, method: str) -> None:
    error = ZeroDivisionError("broken")

    def broken(*_: object) -> None:
        raise error

    setattr(pair.near, method, broken)
    pair.far.send(b"data")
    pair.far.shutdown()
    pair.run()
    (complaint,) = guest.loop.complaints
    assert (complaint["exception"], complaint["protocol"]) == (error, pair.near)
    assert pair.near.lost == [error]
    assert pair.far.told[-1] == "RESET"
    gone(guest)


def test_a_protocol_that_cannot_be_made(guest: Guest, network: VirtualNetwork) -> None:
    def broken() -> Recorder:
        raise ZeroDivisionError("broken")

    far = Socket(guest)
    guest.stack.connections.listeners[GUEST, PORT] = far.accept
    with pytest.raises(ZeroDivisionError):
        guest.loop.complete(network.create_connection(broken, DEVICE, PORT))
    assert far.told == ["established", "RESET"]


def test_only_bytes_are_written(pair: Pair) -> None:
    with pytest.raises(TypeError, match="bytes-like object, not str"):
        pair.transport.write("text")  # type: ignore[arg-type]
    pair.transport.write(b"")
    pair.run()
    assert pair.far.data == b""


# Nothing is left


def closed(near: VirtualTransport, far: Socket) -> None:
    near.close()
    far.shutdown()


def closed_by_the_guest(near: VirtualTransport, far: Socket) -> None:
    far.send(b"data")
    far.shutdown()


def closed_in_mid_stream(near: VirtualTransport, far: Socket) -> None:
    far.reads = False
    near.write(LARGE)
    near.close()
    far.reset()


def closed_with_unread_data(near: VirtualTransport, far: Socket) -> None:
    near.pause_reading()
    far.send(b"unread")
    near.close()


def half_closed(near: VirtualTransport, far: Socket) -> None:
    near.write_eof()
    far.send(b"answer")
    far.shutdown()


def aborted(near: VirtualTransport, far: Socket) -> None:
    near.write(b"data")
    near.abort()


def reset(near: VirtualTransport, far: Socket) -> None:
    far.send(b"data")
    far.reset()


def reset_while_paused(near: VirtualTransport, far: Socket) -> None:
    near.pause_reading()
    far.send(b"data")
    far.reset()


ENDINGS = [
    *(closed, closed_by_the_guest, closed_in_mid_stream, closed_with_unread_data),
    *(half_closed, aborted, reset, reset_while_paused),
]


def test_nothing_is_left(guest: Guest, network: VirtualNetwork) -> None:
    """Each ending 250 times, of connections from the gateway and to it."""
    near: list[Recorder] = []

    def factory() -> Recorder:
        near.append(Recorder())
        return near[-1]

    server = guest.loop.complete(network.create_server(factory, "192.168.127.1", PORT))
    for round_ in range(250):
        for ending in ENDINGS:
            far = Socket(guest)
            if round_ % 2:
                guest.stack.connections.listeners[GUEST, PORT] = far.accept
                guest.loop.complete(network.create_connection(factory, DEVICE, PORT))
                guest.loop.run()
            else:
                far = guest.connect(GATEWAY, PORT)
                guest.loop.run()
            ending(near[-1].transport, far)
            guest.loop.run()
            assert len(near[-1].lost) == 1, ending.__name__
        guest.tick(3)
    server.close()
    assert len(near) == 2000
    assert server._quota.used == 0
    gone(guest)
    assert guest.loop.idle
