"""Accepting: whole queues in bounded turns, without descriptors, and the end of it."""

import errno
import logging
import os
import socket
from collections.abc import Iterator

import pytest

from gvproxy.complaint import INTERVAL
from gvproxy.ports.acceptor import (
    ACCEPTS_PER_WAKEUP,
    FEW_ACCEPTS,
    FEW_PAUSE,
    FULL_PAUSE,
    Acceptor,
)
from tests.manual_loop import ManualLoop


class Bench:
    """An acceptor whose connections the test gets."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=ACCEPTS_PER_WAKEUP * 2)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        self.accepted: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        self.acceptor = Acceptor(self.loop.as_loop(), self.listener, self.take)
        self.closes_at_once = False

    def take(self, sock: socket.socket) -> None:
        self.accepted.append(sock)
        if self.closes_at_once:
            self.acceptor.close()

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address)
        self.clients.append(client)
        return client

    def close(self) -> None:
        if self.listener.fileno() >= 0:
            self.acceptor.close()
        assert self.loop.idle
        assert self.listener.fileno() == -1
        for sock in (*self.clients, *self.accepted):
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


class Failure:
    """Makes `accept` fail as long as `code` is an error's number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.code = 0
        accept = socket.socket.accept

        def fail_or_accept(sock: socket.socket) -> tuple[socket.socket, object]:
            if self.code:
                raise OSError(self.code, os.strerror(self.code))
            return accept(sock)

        monkeypatch.setattr(socket.socket, "accept", fail_or_accept)


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch) -> Failure:
    return Failure(monkeypatch)


def test_a_connection_is_handed_over(bench: Bench) -> None:
    client = bench.connect()
    bench.loop.until(lambda: bench.accepted)
    (sock,) = bench.accepted
    assert not sock.getblocking()
    assert sock.getpeername() == client.getsockname()


def test_others_get_their_turn(bench: Bench) -> None:
    for _ in range(ACCEPTS_PER_WAKEUP + 5):
        bench.connect()
    bench.loop.turn()
    assert len(bench.accepted) == ACCEPTS_PER_WAKEUP
    bench.loop.turn()
    assert len(bench.accepted) == ACCEPTS_PER_WAKEUP + 5


def test_costly_ones_wait_where_there_are_many(bench: Bench) -> None:
    bench.acceptor._few = True
    for _ in range(FEW_ACCEPTS * 2 + 1):
        bench.connect()
    bench.loop.run()
    assert len(bench.accepted) == FEW_ACCEPTS
    bench.loop.advance(FEW_PAUSE)
    bench.loop.run()
    assert len(bench.accepted) == FEW_ACCEPTS * 2
    bench.loop.advance(FEW_PAUSE)
    bench.loop.until(lambda: len(bench.accepted) == FEW_ACCEPTS * 2 + 1)
    bench.connect()
    bench.loop.until(lambda: len(bench.accepted) == FEW_ACCEPTS * 2 + 2)


def test_nothing_listens_after_the_end(bench: Bench) -> None:
    client = bench.connect()
    bench.loop.until(lambda: bench.accepted)
    bench.acceptor.close()
    with pytest.raises(ConnectionRefusedError):
        bench.connect()
    client.send(b"still there")
    bench.accepted[0].setblocking(True)
    assert bench.accepted[0].recv(100) == b"still there"


def test_it_may_be_closed_by_what_it_calls(bench: Bench) -> None:
    bench.closes_at_once = True
    bench.connect()
    bench.connect()
    bench.loop.until(lambda: bench.accepted)
    assert len(bench.accepted) == 1


# Failures


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_it_pauses(bench: Bench, failure: Failure, code: int) -> None:
    bench.connect()
    failure.code = code
    bench.loop.run()  # which fails where it would wake us for ever
    assert not bench.loop.readers
    for _ in range(3):
        bench.loop.advance(FULL_PAUSE)
        assert not bench.loop.readers
    failure.code = 0
    bench.loop.advance(FULL_PAUSE)
    assert len(bench.accepted) == 1
    assert not bench.loop.timers


def test_it_complains_at_a_limited_rate(
    bench: Bench, failure: Failure, caplog: pytest.LogCaptureFixture
) -> None:
    bench.connect()
    failure.code = errno.EMFILE
    with caplog.at_level(logging.WARNING):
        bench.loop.run()
        bench.loop.advance(INTERVAL - FULL_PAUSE)
        assert len(caplog.messages) == 1
        bench.loop.advance(FULL_PAUSE)
    assert caplog.messages == [f"cannot accept on {bench.address}: Too many open files"] * 2


def test_a_pause_ends_with_the_acceptor(bench: Bench, failure: Failure) -> None:
    bench.connect()
    failure.code = errno.EMFILE
    bench.loop.run()
    assert bench.loop.timers
    bench.acceptor.close()
    assert bench.loop.idle


def test_a_client_that_has_gone_already_harms_nobody(bench: Bench, failure: Failure) -> None:
    bench.connect()
    failure.code = errno.ECONNABORTED
    bench.loop.turn()
    assert bench.accepted == []
    assert not bench.loop.timers
    failure.code = 0
    bench.loop.until(lambda: bench.accepted)
