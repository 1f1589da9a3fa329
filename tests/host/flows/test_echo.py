"""Guests' pings through ping sockets: loopback answers; what is not allowed is said once."""

import errno
import logging
import socket
from types import SimpleNamespace

import pytest

from gvproxy.complaint import INTERVAL
from gvproxy.flows import echo
from gvproxy.wire import icmp

from .guest import GUEST, HOST, METADATA, Guest


class FakePing(socket.socket):
    """A ping socket whose kernel answers at once: net.ipv4.ping_group_range mostly allows none.

    The real ones are in tests/system, in namespaces that allow them.
    """

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        assert (family, protocol) == (socket.AF_INET, socket.IPPROTO_ICMP)
        assert kind == socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self._kernel, mine = socket.socketpair(type=socket.SOCK_DGRAM)
        super().__init__(fileno=mine.detach())
        self.setblocking(False)

    def setsockopt(self, *_: object) -> None:  # type: ignore[override]
        pass

    def sendto(self, message: bytes, address: tuple[str, int]) -> int:  # type: ignore[override]
        """Put the kernel's own identifier in, and answer from loopback."""
        assert address == ("127.0.0.1", 0)
        assert message[:2] == b"\x08\0"
        rest = 0xBEEF << 16 | int.from_bytes(message[6:8], "big")
        return self._kernel.send(icmp.build(icmp.ECHO_REPLY, 0, rest, message[8:]))

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:  # type: ignore[override]
        return self.recv(size), ("127.0.0.1", 0)

    def close(self) -> None:
        super().close()
        self._kernel.close()


@pytest.fixture(autouse=True)
def ping_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: getattr(socket, name) for name in dir(socket)} | {"socket": FakePing}
    monkeypatch.setattr(echo, "socket", SimpleNamespace(**names))


def ping(guest: Guest, destination: bytes, identifier: int, sequence: int, body: bytes) -> None:
    rest = identifier << 16 | sequence
    guest.ip(destination, 1, icmp.build(icmp.ECHO_REQUEST, 0, rest, body))
    guest.loop.run()


def test_answers_carry_the_guests_own_identifier(guest: Guest) -> None:
    for identifier, sequence in ((1, 1), (1, 2), (0xFFFF, 0xFFFF)):
        body = bytes((sequence & 0xFF,)) * 57
        ping(guest, HOST, identifier, sequence, body)
        guest.loop.until(lambda: guest.echoes)
        source, message = guest.echoes.pop()
        assert source == HOST
        assert message == icmp.build(icmp.ECHO_REPLY, 0, identifier << 16 | sequence, body)
    assert len(guest.echo.sessions) == 2
    counters = guest.host.counters
    assert (counters.echo_requests, counters.echo_replies) == (3, 3)
    assert counters.unreachable_out == 0


def test_large_and_empty_pings(guest: Guest) -> None:
    for size in (0, 1, 1472, 1473, 20_001):
        ping(guest, HOST, 7, 1, bytes(size))
        guest.loop.until(lambda: guest.echoes)
        assert len(guest.echoes.pop()[1]) == 8 + size


def test_sessions_end_in_silence(guest: Guest) -> None:
    ping(guest, HOST, 7, 1, b"x")
    guest.loop.until(lambda: guest.echoes)
    guest.loop.advance(echo.IDLE_TIMEOUT + echo.SWEEP_INTERVAL)
    assert len(guest.echo.sessions) == 0
    assert guest.loop.idle


def test_sessions_are_bounded(guest: Guest) -> None:
    limit = guest.quotas.pings.limit.guest
    for identifier in range(limit + 5):
        ping(guest, HOST, identifier, 1, b"x")
    assert len(guest.echo.sessions) == limit
    assert guest.quotas.pings.refused == 5


def test_an_error_quotes_the_guests_ping(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EHOSTUNREACH, "")

    monkeypatch.setattr(FakePing, "sendto", fail)
    ping(guest, HOST, 0x1234, 5, b"x")
    ((source, code, quote),) = guest.unreachable
    assert (source, code) == (HOST, icmp.HOST_UNREACHABLE)
    assert quote[12:20] == GUEST + HOST
    assert quote[20] == icmp.ECHO_REQUEST
    assert quote[24:26] == b"\x12\x34"


def test_a_later_error_finds_the_guests_ping_too(guest: Guest) -> None:
    ping(guest, HOST, 0x1234, 5, b"x")
    (session,) = guest.echo.sessions._entries.values()
    quote = session._quote(HOST, 0)
    assert quote[12:20] == GUEST + HOST
    assert (quote[20], quote[24:26]) == (icmp.ECHO_REQUEST, b"\x12\x34")


def test_closed_addresses_are_prohibited(guest: Guest) -> None:
    ping(guest, METADATA, 1, 1, b"x")
    assert [code for _, code, _ in guest.unreachable] == [icmp.ADMIN_PROHIBITED]
    assert len(guest.echo.sessions) == 0
    counters = guest.host.counters
    assert (counters.echo_requests, counters.echo_replies) == (1, 0)
    assert counters.unreachable_out == 1


def test_where_pings_are_not_allowed_that_is_said_once(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(echo.socket, "socket", fail)
    with caplog.at_level(logging.WARNING):
        for sequence in range(3):
            ping(guest, HOST, 1, sequence, b"x")
    (record,) = caplog.records
    assert "ping_group_range" in record.message
    assert guest.echoes == guest.unreachable == []


def test_no_descriptor_is_no_matter_of_rights(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_socket(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    for interval in (0.0, 1.0, INTERVAL):
        guest.loop.advance(interval)
        with monkeypatch.context() as patch:
            patch.setattr(echo, "socket", SimpleNamespace(**vars(socket) | {"socket": no_socket}))
            guest.ip(HOST, 1, icmp.build(icmp.ECHO_REQUEST, 0, 7, b""))
            guest.loop.run()
    assert caplog.messages == ["no socket for a guest's ping: Too many open files"] * 2
    monkeypatch.setattr(echo, "socket", SimpleNamespace(**vars(socket) | {"socket": FakePing}))
    guest.ip(HOST, 1, icmp.build(icmp.ECHO_REQUEST, 0, 7, b""))
    guest.loop.run()
    assert guest.echoes
