"""Guests behind sockets that keep frames apart: connected ones, and those that share a socket."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from gvproxy.ports.datagram import GREETING, RETRY_INTERVAL, DatagramListener, DatagramPort
from gvproxy.ports.fairness import MAX_PAUSE
from gvproxy.ports.guestport import HIGH_WATER, LIMIT, GuestPort
from gvproxy.ports.packet import FRAMES_PER_WAKEUP, PacketPort
from gvproxy.stack.stack import Stack
from taplink import vnet
from taplink.framing import MAX_FRAME
from tests.host.ports.costs import Costs
from tests.manual_loop import ManualLoop

from .test_stream import FakeStack


class Bench:
    """A port of each kind, and the guest's socket; `dead` cuts the guest off."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.loop = ManualLoop()
        self.stack = FakeStack()
        self.reasons: list[str] = []
        self.kind = kind
        self.listener: DatagramListener | None = None
        self.port: GuestPort
        if kind == "packets":
            ours, self.guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            port = PacketPort(ours, cast(Stack, self.stack), self.loop.as_loop(), self.closed)
            port.start()
            self.port = port
        else:
            ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            ours.bind(str(folder / "s"))
            ours.setblocking(False)
            self.listener = DatagramListener(self.loop.as_loop(), ours, self.attach)
            self.guest = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.guest.bind(str(folder / "guest"))
            self.guest.connect(str(folder / "s"))
            self.guest.send(GREETING)
            self.loop.run()
        self.guest.settimeout(10)

    def attach(self, sock: socket.socket, peer: str | bytes) -> DatagramPort:
        port = DatagramPort(sock, peer, cast(Stack, self.stack), self.loop.as_loop(), self.closed)
        port.start()
        self.port = port
        return port

    def closed(self, port: GuestPort, why: str) -> None:
        self.reasons.append(why)

    def send(self, frame: bytes) -> None:
        self.port.send(vnet.PLAIN, frame[:4], memoryview(frame)[4:])

    def fill(self) -> int:
        """Send until the guest's socket takes no more; return how many frames it has."""
        count = 0
        while not self.port._blocked:
            self.send(b"%06d" % count * 200)
            count += 1
        return count - 1

    def read(self, count: int) -> list[bytes]:
        return [self.guest.recv(MAX_FRAME) for _ in range(count)]

    def close(self) -> None:
        self.port.close("the test is over")
        if self.listener is not None:
            self.listener.close()
        self.guest.close()
        assert self.loop.idle


@pytest.fixture(params=["packets", "datagrams"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, request.param)
    yield bench
    bench.close()


def test_frames_come_in_batches(bench: Bench) -> None:
    for number in range(5):
        bench.guest.send(b"frame %d" % number)
    bench.loop.turn()
    assert bench.stack.frames == [b"frame %d" % number for number in range(5)]
    assert bench.port.counters.frames_in == 5
    assert bench.port.counters.bytes_in == 35


def test_others_get_their_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    bench.stack.on_receive = lambda: batches.append(len(bench.stack.frames))
    sent = 0
    bench.guest.setblocking(False)
    while sent < 3 * FRAMES_PER_WAKEUP:
        try:
            bench.guest.send(b"x")
            sent += 1
        except BlockingIOError:
            bench.loop.turn()
    bench.loop.run()
    assert len(bench.stack.frames) == sent
    assert max(b - a for a, b in zip([0, *batches], batches, strict=False)) <= FRAMES_PER_WAKEUP


def test_costly_frames_wait_or_are_lost_while_others_are_busy(bench: Bench) -> None:
    bench.stack.frames.clear()
    Costs(bench.port, bench.stack, 100e-6).others_move(bench.loop)
    sent = 0
    while not bench.port.paused:
        bench.guest.send(b"x" * 60)
        sent += 1
        bench.loop.run()
    assert len(bench.stack.frames) == sent
    assert bench.port.counters.pauses == 1
    bench.guest.send(b"early")
    bench.loop.run()
    assert len(bench.stack.frames) == sent
    bench.loop.advance(MAX_PAUSE)
    bench.loop.run()
    waited = bench.kind == "packets"  # and others' frames are behind it where a socket is shared
    assert bench.stack.frames[sent:] == ([b"early"] if waited else [])
    bench.guest.send(b"later")
    bench.loop.advance(MAX_PAUSE)
    bench.loop.run()
    assert bench.stack.frames[-1] == b"later"
    assert bench.port.counters.dropped == (not waited)


@pytest.mark.parametrize("size", [5, 1514, 65_000])
def test_frames_leave_at_once_and_whole(bench: Bench, size: int) -> None:
    bench.send(b"h" * size)
    assert bench.guest.recv(MAX_FRAME) == b"h" * size
    bench.port.send(vnet.PLAIN, b"header only")
    assert bench.guest.recv(MAX_FRAME) == b"header only"
    assert bench.port.counters.frames_out == 2
    assert bench.port.counters.bytes_out == size + 11
    assert bench.loop.timers == []
    assert not bench.loop.writers


def test_what_the_guest_does_not_take_waits_in_order(bench: Bench) -> None:
    taken = bench.fill()
    for number in range(taken + 1, taken + 30):
        bench.send(b"%06d" % number * 200)
    got: list[bytes] = []
    while len(got) < taken + 30:
        got += bench.read(1)
        bench.loop.advance(RETRY_INTERVAL)
        bench.loop.run()
    assert [int(frame[:6]) for frame in got] == list(range(taken + 30))
    assert bench.port._size == 0
    assert not bench.port._blocked
    assert not bench.reasons


def test_nothing_spins_while_the_guest_does_not_read(bench: Bench) -> None:
    bench.fill()
    assert not bench.loop.turn()
    bench.loop.advance(10 * RETRY_INTERVAL)
    assert len(bench.loop.timers) <= 1
    assert not bench.loop.turn()


def test_a_guest_that_does_not_read_is_a_congested_port_that_drops(bench: Bench) -> None:
    bench.fill()
    frame = b"x" * 60_000
    while bench.port._size <= HIGH_WATER:
        assert not bench.port.congested
        bench.send(frame)
    assert bench.port.congested
    while not bench.port.counters.dropped:
        bench.send(frame)
    assert bench.port._size <= LIMIT + len(frame)
    while bench.port._size:
        bench.guest.recv(MAX_FRAME)
        bench.loop.advance(RETRY_INTERVAL)
        bench.loop.run()
    assert not bench.port.congested
    assert bench.stack.told == ["attach", "ready"]


def test_a_frame_that_is_too_long_is_dropped(bench: Bench) -> None:
    bench.send(b"x" * (MAX_FRAME + 1))
    assert bench.port.counters.dropped == 1


def test_one_that_the_system_does_not_take_is_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sendmsg(buffers: object) -> None:
        raise OSError(errno.EMSGSIZE, "too long")

    monkeypatch.setattr(bench.port, "_sendmsg", sendmsg)
    bench.send(b"x" * 60_000)
    assert bench.port.counters.dropped == 1
    assert not bench.port._blocked


def test_no_buffers_are_no_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS says so where Linux says EAGAIN."""
    real = bench.port._sendmsg  # type: ignore[attr-defined]

    def sendmsg(buffers: object) -> None:
        raise OSError(errno.ENOBUFS, "no buffer space")

    monkeypatch.setattr(bench.port, "_sendmsg", sendmsg)
    bench.send(b"waits")
    bench.loop.advance(RETRY_INTERVAL)
    assert bench.port._blocked
    monkeypatch.setattr(bench.port, "_sendmsg", real)
    bench.loop.advance(RETRY_INTERVAL)
    bench.loop.run()
    assert bench.guest.recv(100) == b"waits"


def test_a_guest_that_has_gone(bench: Bench) -> None:
    bench.guest.send(b"last")
    bench.guest.close()
    bench.loop.run()
    assert bench.stack.frames == [b"last"]
    if bench.kind == "datagrams":  # which shows when something is sent
        assert not bench.reasons
        bench.send(b"hello?")
        assert not bench.reasons, "whoever sends is in the midst of it"
        bench.loop.advance(RETRY_INTERVAL)
        assert bench.reasons == ["Connection refused"]
    else:
        assert bench.reasons == ["the guest has closed its end"]
    assert bench.port.gone
    bench.send(b"nobody")
    assert bench.port.counters.dropped == 1
    assert bench.stack.told == ["attach", "detach"]


# Those that share a socket


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, "datagrams")
    yield bench
    bench.close()


def another(folder: Path, name: str) -> socket.socket:
    guest = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    guest.settimeout(10)
    if name:
        guest.bind(str(folder / name))
    guest.connect(str(folder / "s"))
    return guest


def test_the_greeting_is_no_frame(shared: Bench) -> None:
    assert shared.stack.told == ["attach"]
    assert shared.stack.frames == []
    assert shared.port.counters.frames_in == 0


def test_each_guest_has_a_port_and_hears_its_own(shared: Bench, tmp_path: Path) -> None:
    first = shared.port
    with another(tmp_path, "second") as guest:
        guest.send(b"no greeting")
        shared.guest.send(b"frame")
        shared.loop.run()
        second = shared.port
        assert second is not first
        first.send(vnet.PLAIN, b"for the first")
        second.send(vnet.PLAIN, b"for the second")
        assert shared.guest.recv(100) == b"for the first"
        assert guest.recv(100) == b"for the second"
        second.close("the test is over")
    assert (first.counters.frames_in, second.counters.frames_in) == (1, 1)


def test_a_guest_that_comes_back_has_a_new_port(shared: Bench, tmp_path: Path) -> None:
    first = shared.port
    shared.guest.close()
    (tmp_path / "guest").unlink()
    shared.send(b"hello?")
    shared.loop.advance(RETRY_INTERVAL)
    assert shared.reasons == ["No such file or directory"]
    shared.guest = another(tmp_path, "guest")
    shared.guest.send(GREETING)
    shared.loop.run()
    assert shared.port is not first
    shared.send(b"hello again")
    assert shared.guest.recv(100) == b"hello again"


def test_a_socket_without_an_address(
    shared: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with another(tmp_path, "") as guest:
        for _ in range(3):
            guest.send(b"frame")
        shared.loop.run()
    assert caplog.messages == ["frames are dropped: their socket is bound to no address"]
    assert shared.stack.told == ["attach"]
