"""A whole daemon's API under attack: without the token, from web pages, by too many callers."""

import asyncio
import json
import logging
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gvproxy import daemon as daemon_module
from gvproxy.config import Config, configure
from gvproxy.daemon import Daemon
from gvproxy.ports import access

SECRET = "a-token-of-many-characters"
AUTHORIZED = f"Authorization: Bearer {SECRET}\r\n"
Scenario = Callable[[Daemon, int], Awaitable[None]]


def run(scenario: Scenario, token: Path | None = None, **settings: object) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    given = {"listen": [f"tcp://127.0.0.1:{port}"], "ssh_port": -1} | settings
    if token is not None:
        token.touch(0o600)
        token.write_text(f"{SECRET}\n")
        given["api_token_file"] = str(token)
    config: Config = configure(**given)  # type: ignore[arg-type]

    async def live() -> None:
        daemon = Daemon(config, asyncio.get_running_loop())
        try:
            async with asyncio.timeout(20):
                await daemon.start()
                await scenario(daemon, port)
        finally:
            await daemon.close()

    asyncio.run(live())


async def ask(port: int, *requests: str) -> bytes:
    """Send heads on one connection, one behind the other's answer, and return the last answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b""
    for request in requests:
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        size = [line[16:] for line in head.splitlines() if line.startswith(b"Content-Length: ")]
        data = head + await reader.readexactly(int(size[0]) if size else 0)
    writer.close()
    return data


def head(line: str, fields: str = AUTHORIZED, host: str = "127.0.0.1") -> str:
    return f"{line} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"


@pytest.mark.parametrize(
    "line", ["GET /stats", "POST /connect", "POST /tunnel?ip=192.168.127.2&port=22", "GET /none"]
)
def test_without_the_token_there_is_nothing(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(daemon: Daemon, port: int) -> None:
        for fields in ("", "Authorization: Bearer x\r\n", f"X: {SECRET}\r\n"):
            answer = await ask(port, head(line, fields))
            assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n")
        assert not daemon.stack.switch.ports
        assert not daemon._tunnels.opening

    with caplog.at_level(logging.DEBUG):
        run(scenario, tmp_path / "token")
    assert SECRET not in caplog.text


def test_each_request_of_a_connection_needs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(daemon: Daemon, port: int) -> None:
        cam = head("GET /cam")
        assert (await ask(port, cam, cam)).startswith(b"HTTP/1.1 200 ")
        answer = await ask(port, cam, head("GET /cam", ""))
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nWWW-Authenticate: Bearer\r\n" in answer
        assert b"\r\nConnection: close\r\n" in answer
        assert (await ask(port, cam, head("GET /none", ""))).startswith(b"HTTP/1.1 401 ")
        assert (await ask(port, head("GET /cam", ""))).startswith(b"HTTP/1.1 401 ")
        said = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        assert said == ["refused a call of 127.0.0.1: the token is missing or wrong"]

    run(scenario, tmp_path / "token")


def test_with_the_token_a_guest_attaches(tmp_path: Path) -> None:
    async def scenario(daemon: Daemon, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        upgrade = f"{AUTHORIZED}Connection: Upgrade\r\nUpgrade: taplink/1\r\n"
        writer.write(head("POST /connect", upgrade).encode())
        assert (await reader.readline()) == b"HTTP/1.1 101 Switching Protocols\r\n"
        assert len(daemon.stack.switch.ports) == 1
        writer.close()

    run(scenario, tmp_path / "token")


def test_the_token_is_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(daemon: Daemon, port: int) -> None:
        for path in ("/stats", "/ports", "/cam", "/services/forwarder/all", "/openapi.json"):
            assert SECRET.encode() not in await ask(port, head(f"GET {path}"))
        await ask(port, head("GET /cam"), head("GET /none"))
        malformed = f"Authorization: Bearer {SECRET}\x01\r\n"
        await ask(port, head("GET /cam"), head("GET /cam", malformed))
        await ask(port, head("GET /cam"), f"GET /cam HTTP/1.1\r\nAuthorization {SECRET}\r\n\r\n")

    with caplog.at_level(logging.DEBUG):
        run(scenario, tmp_path / "token", debug=True)
    assert "a request was refused: " in caplog.text
    assert SECRET not in caplog.text


def test_at_a_unix_socket_the_token_is_not_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "services.sock"

    async def scenario(daemon: Daemon, port: int) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(head("GET /cam", "", "unix").encode())
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()

    run(scenario, tmp_path / "token", services=f"unix://{path}")


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        ("", "evil.example"),
        ("", "localhost.evil.example"),
        ("Origin: http://evil.example\r\n", "127.0.0.1"),
        ("Origin: null\r\n", "127.0.0.1"),
    ],
)
def test_web_pages_do_nothing(fields: str, host: str) -> None:
    """The first request of a connection is read by another part than those behind it."""

    async def scenario(daemon: Daemon, port: int) -> None:
        good = head("GET /cam", "")
        for line in ("GET /stats", "POST /connect", "POST /tunnel?ip=192.168.127.2&port=22"):
            bad = head(line, fields, host)
            assert (await ask(port, bad)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert (await ask(port, good, bad)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert daemon._api.counters()["Access"] == access.Counters(foreign=6)

    run(scenario)


def test_idle_callers_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few descriptors, too."""
    monkeypatch.setattr(daemon_module, "descriptor_limit", lambda: 256)

    async def scenario(daemon: Daemon, port: int) -> None:
        idle = []
        for number in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            idle.append(writer)
            if number % 2:
                writer.write(head("GET /cam", "").encode())
        answer = await ask(port, head("GET /stats", ""))
        stats = json.loads(answer.partition(b"\r\n\r\n")[2])["Limits"]["ApiConnections"]
        assert (stats["Total"], stats["Used"]) == (8, 8)
        assert stats["Refused"] >= 50 + 1 - 8
        assert len(daemon._reception._lobby.waiting) <= 8
        for writer in idle:
            writer.close()

    run(scenario)


def test_a_body_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gvproxy.api.app.BODY_TIMEOUT", 0.05)

    async def scenario(daemon: Daemon, port: int) -> None:
        length = "Content-Length: 1000\r\n"
        for before in ((), (head("GET /cam", ""),)):
            expose = f"{head('POST /services/forwarder/expose', length)}{{"
            answer = await ask(port, *before, expose)
            assert answer.startswith(b"HTTP/1.1 408 ")

    run(scenario)


def test_other_sockets_are_private(tmp_path: Path) -> None:
    """Whatever the umask is: of -listen, of -services, and what is published."""
    paths = [tmp_path / name for name in ("listen", "services", "published")]

    async def scenario(daemon: Daemon, port: int) -> None:
        remote = "tcp://192.168.127.2:80"
        await daemon.forwarder.expose(str(paths[2]), remote, "unix")
        for path in paths:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    listen, services = (f"unix://{path}" for path in paths[:2])
    run(scenario, listen=[listen], services=services)


def test_guests_do_without_an_api() -> None:
    async def scenario(daemon: Daemon, port: int) -> None:
        gateway = daemon.stack.config.gateway
        assert ((gateway, 80) in daemon.stack.connections.listeners) is enabled

    for enabled in (True, False):
        run(scenario, guest_api=enabled)


@pytest.mark.parametrize(
    ("name", "gateway"),
    [
        ("192.168.127.1", True),
        ("gateway.containers.internal", True),
        ("gateway.docker.internal", True),
        ("_gateway", True),
        ("host.containers.internal", False),
        ("192.168.127.254", False),
        ("192.168.127.2", False),
        ("evil.example", False),
        ("", False),
        (".", False),
        ("..", False),
        ("a" * 64, False),
        ("a." * 200, False),
        ("\xe9", False),
    ],
)
def test_what_guests_may_call_the_gateway(name: str, gateway: bool) -> None:
    async def scenario(daemon: Daemon, port: int) -> None:
        assert daemon._is_gateway(name) is gateway

    run(scenario)
