"""What is said of sockets that systemd has opened; tests/system has them served."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from gvproxy import activation
from gvproxy.activation import Inherited, sockets
from gvproxy.config import configure
from gvproxy.daemon import Daemon
from gvproxy.errors import ConfigError
from gvproxy.rules import Protocol


def inherit(monkeypatch: pytest.MonkeyPatch, sock: socket.socket, name: str) -> Inherited:
    monkeypatch.setattr(activation, "FIRST", os.dup(sock.fileno()))
    for key, value in (("PID", str(os.getpid())), ("FDS", "1"), ("FDNAMES", name)):
        monkeypatch.setenv(f"LISTEN_{key}", value)
    (inherited,) = sockets()
    return inherited


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("", False),
        ("unknown", False),
        ("listen", False),
        ("gvproxy.socket", False),
        ("services", False),
        ("qemu", False),
        ("Qemu", True),
        ("api", True),
    ],
)
def test_a_name_that_nobody_knows_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    warned: bool,
) -> None:
    caplog.set_level("INFO", "gvproxy")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        inherited = inherit(monkeypatch, sock, name)

    async def live() -> None:
        config = configure(ssh_port=-1, activated=True)
        daemon = Daemon(config, asyncio.get_running_loop(), [inherited])
        try:
            await daemon.start()
        finally:
            await daemon.close()

    asyncio.run(live())
    shown = name or f"{activation.FIRST}"
    assert f"listening at systemd's socket {shown}" in caplog.messages
    text = (
        f"systemd's socket {name} is served as -listen is: other names than qemu, vpnkit, bess, "
        "vfkit, tap, services have no meaning"
    )
    assert (text in caplog.messages) is warned


@pytest.mark.parametrize("name", ["", "bess"])
def test_a_socket_of_another_type_has_a_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        pytest.raises(ConfigError) as caught,
    ):
        inherit(monkeypatch, sock, name)
    shown = name or f"{activation.FIRST}"
    assert str(caught.value).startswith(f"systemd's socket {shown} is of another type")


@pytest.mark.parametrize("name", ["", "services", "qemu"])
def test_no_guest_reaches_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as sock:
        port = sock.getsockname()[1]
        inherited = inherit(monkeypatch, sock, name)
    loopback, guest = map(socket.inet_aton, ("192.168.127.254", "192.168.127.2"))

    async def live() -> None:
        config = configure(ssh_port=-1, activated=True)
        daemon = Daemon(config, asyncio.get_running_loop(), [inherited])
        resolve = daemon._destinations.resolve
        try:
            await daemon.start()
            assert resolve(Protocol.TCP, loopback, port, guest, bytes(6), 0.0) is None
            assert resolve(Protocol.TCP, loopback, port ^ 1, guest, bytes(6), 0.0) == "127.0.0.1"
        finally:
            await daemon.close()

    asyncio.run(live())
