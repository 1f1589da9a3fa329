"""What comes to a listening socket: heads in any pieces, garbage, silence, and no descriptors."""

import errno
import logging
import socket
from collections.abc import Iterator

import pytest

from gvproxy.ports import lobby
from gvproxy.ports.acceptor import FEW_PAUSE
from gvproxy.ports.access import Access
from gvproxy.ports.reception import Reception
from taplink.bearer import Bearer
from taplink.upgrade import Request
from tests.manual_loop import ManualLoop

WAITING = 110
CONNECT = b"POST /connect HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET = b"GET /stats?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Bench:
    def __init__(self, token: Bearer | None = None) -> None:
        self.loop = ManualLoop()
        self.links: list[tuple[socket.socket, Request]] = []
        self.tunnels: list[tuple[socket.socket, Request]] = []
        self.http: list[tuple[socket.socket, Request]] = []
        self.clients: list[socket.socket] = []
        self.access = Access(token)
        self.reception = Reception(
            self.loop.as_loop(),
            {
                "/connect": lambda sock, request: self.links.append((sock, request)),
                "/tunnel": lambda sock, request: self.tunnels.append((sock, request)),
            },
            lambda sock, request: self.http.append((sock, request)),
            self.access,
            WAITING,
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        self.reception.listen(self.listener, "tcp://here")

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address)
        client.settimeout(10)
        self.clients.append(client)
        return client

    def accepted(self, count: int = 1) -> list[socket.socket]:
        """Return connections whose head is being waited for."""
        clients = [self.connect() for _ in range(count)]
        self.loop.run()
        self.loop.advance(FEW_PAUSE * count)
        self.loop.until(lambda: len(self.reception._lobby.waiting) >= count)
        return clients

    def close(self) -> None:
        self.reception.close()
        assert self.loop.idle
        assert not self.reception._lobby.waiting
        for sock, _ in self.links + self.tunnels + self.http:
            assert not sock.getblocking()
            sock.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def ended(client: socket.socket) -> bytes:
    """Return what came before the end, or the reset that stands for it."""
    data = b""
    try:
        while piece := client.recv(1000):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize("rest", [b"", b"\x03\0abc\x02\0"])
def test_frames_may_follow_the_head_in_the_same_read(bench: Bench, rest: bytes) -> None:
    bench.connect().sendall(CONNECT + rest)
    bench.loop.until(lambda: bench.links)
    ((sock, request),) = bench.links
    assert (request.method, request.target, request.rest) == ("POST", "/connect", rest)
    assert sock.fileno() not in bench.loop.readers
    assert bench.loop.timers == []


def test_a_tunnels_bytes_may_follow_as_well(bench: Bench) -> None:
    bench.connect().sendall(CONNECT.replace(b"connect", b"tunnel?ip=1.2.3.4") + b"SSH-2.0-x")
    bench.loop.until(lambda: bench.tunnels)
    ((_, request),) = bench.tunnels
    assert (request.target, request.rest) == ("/tunnel?ip=1.2.3.4", b"SSH-2.0-x")


def test_a_head_may_come_byte_by_byte(bench: Bench) -> None:
    client = bench.connect()
    for byte in CONNECT:
        client.sendall(bytes((byte,)))
        bench.loop.run()
    bench.loop.until(lambda: bench.links)
    assert bench.links[0][1].head == CONNECT


def test_anything_else_is_http_with_what_was_read(bench: Bench) -> None:
    for head in (
        GET,
        b"POST /connections HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        CONNECT.replace(b"POST", b"GET"),
        CONNECT.replace(b"POST /connect", b"GET /tunnel"),
    ):
        bench.connect().sendall(head + b"body")
        bench.loop.until(lambda: bench.http)
        _, request = bench.http[-1]
        assert request.head + request.rest == head + b"body"
        bench.http.pop()[0].close()
    assert bench.links == bench.tunnels == []


def test_a_query_is_no_part_of_the_path(bench: Bench) -> None:
    bench.connect().sendall(CONNECT.replace(b"/connect", b"/connect?mtu=1500"))
    bench.loop.until(lambda: bench.links)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\0\x01",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"A" * 17_000,
    ],
)
def test_garbage_is_answered_and_ended(bench: Bench, garbage: bytes) -> None:
    (client,) = bench.accepted()
    client.sendall(garbage)
    bench.loop.until(lambda: not bench.reception._lobby.waiting)
    assert ended(client).startswith(b"HTTP/1.1 400 Bad Request\r\n") or len(garbage) > 16_384
    assert bench.links == bench.http == []


@pytest.mark.parametrize(
    ("sent", "belongs"),
    [
        (b"hello\r\n", ""),
        (b"\0\0\0\x0d" + bytes(13), ""),
        (b"\0\0\0\x2a" + bytes(42), "; frames such as QEMU's belong to -listen-qemu"),
        (b"\0\0\0\x2a", "; frames such as QEMU's belong to -listen-qemu"),
        (b"VMN3T" + bytes(44), "; vpnkit's guests belong to -listen-vpnkit"),
    ],
)
def test_who_is_refused_is_said_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, sent: bytes, belongs: str
) -> None:
    for _ in range(3):
        (client,) = bench.accepted()
        client.sendall(sent)
        bench.loop.until(lambda: not bench.reception._lobby.waiting)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"refused at tcp://here: what arrived is not an HTTP request{belongs}"
    )


def test_a_client_that_leaves_early(bench: Bench) -> None:
    clean, reset = bench.accepted(2)
    clean.sendall(CONNECT[:10])
    clean.close()
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    reset.close()
    bench.loop.until(lambda: not bench.reception._lobby.waiting)
    assert bench.loop.timers == []


def test_a_client_that_says_nothing_is_ended(bench: Bench) -> None:
    (client,) = bench.accepted()
    client.sendall(CONNECT[:10])
    bench.loop.run()
    bench.loop.advance(lobby.TIMEOUT - 0.1)
    assert bench.reception._lobby.waiting
    bench.loop.advance(0.1)
    assert not bench.reception._lobby.waiting
    assert ended(client) == b""


def test_the_oldest_of_many_gives_way(bench: Bench) -> None:
    first, *others = bench.accepted(WAITING)
    new = bench.connect()
    new.sendall(CONNECT)
    bench.loop.advance(FEW_PAUSE)
    bench.loop.until(lambda: bench.links)
    assert ended(first) == b""
    for client in others:
        client.sendall(CONNECT)
    bench.loop.until(lambda: len(bench.links) == WAITING)


def test_many_at_once_are_accepted_in_turns(bench: Bench) -> None:
    for _ in range(100):
        bench.connect()
    bench.loop.readers[bench.listener.fileno()]()
    assert 0 < len(bench.reception._lobby.waiting) < 100
    seconds = 0.0
    while len(bench.reception._lobby.waiting) < 100:
        bench.loop.advance(FEW_PAUSE)
        seconds += FEW_PAUSE
    assert seconds > 100 / 250, "no more than 200 a second"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_it_pauses(
    bench: Bench,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The listener stays readable, and would be asked again and again."""

    def fail(sock: socket.socket) -> tuple[socket.socket, object]:
        raise OSError(number, "no more")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(socket.socket, "accept", fail)
        client = bench.connect()
        client.sendall(CONNECT)
        bench.loop.until(lambda: caplog.records)
        assert bench.loop.readers == {}
        assert len(caplog.records) == 1
    (pause,) = bench.loop.timers
    assert pause.at > bench.loop.now
    bench.loop.advance(pause.at - bench.loop.now)
    bench.loop.until(lambda: bench.links)


def test_closing_during_a_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sock: socket.socket) -> tuple[socket.socket, object]:
        raise OSError(errno.EMFILE, "no more")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", fail)
        bench.connect()
        bench.loop.until(lambda: bench.loop.timers)
    bench.reception.close()
    assert bench.loop.idle


def test_one_that_went_before_it_was_accepted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next ones are accepted all the same."""
    accept, failures = socket.socket.accept, [ConnectionAbortedError(errno.ECONNABORTED, "")]

    def sometimes(sock: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", sometimes)
    bench.connect().sendall(CONNECT)
    bench.loop.until(lambda: bench.links)


def test_closing_ends_those_who_have_not_said_what_they_want(bench: Bench) -> None:
    (client,) = bench.accepted()
    bench.reception.close()
    assert ended(client) == b""
    with pytest.raises(ConnectionRefusedError):
        bench.connect()
