"""systemd is told, where it asks, and its watchdog is fed for as long as the loop runs."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from taplink.notify import feed_watchdog, notifier
from tests.manual_loop import ManualLoop


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


@pytest.fixture
def loop() -> ManualLoop:
    return ManualLoop()


def test_outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier()("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    notifier()("READY=1")


def test_systemd_is_told(monkeypatch: pytest.MonkeyPatch, manager: socket.socket) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    notify = notifier()
    for state in ("READY=1", "STATUS=a lease"):
        notify(state)
        assert manager.recv(100) == state.encode()
    assert "NOTIFY_SOCKET" not in os.environ, "no child tells systemd anything"


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses an abstract name
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + sock.getsockname()[1:].decode())
        notifier()("STOPPING=1")
        assert sock.recv(100) == b"STOPPING=1"


def test_nobody_there_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    notifier()("READY=1")


def test_a_manager_that_does_not_read_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, manager: socket.socket
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    notify = notifier()
    for _ in range(5000):
        notify("STATUS=" + "x" * 1000)


def test_the_watchdog_is_fed_twice_a_period(
    monkeypatch: pytest.MonkeyPatch, loop: ManualLoop
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    told: list[str] = []
    feed_watchdog(told.append, loop.as_loop())
    assert told == ["WATCHDOG=1"]
    for seconds, expected in ((14.9, 1), (0.2, 2), (15.0, 3), (15.0, 4)):
        loop.advance(seconds)
        loop.run()
        assert told == ["WATCHDOG=1"] * expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "\N{ARABIC-INDIC DIGIT THREE}"},
        {"WATCHDOG_USEC": "9" * 400},
        {"WATCHDOG_USEC": "9" * 5000},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog(
    monkeypatch: pytest.MonkeyPatch, loop: ManualLoop, settings: dict[str, str]
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    told: list[str] = []
    feed_watchdog(told.append, loop.as_loop())
    assert not told
    assert loop.idle
