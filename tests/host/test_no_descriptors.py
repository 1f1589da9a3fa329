"""Without a free descriptor nothing new is opened; a line says so, and it is over with the want."""

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from gvproxy.errors import BadRemoteError
from gvproxy.ports import datagram
from gvproxy.ports.tapsocket import Handover
from gvproxy.services import background
from gvproxy.services.followed import CHECK_INTERVAL, FollowedFile
from gvproxy.services.forwards import SshRemote
from gvproxy.services.listeners import Listeners
from taplink.framing import LinkError
from taplink.notify import notifier
from tests.host.flows.guest import HOST, Guest
from tests.lab.limits import no_descriptors
from tests.manual_loop import ManualLoop


def test_flows_of_guests(caplog: pytest.LogCaptureFixture) -> None:
    loop = ManualLoop()
    guest = Guest(loop)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with no_descriptors():
            for _ in range(2):
                guest.connect(HOST, port)
                guest.send_to(HOST, port, b"datagram", 5000)
                loop.run()
        assert sorted(caplog.messages) == [
            "no socket for UDP of a guest: Too many open files",
            "no socket for a guest's connection: Too many open files",
        ]
        guest.connect(HOST, port)
        loop.run()
        server.accept()[0].close()
    guest.close()


def test_a_file_that_cannot_be_read_says_what_it_said_last(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("before")
    file = FollowedFile(path)
    now = 0.0
    assert file.changed(now) == "before"
    path.write_text("changed meanwhile")
    now += CHECK_INTERVAL
    with no_descriptors():
        assert file.changed(now) is None
    now += CHECK_INTERVAL
    assert file.changed(now) == "changed meanwhile"
    path.unlink()
    assert file.changed(now + CHECK_INTERVAL) == ""


def test_a_guest_of_datagrams_counts_as_there(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with no_descriptors():
        assert datagram._is_there(gone)
    assert not datagram._is_there(gone)


def test_a_tap_that_is_handed_over() -> None:
    def attach(*_: object) -> None:
        raise AssertionError("there is no tap")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, open(os.devnull, "rb") as file:
        handover = Handover(ManualLoop().as_loop(), ours, attach)
        socket.send_fds(theirs, [b"."], [file.fileno()])
        with no_descriptors():
            data = handover.receive(ours)
        with pytest.raises(LinkError, match="too many open files"):
            handover.feed(data)
        assert theirs.recv(100) == b"what was handed over has no room: too many open files\n"


def test_systemd_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        notify = notifier()
        with no_descriptors():
            notify("WATCHDOG=1")
        assert manager.recv(100) == b"WATCHDOG=1"


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    """Nor what reads it, which is imported by then only."""
    remote = SshRemote("192.168.127.2", 22, "root", "/run/x", str(tmp_path / "key"))
    listeners = Listeners(None, None, None, None)  # type: ignore[arg-type]

    async def prepare() -> None:
        with no_descriptors(), pytest.raises(BadRemoteError, match="Too many open files"):
            await listeners.prepare(remote)

    sys.modules.pop("gvproxy.services.sshtunnel", None)
    asyncio.run(prepare())


def test_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for _ in range(background.MAX_CALLS + 1):
                with pytest.raises(OSError, match="no thread can be started"):
                    await background.call(lambda: 1)
        assert await background.call(lambda: 1) == 1

    asyncio.run(scenario())
