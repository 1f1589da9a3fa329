"""Tunnels: what the caller is told, and that both ends go the same way."""

import logging
import socket
from collections.abc import Iterator

import pytest
import uvloop

from gvproxy.api.tunnel import Tunnels
from taplink import deafness
from taplink.upgrade import RequestReader
from tests.host.flows.guest import GUEST, Guest, Socket, is_reset, linger_reset
from tests.manual_loop import ManualLoop

PORT = 22
TARGET = f"/tunnel?ip=192.168.127.2&port={PORT}"
TIMEOUT = 30.0
LARGE = bytes(range(256)) * 4096 * 12


@pytest.fixture(scope="session", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


class Bench:
    """A guest with a port, and callers at the daemon's socket."""

    def __init__(self, limit: int = 4096) -> None:
        self.loop = ManualLoop()
        self.guest = Guest(self.loop, tcp_limit=limit)
        self.far = Socket(self.guest)
        self.guest.stack.connections.listeners[GUEST, PORT] = self.far.accept
        host = self.guest.host
        self.tunnels = Tunnels(host, self.loop.as_loop(), self.guest.tcp, TIMEOUT)

    def ask(
        self, target: str = TARGET, rest: bytes = b"", family: socket.AddressFamily = socket.AF_UNIX
    ) -> socket.socket:
        """Ask for a tunnel; returns the caller's socket."""
        if family is socket.AF_UNIX:
            caller, ours = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                caller = socket.create_connection(listener.getsockname())
                ours, _ = listener.accept()
        ours.setblocking(False)
        caller.settimeout(10)
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        request = RequestReader().feed(head + rest)
        assert request is not None
        self.tunnels.open(ours, request)
        return caller

    def tunnel(
        self, family: socket.AddressFamily = socket.AF_UNIX, *, reads: bool = True
    ) -> socket.socket:
        """Return the caller's socket of a tunnel that is open."""
        self.far.reads = reads
        caller = self.ask(family=family)
        self.loop.run()
        assert caller.recv(2) == b"OK"
        return caller

    def close(self) -> None:
        self.tunnels.close()
        assert not self.tunnels.opening
        self.guest.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def answer(caller: socket.socket) -> tuple[int, str]:
    """Read the HTTP response that ends with its connection; returns status and body."""
    data = b""
    with caller:
        while piece := caller.recv(4096):
            data += piece
    head, _, body = data.decode().partition("\r\n\r\n")
    lines = head.split("\r\n")
    assert f"Content-Length: {len(body)}" in lines
    assert body.endswith("\n")
    assert body.count("\n") == 1
    return int(lines[0].split()[1]), body[:-1]


# The beginning


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_ok_and_then_the_stream(bench: Bench, family: socket.AddressFamily) -> None:
    with bench.ask(family=family, rest=b"early, ") as caller:
        caller.sendall(b"and late")
        bench.loop.until(lambda: bench.far.data.endswith(b"late"))
        bench.far.send(b"SSH-2.0-guest\r\n")
        bench.loop.run()
        assert caller.recv(100) == b"OKSSH-2.0-guest\r\n"
        assert bench.far.data == b"early, and late"
        assert not bench.tunnels.opening
        bench.loop.advance(deafness.INTERVAL)
        assert bench.loop.timers == []


def test_nothing_is_said_before_the_guest_answers(bench: Bench) -> None:
    with bench.ask() as caller:
        caller.setblocking(False)
        with pytest.raises(BlockingIOError):
            caller.recv(1)
        assert len(bench.tunnels.opening) == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "ip '' is no IPv4 address"),
        ("?ip=guest&port=22", "ip 'guest' is no IPv4 address"),
        ("?ip=::1&port=22", "ip '::1' is no IPv4 address"),
        ("?ip=%0A%00&port=22", "ip '\\n\\x00' is no IPv4 address"),
        ("?ip=192.168.127.2", "port '' is not a number from 1 to 65535"),
        ("?ip=192.168.127.2&port=0", "port '0' is not a number from 1 to 65535"),
        ("?ip=192.168.127.2&port=65536", "port '65536' is not a number from 1 to 65535"),
        ("?ip=192.168.127.2&port=ssh", "port 'ssh' is not a number from 1 to 65535"),
        ("?ip=192.168.127.1&port=22", "192.168.127.1 is no address of a guest"),
        ("?ip=192.168.127.255&port=22", "192.168.127.255 is no address of a guest"),
        ("?ip=9.9.9.9&port=22", "9.9.9.9 is no address of a guest"),
    ],
)
def test_no_destination(
    bench: Bench, query: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")
    assert answer(bench.ask(f"/tunnel{query}", b"unread")) == (400, said)
    assert caplog.messages == [f"no tunnel: {said}"]


def test_what_is_unread_does_not_hide_the_answer(bench: Bench) -> None:
    caller = bench.ask("/tunnel", family=socket.AF_INET)
    assert answer(caller)[0] == 400
    bench.guest.stack.connections.listeners.clear()
    caller = bench.ask(family=socket.AF_INET)
    caller.sendall(b"SSH-2.0-eager\r\n")
    bench.loop.run()
    assert answer(caller) == (502, "192.168.127.2:22 refuses the connection")


def test_nobody_there(bench: Bench) -> None:
    caller = bench.ask("/tunnel?ip=192.168.127.99&port=22")
    for _ in range(4):
        bench.guest.tick(1)
    assert answer(caller) == (502, "no guest answers for 192.168.127.99:22")


def test_no_answer(bench: Bench) -> None:
    bench.guest.stack.connections.listeners[GUEST, PORT] = lambda *_: None
    caller = bench.ask()
    bench.guest.tick(TIMEOUT - 1)
    assert len(bench.tunnels.opening) == 1
    bench.guest.tick(1)
    assert answer(caller) == (504, "192.168.127.2:22 does not answer")
    assert not bench.guest.host.connections.find


def test_too_many() -> None:
    bench = Bench(limit=1)
    with bench.tunnel():
        assert answer(bench.ask()) == (503, "there are too many connections")
    bench.loop.run()
    bench.close()


def test_no_port_is_free(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_free(*_: object) -> None:
        raise OSError("no free port toward the guest")

    monkeypatch.setattr(bench.guest.host.connections, "open", none_free)
    assert answer(bench.ask()) == (503, "no free port toward the guest")


def test_the_daemon_ends(bench: Bench) -> None:
    waiting = bench.ask()
    bench.tunnels.close()
    assert answer(waiting) == (503, "gvproxy ends")


def test_a_caller_that_has_gone(bench: Bench) -> None:
    bench.ask().close()
    bench.loop.run()
    assert bench.far.told == ["established", "eof"]
    bench.far.send(b"anybody?")
    bench.loop.run()
    assert bench.far.told == ["established", "eof", "RESET"]
    assert not bench.guest.tcp.open


def test_a_guest_that_has_gone_at_once(bench: Bench) -> None:
    def reset(*where: object) -> None:
        bench.far.accept(*where)  # type: ignore[arg-type]
        bench.far.reset()

    bench.guest.stack.connections.listeners[GUEST, PORT] = reset
    with bench.ask(rest=b"for nobody") as caller:
        bench.loop.run()
        assert caller.recv(3) == b"OK"
        assert caller.recv(1) == b""


# The end


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_half_closes_pass_both_ways(bench: Bench, family: socket.AddressFamily) -> None:
    with bench.tunnel(family) as caller:
        caller.sendall(b"question")
        caller.shutdown(socket.SHUT_WR)
        bench.loop.until(lambda: "eof" in bench.far.told)
        assert bench.far.data == b"question"
        bench.guest.tick(1)
        bench.far.send(b"answer")
        bench.far.shutdown()
        bench.loop.run()
        assert caller.recv(100) == b"answer"
        assert caller.recv(100) == b""
    assert not bench.guest.tcp.open


def test_the_guest_ends_first(bench: Bench) -> None:
    with bench.tunnel() as caller:
        bench.far.shutdown()
        bench.loop.run()
        assert caller.recv(1) == b""
        caller.sendall(b"still heard")
        bench.loop.until(lambda: bench.far.data)
        assert bench.far.data == b"still heard"


def test_a_caller_that_closes_has_sent_all(bench: Bench) -> None:
    """Over a unix socket as well, where that looks like the end of both directions."""
    caller = bench.tunnel(reads=False)
    caller.setblocking(False)
    sent = 0
    while sent < 4 << 20:
        try:
            sent += caller.send(LARGE[sent : 4 << 20])
        except BlockingIOError:
            if not bench.loop.turn():
                break
    caller.close()
    bench.loop.run()
    bench.guest.tick(1)
    bench.far.read()
    for _ in range(5):
        bench.guest.tick(1)
    assert bench.far.data == LARGE[:sent]
    assert bench.far.told == ["established", "eof"]


def test_the_guest_resets(bench: Bench) -> None:
    with bench.tunnel(socket.AF_INET) as caller:
        bench.far.reset()
        bench.loop.run()
        assert is_reset(caller)


def test_the_caller_resets(bench: Bench) -> None:
    linger_reset(bench.tunnel(socket.AF_INET))
    bench.loop.until(lambda: len(bench.far.told) > 1)
    assert bench.far.told == ["established", "RESET"]


def test_a_caller_that_closes_without_reading_resets(bench: Bench) -> None:
    caller = bench.tunnel()
    bench.far.send(b"unread")
    bench.loop.run()
    caller.close()
    bench.loop.until(lambda: len(bench.far.told) > 1)
    assert bench.far.told == ["established", "RESET"]
