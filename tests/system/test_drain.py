"""SIGTERM: what is new is refused, what is there may end, and what does not is reset."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from gvproxy.config import DEFAULT_DRAIN, MAX_DRAIN
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, HOST, Gvproxy

pytestmark = [pytest.mark.root, pytest.mark.system]


@dataclass
class Busy:
    """A guest with a connection to the host, `inside` and `outside`."""

    gvproxy: Gvproxy
    host: Namespace
    guest: Namespace
    listener: socket.socket
    inside: socket.socket
    outside: socket.socket

    def begin(self) -> None:
        """Have the daemon end, which has refused what is new when this returns."""
        os.kill(self.gvproxy.process.pid, signal.SIGTERM)
        self.gvproxy.process.wait_for("ending (SIGTERM)")
        while True:  # it is said first, and done in the same turn
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(str(self.gvproxy.path))
            except (ConnectionRefusedError, FileNotFoundError):
                return


@contextmanager
def busy(world: World, drain: int | None) -> Iterator[Busy]:
    pid_file = world.folder / "pid"
    gvproxy = Gvproxy(world.folder, world.host, "-pid-file", str(pid_file), drain=drain)
    gvproxy.expose("127.0.0.1:7777", f"{DEVICE}:7777")
    with ExitStack() as stack:
        guest, _ = stack.enter_context(make_guest(world, gvproxy))
        listener = stack.enter_context(world.host.listen())
        inside = stack.enter_context(guest.connect(HOST, listener.getsockname()[1]))
        outside = stack.enter_context(listener.accept()[0])
        yield Busy(gvproxy, world.host, guest, listener, inside, outside)
        assert gvproxy.process.wait(10) == 0
        assert not gvproxy.path.exists()
        assert not pid_file.exists()
        assert "Traceback" not in gvproxy.process.log.read_text()


def test_what_is_new_is_refused_and_what_is_there_ends_well(world: World) -> None:
    with busy(world, MAX_DRAIN) as one:
        one.begin()
        with pytest.raises(ConnectionRefusedError):
            one.guest.connect(HOST, one.listener.getsockname()[1])
        with pytest.raises(ConnectionRefusedError):
            one.host.connect("127.0.0.1", 7777)
        with one.host.open_socket(socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            with one.guest.open_socket(socket.SOCK_DGRAM) as client:
                client.sendto(b"UDP goes on", (HOST, server.getsockname()[1]))
                assert server.recv(64) == b"UDP goes on"
        for sender, receiver in ((one.inside, one.outside), (one.outside, one.inside)):
            sender.sendall(b"the last words")
            sender.shutdown(socket.SHUT_WR)
            receiver.settimeout(10)
            assert receiver.recv(64) == b"the last words"
            assert receiver.recv(64) == b""


def test_what_does_not_end_is_reset_after_two_seconds(world: World) -> None:
    with busy(world, None) as one:
        began = time.monotonic()
        one.begin()
        assert one.gvproxy.process.wait(10) == 0
        assert DEFAULT_DRAIN <= time.monotonic() - began < 3.0
        for end in (one.inside, one.outside):
            with pytest.raises(ConnectionResetError):
                end.recv(1)


def test_a_second_signal_ends_it_at_once(world: World) -> None:
    with busy(world, MAX_DRAIN) as one:
        one.begin()
        os.kill(one.gvproxy.process.pid, signal.SIGTERM)
        assert one.gvproxy.process.wait(2) == 0
        with pytest.raises(ConnectionResetError):
            one.inside.recv(1)


def test_without_connections_nothing_is_waited_for(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host, drain=MAX_DRAIN)
    with make_guest(world, gvproxy):
        gvproxy.process.stop(timeout=2)
