"""The kernel has no memory for a call: what was asked for is lost, one line says so, and no more.

Each call of a socket's and of the loop's fails once with ENOMEM, wherever it is made.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from gvproxy.flows import tcp, udp
from gvproxy.limits import Limits
from gvproxy.ports.acceptor import Acceptor
from gvproxy.ports.guests import Guests
from gvproxy.ports.lobby import Lobby
from tests.host.flows.guest import GUEST, HOST, Guest
from tests.host.services import test_dns
from tests.host.stack.bench import Bench, arp
from tests.manual_loop import ManualLoop

NO_MEMORY = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


class Want:
    """What fails the next time, by its name; nothing where it is empty."""

    def __init__(self) -> None:
        self.of = ""
        self.met = 0

    def meet(self, name: str) -> None:
        if self.of == name:
            self.met += 1
            raise NO_MEMORY


want = Want()


class Poor(socket.socket):
    """A socket whose calls fail."""

    def __init__(self, *arguments: int, **named: int) -> None:
        want.meet("socket")
        super().__init__(*arguments, **named)


def _failing(name: str) -> Callable[..., object]:
    def call(self: Poor, *arguments: object) -> object:
        want.meet(name)
        return getattr(socket.socket, name)(self, *arguments)

    return call


SOCKET = [
    *("setsockopt", "getsockopt", "bind", "connect_ex", "send", "sendmsg", "sendto"),
    *("recv", "recvfrom", "recvmsg", "recvmsg_into", "recv_into", "shutdown", "accept"),
]
for _name in SOCKET:
    setattr(Poor, _name, _failing(_name))


def _connect_ex(self: Poor, address: tuple[str, int]) -> int:
    return errno.ENOMEM if want.of == "connect_ex" else socket.socket.connect_ex(self, address)


Poor.connect_ex = _connect_ex  # type: ignore[assignment]


class PoorLoop(ManualLoop):
    """A loop that cannot poll another descriptor."""

    def add_reader(
        self, file: int | socket.socket, callback: Callable[..., None], *args: object
    ) -> None:
        want.meet("add_reader")
        super().add_reader(file, callback, *args)

    def add_writer(self, fd: int, callback: Callable[..., None], *args: object) -> None:
        want.meet("add_writer")
        super().add_writer(fd, callback, *args)


ALL = pytest.mark.parametrize("call", ["socket", *SOCKET, "add_reader", "add_writer"])


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


@pytest.fixture
def lacking(call: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    names = {name: getattr(socket, name) for name in dir(socket)} | {"socket": Poor}
    for module in (tcp, udp):
        monkeypatch.setattr(module, "socket", SimpleNamespace(**names))
    want.met = 0
    yield call
    want.of = ""


def told_once(caplog: pytest.LogCaptureFixture) -> None:
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    texts = [record.getMessage() for record in said]
    assert len(texts) == len(set(texts))
    assert not [record for record in said if record.exc_info]


@ALL
def test_connections_of_a_guest(lacking: str, caplog: pytest.LogCaptureFixture) -> None:
    """In each of their moments; one that breaks does so at both ends."""
    loop = PoorLoop()
    guest = Guest(loop)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        for moment in range(3):
            want.of = lacking if moment == 0 else ""
            inside = guest.connect(HOST, server.getsockname()[1])
            loop.run()
            want.of = lacking if moment == 1 else ""
            inside.send(bytes(5_000_000))
            loop.run()
            want.of = ""
            for _ in range(20):
                guest.tick(0.5)
                if inside.told:
                    break
            if "RESET" in inside.told:
                drain(server)
                continue
            assert inside.told[0] == "established"
            outside = server.accept()[0]
            with outside:
                outside.settimeout(10)
                want.of = lacking if moment == 2 else ""
                with suppress(OSError):  # it is reset
                    outside.send(b"down")
                    loop.run()
                    outside.shutdown(socket.SHUT_WR)
                loop.run()
                want.of = ""
                guest.tick(1.0)
                assert inside.data in (b"", b"down")
                assert inside.told[-1] in ("RESET", "eof")
            inside.reset()
            loop.run()
        told_once(caplog)
        ends(guest, server)
    guest.close()


def drain(server: socket.socket) -> None:
    server.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
    server.settimeout(10)


def ends(guest: Guest, server: socket.socket) -> None:
    """Show that all is as if nothing had been."""
    guest.tick(60.0)
    drain(server)
    guest.tick(60.0)
    assert not guest.tcp.open
    assert not guest.quotas.half_open.used
    inside = guest.connect(HOST, server.getsockname()[1])
    guest.loop.until(lambda: inside.told)
    assert inside.told == ["established"]
    server.accept()[0].close()
    guest.tick(1.0)


@ALL
def test_connections_to_a_guest(lacking: str, caplog: pytest.LogCaptureFixture) -> None:
    loop = PoorLoop()
    guest = Guest(loop)
    here, there = socket.socketpair()
    with here:
        want.of = lacking
        guest.tcp.dial(Poor(fileno=there.detach()) if lacking != "socket" else there, GUEST, 80)
        loop.run()
        guest.tick(10.0)
        want.of = ""
        guest.tick(1.0)
    loop.run()
    assert not guest.tcp.open
    told_once(caplog)
    guest.close()


@ALL
def test_datagrams(lacking: str, caplog: pytest.LogCaptureFixture) -> None:
    loop = PoorLoop()
    guest = Guest(loop)
    got = guest.bind(5353)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(10)

        def send(payload: bytes) -> None:
            guest.send_to(HOST, peer.getsockname()[1], payload, 5353)
            loop.run()

        want.of = lacking
        for _ in range(3):
            send(b"lost")
        want.of = ""
        send(b"there")
        data, source = peer.recvfrom(10)
        while data != b"there":
            data, source = peer.recvfrom(10)
        want.of = lacking
        peer.sendto(b"lost as well", source)
        for _ in range(3):
            loop.turn()
        want.of = ""
        loop.advance(udp.SWEEP_INTERVAL)  # by when one that could not be polled has ended
        send(b"again")
        _, source = peer.recvfrom(10)
        peer.sendto(b"back", source)
        loop.until(lambda: got and got[-1][2] == b"back")
    told_once(caplog)
    guest.close()


@pytest.mark.parametrize("call", ["setsockopt", "recv_into", "recv", "sendmsg", "add_reader"])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_links(lacking: str, kind: socket.SocketKind) -> None:
    """One that cannot be made, or breaks, ends; it leaves nothing behind, and another may come."""
    loop = PoorLoop()
    bench = Bench()
    bench.stack.detach(bench.port, loop.now)
    stack = bench.stack
    left: list[object] = []
    guests = Guests(stack, loop.as_loop(), left.append, Limits())

    def come() -> tuple[socket.socket, object]:
        here, there = socket.socketpair(socket.AF_UNIX, kind)
        poor = Poor(fileno=there.detach())
        poor.setblocking(False)
        attach = guests.attach_stream
        if kind == socket.SOCK_SEQPACKET:
            attach = partial(guests.attach_packets, dialect="bess")  # type: ignore[assignment]
        return here, attach(poor)

    want.of = lacking
    here, _ = come()
    frame = arp(bytes(4))
    with here:
        try:
            length = len(frame).to_bytes(2, "little") if kind == socket.SOCK_STREAM else b""
            here.send(length + frame)
        except BrokenPipeError:
            pass
        for _ in range(5):
            loop.turn()
        want.of = ""
        loop.run()
    loop.run()
    assert not stack.switch.ports
    assert not guests.ports
    other, port = come()
    with other:
        assert guests.ports == [port]
        guests.close()
    loop.run()
    assert loop.idle


@pytest.mark.parametrize("call", ["accept", "add_reader", "recv", "setsockopt"])
def test_callers(lacking: str, caplog: pytest.LogCaptureFixture) -> None:
    loop = PoorLoop()
    lobby = Lobby(loop.as_loop())
    listener = Poor()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)

    def take(sock: socket.socket) -> None:
        lobby.enter(Poor(fileno=sock.detach()), "here", lambda data: None)

    acceptor = Acceptor(loop.as_loop(), listener, take)
    for wanted in (lacking, ""):
        want.of = wanted
        with socket.create_connection(listener.getsockname()) as client:
            client.send(b"x")
            for _ in range(5):
                loop.turn()
            want.of = ""
            loop.advance(1.0)
        loop.until(lambda: not lobby.waiting)
    acceptor.close()
    assert loop.idle
    told_once(caplog)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = test_dns.Bench(tmp_path)

    def add_reader(*_: object) -> None:
        raise NO_MEMORY

    with monkeypatch.context() as patch:
        patch.setattr(bench.loop, "add_reader", add_reader)
        bench.ask(test_dns.question())
    assert bench.rcodes() == ["SERVFAIL"]
    bench.ask(test_dns.question())
    assert bench.upstreams[0].answer(test_dns.respond) == 1
    bench.loop.until(lambda: len(bench.replies) == 2)
    assert bench.rcodes()[1] == "NOERROR"
    bench.close()
