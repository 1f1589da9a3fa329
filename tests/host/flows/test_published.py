"""A host's connections joined to a guest's ports: how they begin, carry, and end."""

import socket

import pytest

from .guest import GUEST, Guest, Socket, is_reset


def dial(guest: Guest) -> tuple[Socket, socket.socket]:
    there = Socket(guest)
    guest.stack.connections.listeners[GUEST, 22] = there.accept
    here, outside = socket.socketpair()
    guest.tcp.dial(here, GUEST, 22)
    outside.settimeout(10)
    return there, outside


def test_a_published_port_carries_both_ways(guest: Guest) -> None:
    there, outside = dial(guest)
    with outside:
        outside.sendall(b"hello")
        guest.loop.until(lambda: there.data)
        there.send(b"welcome")
        guest.loop.run()
        assert outside.recv(100) == b"welcome"
        outside.shutdown(socket.SHUT_WR)
        guest.loop.until(lambda: "eof" in there.told)
        there.shutdown()
        guest.loop.until(lambda: not guest.tcp.open)
        assert outside.recv(1) == b""


def test_a_guest_that_refuses(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    with client:
        guest.tcp.dial(here, GUEST, 23)
        guest.loop.until(lambda: not guest.tcp.open)
        assert is_reset(client)


def test_a_guest_that_is_not_there(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    with client:
        guest.tcp.dial(here, socket.inet_aton("192.168.127.99"), 22)
        for _ in range(3):
            guest.tick(1)
        assert not guest.tcp.open
        assert is_reset(client)
    assert "no guest answers at 192.168.127.99" in caplog.text


def test_no_port_left_toward_the_guest(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no free port toward the guest")

    monkeypatch.setattr(guest.host.connections, "open", fail)
    here, outside = socket.socketpair()
    with outside:
        guest.tcp.dial(here, GUEST, 22)
        assert here.fileno() == -1
