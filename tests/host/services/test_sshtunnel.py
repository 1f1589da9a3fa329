"""Unix sockets through ssh, with a server of asyncssh's in the guest's place."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest

from gvproxy.errors import BadRemoteError
from gvproxy.services import sshtunnel
from gvproxy.services.forwards import SshRemote
from gvproxy.services.sshtunnel import SshTunnel
from gvproxy.virtual import VirtualNetwork

REMOTE = SshRemote("192.168.127.2", 22, "core", "/run/echo", "unused")
KEY, HOST_KEY = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))


class Sshd(asyncssh.SSHServer):
    """Has one socket, /run/echo, which gives back what it gets and ends when that ends."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._bench.connections.append(conn)

    def begin_auth(self, username: str) -> bool:
        self._bench.users.append(username)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key == KEY.convert_to_public()

    def unix_connection_requested(self, dest_path: str) -> Any:
        return self._bench.echo if dest_path == "/run/echo" else False


class Bench:
    """The guest, the network to it, and a tunnel; `dialled` counts connections to the guest."""

    def __init__(self, key: asyncssh.SSHKey = KEY, remote: SshRemote = REMOTE) -> None:
        self.dialled = 0
        self.users: list[str] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.tunnel = SshTunnel(cast(VirtualNetwork, self), remote, key)
        self.ended = asyncio.Event()
        self.tunnel.ended = self.ended.set
        self._server: asyncssh.SSHAcceptor | None = None
        self._port = 0

    async def boot(self) -> None:
        self._server = await asyncssh.listen(
            "127.0.0.1", 0, server_factory=lambda: Sshd(self), server_host_keys=[HOST_KEY]
        )
        self._port = self._server.get_port()

    async def power_off(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        for connection in self.connections:
            connection.abort()
            await connection.wait_closed()
        self.connections.clear()

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], ip: str, port: int
    ) -> object:
        assert (ip, port) == (REMOTE.host, REMOTE.port)
        self.dialled += 1
        if self._server is None:
            raise ConnectionRefusedError
        return await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", self._port)

    async def echo(
        self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]
    ) -> None:
        with contextlib.suppress(asyncssh.Error):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.tunnel.take(theirs)
        return await asyncio.open_unix_connection(sock=ours)

    async def ask(self, text: bytes) -> bytes:
        """Have a client say something, end its direction, and hear all."""
        reader, writer = await self.connect()
        writer.write(text)
        writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()

    async def close(self) -> None:
        await self.tunnel.close()
        await self.power_off()
        assert self.ended.is_set()
        assert not self.tunnel._clients


def run(scenario: Callable[[Bench], Awaitable[None]], **arguments: Any) -> None:
    async def serve() -> None:
        bench = Bench(**arguments)
        try:
            async with asyncio.timeout(30):
                await bench.boot()
                await scenario(bench)
        finally:
            await bench.close()

    asyncio.run(serve())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshtunnel, "RETRY_INTERVAL", 0.0)


def test_clients_share_a_connection() -> None:
    async def scenario(bench: Bench) -> None:
        texts = [b"%d" % number * 100_000 for number in range(5)]
        assert await asyncio.gather(*(bench.ask(text) for text in texts)) == texts
        assert bench.users == ["core"]
        assert bench.dialled == 1

    run(scenario)


def test_both_directions_end_on_their_own() -> None:
    async def scenario(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        writer.write(b"two")
        writer.write_eof()
        assert await reader.read() == b"two"
        writer.close()

    run(scenario)


def test_a_guest_that_reboots() -> None:
    async def scenario(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await bench.power_off()
        assert await reader.read() == b"", "its connection has ended"
        writer.close()
        waiting = asyncio.create_task(bench.ask(b"patient"))
        while bench.dialled < 3:  # it tries until there is somebody
            await asyncio.sleep(0)
        await bench.boot()
        assert await waiting == b"patient"

    run(scenario)


def test_a_guest_that_does_not_answer_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshtunnel, "ANSWER_TIMEOUT", 0.2)

    async def scenario(bench: Bench) -> None:
        assert await bench.ask(b"x") == b"x"
        # A guest that was cut off: its end of the connection is there, and says nothing.
        bench.connections[0]._transport.pause_reading()  # type: ignore[union-attr]
        assert await bench.ask(b"y") == b"y"
        assert bench.dialled == 2

    run(scenario)


def test_a_guest_that_never_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sshtunnel, "PATIENCE", 0.1)

    async def scenario(bench: Bench) -> None:
        await bench.power_off()
        for _ in range(2):
            assert await bench.ask(b"anybody?") == b""

    run(scenario)
    assert caplog.messages == [f"a client of {REMOTE} is let down: no answer"]


@pytest.mark.parametrize(
    ("remote", "key", "why"),
    [
        (replace(REMOTE, path="/run/none"), KEY, "Connection refused"),
        (REMOTE, HOST_KEY, "Permission denied for user core on host 192.168.127.2"),
    ],
)
def test_what_the_guest_refuses_is_told_at_once(
    remote: SshRemote, key: asyncssh.SSHKey, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bench: Bench) -> None:
        assert await bench.ask(b"let me in") == b""
        assert bench.dialled == 1

    run(scenario, remote=remote, key=key)
    (said,) = caplog.messages
    assert said.startswith(f"a client of {remote} is let down: {why}")
    assert "\n" not in said


def test_a_client_that_leaves_ends_its_channel_only() -> None:
    async def scenario(bench: Bench) -> None:
        stays = await bench.connect()
        stays[1].write(b"x")
        assert await stays[0].readexactly(1) == b"x"
        for _ in range(3):
            _, writer = await bench.connect()
            writer.write(b"x" * 10)
            writer.transport.abort()
        while len(bench.tunnel._clients) > 1:
            await asyncio.sleep(0)
        stays[1].write(b"y")
        assert await stays[0].readexactly(1) == b"y"
        stays[1].close()

    run(scenario)


def test_a_tunnel_that_is_taken_back_ends_with_its_last_client() -> None:
    async def scenario(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        bench.tunnel.retire()
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        assert not bench.ended.is_set()
        writer.close()
        await bench.ended.wait()
        await bench.connections[0].wait_closed()

    run(scenario)


def test_too_many_clients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sshtunnel, "MAX_CLIENTS", 1)

    async def scenario(bench: Bench) -> None:
        _, first = await bench.connect()
        reader, second = await bench.connect()
        assert await reader.read() == b""
        first.close()
        second.close()

    run(scenario)
    assert caplog.messages == [f"a client of {REMOTE} is sent away: there are 1"]


@pytest.mark.parametrize("passphrase", [None, "secret"])
def test_keys(tmp_path: Path, passphrase: str | None) -> None:
    path = tmp_path / "id"
    KEY.write_private_key(path, passphrase=passphrase)
    remote = replace(REMOTE, key=str(path))
    assert sshtunnel.read_key(replace(remote, passphrase=passphrase)) == KEY
    for wrong in ("wrong", None) if passphrase else ():
        with pytest.raises(BadRemoteError, match=f"key {path} cannot be read: ") as caught:
            sshtunnel.read_key(replace(remote, passphrase=wrong))
        assert "\n" not in str(caught.value)


def test_asyncssh_says_little() -> None:
    assert logging.getLogger("asyncssh").level == logging.WARNING
