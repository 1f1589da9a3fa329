"""Who may call: other users, other machines, and web pages try to."""

import logging
import os
import select
import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from gvproxy.ports import access
from gvproxy.ports.access import Access
from taplink.bearer import Bearer

from .test_reception import Bench, ended

SECRET = "a-token-of-many-characters"
TOKEN = Bearer(Path("/token"), SECRET)
TCP = [socket.AF_INET, socket.AF_INET6]
RIGHT = {"authorization": f"Bearer {SECRET}"}


def status(family: int, token: Bearer | None = None, **headers: str) -> int:
    refusal = Access(token).refusal(family, headers)
    return refusal.status if refusal else 200


@pytest.mark.parametrize("family", TCP)
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:1024",
        "[::1]:80",
        "[::1]",
        "localhost",
        "LOCALHOST:80",
        "",
        "8.8.8.8",
    ],
)
def test_hosts_that_no_page_can_make_up(family: int, host: str) -> None:
    assert status(family, host=host) == 200


@pytest.mark.parametrize("family", TCP)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:1024",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@127.0.0.1",
        "evil.example/127.0.0.1",
        "127.0.0.1, evil.example",
        "127.0.0.1 evil.example",
        "2130706433",
        "0x7f.1",
        "::1",
        "[::1",
        "127.0.0.1:port",
        "127.0.0.1:",
        "127.0.0.1:99999",
        ":1024",
        "?127.0.0.1",
        "#",
        "\xe9",
    ],
)
def test_dns_rebinding(family: int, host: str) -> None:
    assert status(family, host=host) == 403


def test_a_request_without_a_host() -> None:
    assert status(socket.AF_INET) == 200


@pytest.mark.parametrize("host", ["unix", "gvproxy", "x", "evil.example"])
def test_at_a_unix_socket_a_host_is_any(host: str) -> None:
    """Clients there call `http://unix/...`, and no browser can."""
    assert status(socket.AF_UNIX, host=host) == 200
    assert status(socket.AF_UNIX, TOKEN, host=host) == 200


@pytest.mark.parametrize("family", [*TCP, socket.AF_UNIX])
@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("127.0.0.1:1024", "http://127.0.0.1:1024", 200),
        ("localhost:1024", "http://localhost:1024", 200),
        ("[::1]:1024", "http://[::1]:1024", 200),
        ("127.0.0.1:1024", "http://evil.example", 403),
        ("127.0.0.1:1024", "https://127.0.0.1:1024", 403),
        ("127.0.0.1:1024", "http://127.0.0.1:3000", 403),
        ("127.0.0.1:1024", "http://localhost:1024", 403),
        ("127.0.0.1:1024", "null", 403),
        ("127.0.0.1:1024", "", 403),
        ("127.0.0.1:1024", "http://127.0.0.1:1024, http://evil.example", 403),
        ("8.8.8.8", "http://8.8.8.8", 403),
        ("", "http://", 403),
    ],
)
def test_pages_of_other_origins(family: int, host: str, origin: str, expected: int) -> None:
    assert status(family, host=host, origin=origin) == expected


@pytest.mark.parametrize("family", TCP)
def test_the_token(family: int) -> None:
    assert status(family, TOKEN, host="127.0.0.1") == 401
    assert status(family, TOKEN, host="127.0.0.1", authorization="Bearer x") == 401
    assert status(family, TOKEN, host="127.0.0.1", **RIGHT) == 200
    # A page does not have it, under whatever name it has the browser call.
    assert status(family, TOKEN, host="evil.example") == 401
    assert status(family, TOKEN, host="gateway.example:1024", **RIGHT) == 200
    assert status(family, TOKEN, host="127.0.0.1", origin="http://evil.example", **RIGHT) == 403


def test_the_answer_to_who_has_no_token() -> None:
    refusal = Access(TOKEN).refusal(socket.AF_INET, {})
    assert refusal is not None
    assert refusal.status is HTTPStatus.UNAUTHORIZED
    head, _, body = refusal.response().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n")
    assert b"Connection: close" in head
    assert body == b"the token is missing or wrong\n"


def test_refusals_are_counted() -> None:
    rules = Access(TOKEN)
    rules.refusal(socket.AF_INET, {})
    rules.refusal(socket.AF_UNIX, {"origin": "null"})
    assert rules.counters == access.Counters(unauthorized=1, foreign=1)


# At the door


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(TOKEN)
    yield bench
    bench.close()


REQUESTS = [
    "POST /connect HTTP/1.1",
    "POST /connect?x HTTP/1.0",
    "POST /tunnel?ip=192.168.127.2&port=22 HTTP/1.1",
    "GET /stats HTTP/1.1",
    "POST /services/forwarder/expose HTTP/1.1",
]


def ask(bench: Bench, line: str, *fields: str) -> bytes:
    """Send a head, and return what the caller is told, empty if it was let in."""
    before = len(bench.links + bench.tunnels + bench.http)
    (client,) = bench.accepted()
    client.sendall("\r\n".join((line, "Host: 127.0.0.1", *fields, "", "")).encode())
    bench.loop.until(lambda: not bench.reception._lobby.waiting)
    let_in = len(bench.links + bench.tunnels + bench.http) > before
    return b"" if let_in else ended(client)


@pytest.mark.parametrize("line", REQUESTS)
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Authorization: Bearer",),
        (f"Authorization: Bearer {SECRET}x",),
        (f"Authorization: Basic {SECRET}",),
        (f"X-Authorization: Bearer {SECRET}",),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer x"),
        (f"Cookie: Authorization=Bearer {SECRET}",),
    ],
)
def test_nobody_comes_in_without_the_token(
    bench: Bench, line: str, fields: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert ask(bench, line, *fields).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert SECRET not in caplog.text


def test_who_has_no_token_is_told_of_once_a_minute(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        ask(bench, REQUESTS[0], f"Authorization: Bearer {SECRET}x")
    assert caplog.messages == ["refused a call of 127.0.0.1: the token is missing or wrong"]
    assert caplog.records[0].levelname == "WARNING"
    bench.loop.advance(60)
    ask(bench, REQUESTS[0])
    assert len(caplog.messages) == 2
    with socket.socket() as sock:
        assert access.peer_address(sock) == "somebody who has gone"


@pytest.mark.parametrize("line", REQUESTS)
def test_with_the_token_all_is_there(bench: Bench, line: str) -> None:
    assert ask(bench, line, f"Authorization: Bearer {SECRET}") == b""


def test_a_malformed_head_does_not_bring_the_token_into_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        said = ask(bench, REQUESTS[0], f"Authorization Bearer {SECRET}")
        assert said.startswith(b"HTTP/1.1 400 ")
    assert SECRET not in caplog.text
    assert "refused at tcp://here: a malformed HTTP head: " in caplog.text


class Door:
    """A unix socket at which a user calls."""

    def __init__(self, path: Path, *users: int) -> None:
        self.bench = Bench()
        self.path = str(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        listener.setblocking(False)
        self.bench.reception.listen(listener, "unix://here", users)

    def call(self, line: str) -> bytes:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(self.path)
        self.bench.clients.append(client)
        client.sendall(f"{line}\r\nHost: unix\r\n\r\n".encode())
        inside = self.bench.links, self.bench.tunnels, self.bench.http
        before = sum(map(len, inside))
        self.bench.loop.until(lambda: sum(map(len, inside)) > before or _readable(client))
        return b"" if sum(map(len, inside)) > before else ended(client)


def _readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


@pytest.fixture
def me(monkeypatch: pytest.MonkeyPatch) -> int:
    """Be a daemon of another user than who calls."""
    uid = os.geteuid()
    monkeypatch.setattr(access, "own_users", lambda: frozenset({uid + 1}))
    monkeypatch.setattr("gvproxy.ports.reception.own_users", access.own_users)
    return uid


@pytest.mark.parametrize("line", REQUESTS)
def test_other_users_do_not_come_in(
    tmp_path: Path, me: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(tmp_path / "sock")
    for _ in range(5):
        assert door.call(line).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    door.bench.close()
    assert caplog.messages == [f"refused at unix://here: user {me} may not call"]
    assert door.bench.access.counters.strangers == 5


def test_another_user_is_answered_once_it_has_asked(tmp_path: Path, me: int) -> None:
    """curl takes a connection that ends before for one that did not come about."""
    door = Door(tmp_path / "sock")
    clients = []
    for number in range(1, 101):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(door.path)
        clients.append(client)
        door.bench.loop.until(lambda n=number: door.bench.access.counters.strangers == n)
    assert len(door.bench.reception._strangers.waiting) == 16
    assert [client for client in clients if not _readable(client)] == clients[-16:]
    clients[-1].sendall(b"G")
    door.bench.loop.until(lambda: _readable(clients[-1]))
    assert ended(clients[-1]).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    for client in clients[:-1]:
        client.close()
    door.bench.close()


def test_a_user_whose_socket_it_is(tmp_path: Path, me: int) -> None:
    """As of systemd's SocketUser=: the file's owner may call."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "made"))
        owner = access.socket_owner(sock)
    assert list(owner) == [me]
    door = Door(tmp_path / "sock", *owner)
    assert door.call("GET /stats HTTP/1.1") == b""
    door.bench.close()


def test_sockets_without_an_owner() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0gvproxy-test-of-access")
        tcp.bind(("127.0.0.1", 0))
        for sock in (ours, tcp, abstract):
            assert list(access.socket_owner(sock)) == []


def test_the_daemons_own_user_and_root() -> None:
    assert access.own_users() == {0, os.geteuid()}


def test_a_caller_of_whom_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to be let in where the system could tell, and does not."""

    def fail(sock: socket.socket) -> int | None:
        raise OSError("no")

    monkeypatch.setattr(access, "peer_credentials", fail)
    door = Door(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(door.path)
        door.bench.loop.until(lambda: not door.bench.loop.idle)
        door.bench.loop.run()
        assert client.recv(100) == b""
    door.bench.close()
