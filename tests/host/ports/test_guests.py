"""How many guests there may be, and who is said to be at the other end of their connections."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gvproxy.limits import Limits
from gvproxy.ports.datagram import GREETING, SEARCH_INTERVAL, DatagramListener
from gvproxy.ports.guestport import GuestPort
from gvproxy.ports.guests import AWAY, LINES, SWEEP_INTERVAL, Guests, peer_of
from gvproxy.stack.connections import DROPS
from gvproxy.wire.tcp import SYN
from tests.host.stack.bench import OUTSIDE, Bench, arp, tcp
from tests.manual_loop import ManualLoop


class Connection(socket.socket):
    """A socket of which another system tells the family and the peer."""

    told: tuple[object, ...]

    @property
    def family(self) -> int:  # type: ignore[override]
        return 34

    def getpeername(self) -> tuple[object, ...]:
        return self.told


@pytest.mark.parametrize(
    ("address", "peer", "identity"),
    [
        ((3, 1024), "cid 3", "cid 3"),
        (("127.0.0.1", 80), "127.0.0.1:80", "host 127.0.0.1"),
        (("::1", 80, 0, 0), "::1:80", "host ::1"),
        (
            ("0cd1f6b4-5cfb-4a8b-a0cf-3f1b1dd4d9a5", "00000400-facb-11e6-bd58-64006a7986d3"),
            "vm 0cd1f6b4-5cfb-4a8b-a0cf-3f1b1dd4d9a5",
            "vm 0cd1f6b4-5cfb-4a8b-a0cf-3f1b1dd4d9a5",
        ),
    ],
)
def test_the_peer(address: tuple[object, ...], peer: str, identity: str) -> None:
    with Connection() as sock:
        sock.told = address
        assert peer_of(sock) == (peer, identity)


def test_the_peer_at_a_unix_socket_is_a_process_and_comes_back_as_its_user() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_of(one) == (f"process {os.getpid()}", f"user {os.getuid()}")


def test_a_peer_that_has_gone_is_nobody() -> None:
    with socket.socket() as sock:
        assert peer_of(sock) == ("", "")


@pytest.fixture
def few() -> tuple[Guests, ManualLoop]:
    """Return guests of which there may be two, and there is one."""
    loop = ManualLoop()
    return Guests(Bench().stack, loop.as_loop(), lambda port: None, Limits(guests=2)), loop


Attach = Callable[[Guests, socket.socket], object]
KINDS = {
    "stream": (socket.SOCK_STREAM, lambda few, sock: few.attach_stream(sock)),
    "packets": (socket.SOCK_SEQPACKET, lambda few, sock: few.attach_packets(sock, dialect="bess")),
}


@pytest.mark.parametrize("name", KINDS)
def test_there_are_not_too_many(
    few: tuple[Guests, ManualLoop], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    attached, loop = few
    kind, attach = KINDS[name]
    with contextlib.ExitStack() as stack:
        for refused in (False, True, True):
            here, there = socket.socketpair(socket.AF_UNIX, kind)
            stack.enter_context(there)
            here.setblocking(False)
            assert (attach(attached, here) is None) is refused
            if refused:
                assert there.recv(10) == b""
        assert caplog.messages == ["a guest is refused: there are 2"]
        attached.close()
        here, there = socket.socketpair(socket.AF_UNIX, kind)
        stack.enter_context(there)
        assert attach(attached, here) is not None
        attached.close()
    assert loop.idle


def test_a_guest_of_datagrams_is_taken_once_there_is_room(
    few: tuple[Guests, ManualLoop], tmp_path: Path
) -> None:
    attached, loop = few
    here, there = socket.socketpair()
    port = attached.attach_stream(here)
    assert port is not None
    with (
        there,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest,
    ):
        for sock, name in ((listener, "listener"), (guest, "guest")):
            sock.bind(str(tmp_path / name))
        listener.setblocking(False)
        attach = partial(attached.attach_datagrams, dialect="vfkit")
        frames = DatagramListener(loop.as_loop(), listener, attach)
        for expected in (1, 2):
            guest.sendto(arp(bytes(4)), str(tmp_path / "listener"))
            loop.run()
            assert len(attached.ports) == expected - (expected == 2)
            port.close("it goes")
        frames.close()
    assert loop.idle


def test_guests_of_datagrams_that_have_left_make_room(
    few: tuple[Guests, ManualLoop], tmp_path: Path
) -> None:
    """Nothing told that they went, for nothing was sent to them."""
    attached, loop = few
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest,
    ):
        listener.bind(str(tmp_path / "listener"))
        listener.setblocking(False)
        attach = partial(attached.attach_datagrams, dialect="vfkit")
        frames = DatagramListener(loop.as_loop(), listener, attach)

        def come(sock: socket.socket, name: str) -> list[str]:
            sock.bind(str(tmp_path / name))
            sock.connect(str(tmp_path / "listener"))
            sock.send(GREETING)
            loop.advance(SEARCH_INTERVAL)
            loop.run()
            return [port.peer for port in attached.ports]

        for name in ("closed", "removed"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as leaves:
                before = come(leaves, name)
        (tmp_path / "removed").unlink()
        assert len(before) == 1, "there is room for one"
        (peer,) = come(guest, "stays")
        assert "stays" in peer
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            assert come(other, "other") == [peer], "one that is there stays"
        frames.close()
    assert loop.idle


@contextlib.contextmanager
def link(guests: Guests) -> Iterator[GuestPort]:
    """Have another guest, and return its port."""
    here, there = socket.socketpair()
    here.setblocking(False)
    with there:
        port = guests.attach_stream(here)
        assert port is not None
        yield port


def _with_connections(count: int) -> tuple[Bench, Guests, ManualLoop]:
    """Return the guests of a network of which one has opened connections, and has gone."""
    bench, loop = Bench(), ManualLoop()
    bench.stack.connections.forward = lambda connection, path, now: None
    attached = Guests(bench.stack, loop.as_loop(), lambda port: None)
    with link(attached) as port:
        frames = [
            memoryview(tcp(flags=SYN, sport=1000 + n, destination=OUTSIDE)) for n in range(count)
        ]
        while frames:
            del frames[: bench.stack.receive(port, frames, loop.now)]
        port.close("it goes")
    return bench, attached, loop


def test_connections_of_a_guest_that_has_gone_for_good_end() -> None:
    bench, _, loop = _with_connections(DROPS + 1)
    loop.advance(AWAY - 1)
    assert len(bench.stack.connections.find) == DROPS + 1
    loop.advance(1)
    assert not bench.stack.connections.find
    assert loop.idle


def test_connections_of_a_guest_that_comes_back_stay() -> None:
    bench, attached, loop = _with_connections(2)
    with link(attached) as port:
        bench.stack.receive(port, [memoryview(arp(bytes(4)))], loop.now)
        loop.advance(AWAY)
        assert len(bench.stack.connections.find) == 2
        attached.close()


def test_connections_of_a_guest_that_has_come_back_and_gone_end() -> None:
    bench, attached, loop = _with_connections(2)
    with link(attached) as port:
        bench.stack.receive(port, [memoryview(arp(bytes(4)))], loop.now)
        loop.advance(AWAY)
        attached.close()
    loop.advance(AWAY - 1)
    assert len(bench.stack.connections.find) == 2
    loop.advance(1)
    assert not bench.stack.connections.find
    assert loop.idle


def test_guests_that_come_and_leave_are_not_searched_for_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, attached, loop = _with_connections(1)
    searched: list[int] = []
    search = bench.stack.connections.drop_deserted

    def count(before: float, now: float) -> float:
        held = len(bench.stack.connections.find)
        left = search(before, now)
        searched.append(held - len(bench.stack.connections.find))
        return left

    monkeypatch.setattr(bench.stack.connections, "drop_deserted", count)
    for number in range(20):
        with link(attached) as port:
            mac = bytes((2, 0, 0, 0, 0, number))
            frame = tcp(flags=SYN, sport=2000 + number, destination=OUTSIDE, mac=mac)
            bench.stack.receive(port, [memoryview(frame)], loop.now)
            port.close("it goes")
        loop.advance(SWEEP_INTERVAL / 10)
    loop.advance(AWAY + SWEEP_INTERVAL)
    assert sum(searched) == 21
    assert len(searched) <= 4
    assert loop.idle


def test_guests_that_come_and_leave_fill_no_log(
    few: tuple[Guests, ManualLoop], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for _ in range(LINES + 1):
        with link(few[0]) as port:
            port.close("it goes")
    assert len(caplog.messages) == 2 * LINES
