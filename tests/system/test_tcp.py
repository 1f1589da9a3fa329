"""A guest's TCP through both programs, with the kernel as the peer at either end."""

import contextlib
import errno
import select
import socket
from collections.abc import Iterator

import pytest

from tests.lab.network import DEAD, Network, World, make_guest
from tests.lab.programs import DEVICE, HOST, Gvproxy
from tests.lab.sockets import read_all
from tests.lab.transfer import exchange

pytestmark = [pytest.mark.root, pytest.mark.system]

CHUNK = 1 << 20


@contextlib.contextmanager
def pair(network: Network) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect from the guest to the host's loopback; the guest's end comes first."""
    with (
        network.host.listen() as listener,
        network.guest.connect(HOST, listener.getsockname()[1]) as ours,
    ):
        theirs, _ = listener.accept()
        theirs.settimeout(10)
        with theirs:
            yield ours, theirs


def test_a_hundred_megabytes_each_way_at_once(network: Network) -> None:
    with pair(network) as (guest, host):
        exchange(guest, host, 100_000_000, seconds=30)


def test_the_guest_ends_its_direction_and_reads_on(network: Network) -> None:
    with pair(network) as (guest, host):
        guest.sendall(b"question")
        guest.shutdown(socket.SHUT_WR)
        assert read_all(host) == b"question"
        host.sendall(b"answer" * 100_000)
        host.close()
        assert read_all(guest) == b"answer" * 100_000


def test_the_host_ends_its_direction_and_reads_on(network: Network) -> None:
    with pair(network) as (guest, host):
        host.sendall(b"banner")
        host.shutdown(socket.SHUT_WR)
        assert read_all(guest) == b"banner"
        guest.sendall(b"upload" * 100_000)
        guest.close()
        assert read_all(host) == b"upload" * 100_000


def start_connecting(network: Network, address: str, port: int) -> socket.socket:
    """Begin a connection from the guest without waiting for it."""
    sock = network.guest.open_socket()
    sock.setblocking(False)
    assert sock.connect_ex((address, port)) == errno.EINPROGRESS
    return sock


def test_a_thousand_connections_beside_dead_destinations(world: World) -> None:
    """With a daemon of its own: it tries for a minute."""
    prefix = DEAD.rpartition(".")[0]
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, agent), contextlib.ExitStack() as stack:
        network = Network(world, gvproxy, guest, agent)
        dead = [
            stack.enter_context(start_connecting(network, f"{prefix}.{number}", 80))
            for number in range(1, 151)
        ]
        listener = stack.enter_context(network.host.listen())
        for _ in range(1000):
            with network.guest.connect(HOST, listener.getsockname()[1], timeout=1.0):
                listener.accept()[0].close()
        undecided = select.select([], dead, [], 0)[1]
        assert not undecided, "the destinations were not dead"
    gvproxy.process.stop()


def test_a_published_port(network: Network) -> None:
    with network.guest.listen("0.0.0.0", 8000) as listener:
        network.gvproxy.expose("127.0.0.1:8001", f"{DEVICE}:8000")
        try:
            with network.host.connect("127.0.0.1", 8001) as client:
                server, _ = listener.accept()
                with server:
                    server.settimeout(10)
                    client.sendall(b"hello")
                    client.shutdown(socket.SHUT_WR)
                    assert read_all(server) == b"hello"
                    server.sendall(b"goodbye")
                assert read_all(client) == b"goodbye"
        finally:
            network.gvproxy.unexpose("127.0.0.1:8001")
        with pytest.raises(ConnectionRefusedError):
            network.host.connect("127.0.0.1", 8001)


def test_a_receiver_that_stops_holds_up_nobody(network: Network) -> None:
    with pair(network) as (guest, host), pair(network) as (other_guest, other_host):
        host.setblocking(False)
        stuffed = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                stuffed += host.send(bytes(CHUNK))
        other_guest.sendall(b"still here")
        assert other_host.recv(16) == b"still here"
        host.setblocking(True)
        host.shutdown(socket.SHUT_WR)
        assert len(read_all(guest)) == stuffed
