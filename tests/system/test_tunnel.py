"""POST /tunnel on the daemon's socket, with a kernel at the guest's end."""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.network import Network
from tests.lab.programs import DEVICE
from tests.lab.sockets import read_all, reset
from tests.lab.transfer import exchange

pytestmark = [pytest.mark.root, pytest.mark.system]

PORT = 8060
SIZE = 20_000_000
RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"


def ask(network: Network, port: int = PORT, rest: bytes = b"") -> socket.socket:
    """Ask for a tunnel to a port of the guest."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(network.gvproxy.path))
    head = b"POST /tunnel?ip=%s&port=%d HTTP/1.1\r\nHost: x\r\n\r\n" % (DEVICE.encode(), port)
    sock.sendall(head + rest)
    return sock


@contextlib.contextmanager
def tunnel(network: Network, rest: bytes = b"") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Open one; the guest's end comes first."""
    with (
        network.guest.listen("0.0.0.0", PORT) as listener,
        ask(network, PORT, rest) as caller,
        listener.accept()[0] as server,
    ):
        server.settimeout(10)
        assert caller.recv(2, socket.MSG_WAITALL) == b"OK"
        yield server, caller
    network.gvproxy.wait_until_unused()


def test_a_large_transfer(network: Network) -> None:
    with tunnel(network) as (server, caller):
        exchange(server, caller, SIZE, 40)


def test_what_follows_the_head_at_once_comes_first(network: Network) -> None:
    with tunnel(network, b"early, ") as (server, caller):
        caller.sendall(b"and late")
        caller.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"early, and late"
        server.sendall(b"answer")
        server.close()
        assert read_all(caller) == b"answer"


def test_a_caller_that_goes(network: Network) -> None:
    with tunnel(network) as (server, caller):
        caller.sendall(b"last words")
        caller.close()
        assert read_all(server) == b"last words"


def test_a_guest_that_resets(network: Network) -> None:
    with tunnel(network) as (server, caller):
        reset(server)
        assert read_all(caller) == b"", "a unix socket knows no other end"


def test_refused(network: Network) -> None:
    with ask(network) as caller:
        head, _, body = read_all(caller).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert body == b"192.168.127.2:8060 refuses the connection\n"
    network.gvproxy.wait_until_unused()


def test_ssh_as_the_documentation_has_it(network: Network) -> None:
    (recipe,) = re.findall(r"^```\n(Host guest\n.*?)^```", RECIPES.read_text(), re.S | re.M)
    assert recipe.count("/tmp/network.sock") == 1
    config = network.world.folder / "ssh_config"
    config.write_text(recipe.replace("/tmp/network.sock", str(network.gvproxy.path)))
    with network.guest.listen("0.0.0.0", PORT) as listener:
        # In a namespace of its own nothing of the pipeline outlives ssh.
        own = ["unshare", "--pid", "--fork", "--kill-child"]
        ssh = network.host.start("ssh", *own, "ssh", "-vF", config, "-p", str(PORT), "guest")
        with listener.accept()[0] as server:
            server.settimeout(10)
            server.sendall(b"SSH-2.0-Test\r\n")
            ssh.wait_for("remote software version Test")
            assert server.recv(8, socket.MSG_WAITALL) == b"SSH-2.0-"
        assert ssh.wait(10) == 255
    network.gvproxy.wait_until_unused()
