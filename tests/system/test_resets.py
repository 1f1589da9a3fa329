"""How connections fail: a reset arrives as a reset, a refusal as the error it is on the host.

A reset must not look like a clean end: whoever reads until then would take half a file for whole.
The cases on the way `plain` are without us, over the host's loopback: what the kernel does itself.
"""

import contextlib
import errno
import select
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.lab.network import NO_ROUTE, OUTSIDE, UNREACHABLE, Network, World, make_guest
from tests.lab.programs import DEVICE, HOST, Gvproxy
from tests.lab.sockets import read_all, reset

pytestmark = [pytest.mark.root, pytest.mark.system]

CHUNK = 1 << 16
FULL_AFTER = 0.1
"""Seconds in which nothing more was taken."""
GUEST_PORT = 8010
PUBLISHED_PORT = 8011
NOBODY = "192.168.127.99"


@contextlib.contextmanager
def published(network: Network, remote: str, port: int = PUBLISHED_PORT) -> Iterator[None]:
    """Publish a guest's port on one of the host's loopback."""
    local = f"127.0.0.1:{port}"
    network.gvproxy.expose(local, remote)
    try:
        yield
    finally:
        network.gvproxy.unexpose(local)


@contextlib.contextmanager
def connected(network: Network, way: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make a connection on one of WAYS; the client's end comes first."""
    with contextlib.ExitStack() as stack:
        if way == "published":
            listener = stack.enter_context(network.guest.listen("0.0.0.0", GUEST_PORT))
            stack.enter_context(published(network, f"{DEVICE}:{GUEST_PORT}"))
            client = network.host.connect("127.0.0.1", PUBLISHED_PORT)
        else:
            listener = stack.enter_context(network.host.listen())
            port = listener.getsockname()[1]
            if way == "outward":
                client = network.guest.connect(HOST, port)
            else:
                client = network.host.connect("127.0.0.1", port)
        stack.enter_context(client)
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(10)
        yield client, server


def fill(sock: socket.socket) -> None:
    """Send until every buffer on the way is full, and stays so."""
    sock.setblocking(False)
    while select.select([], [sock], [], FULL_AFTER)[1]:
        sock.send(bytes(CHUNK))
    sock.settimeout(10)


def read_until_reset(sock: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        read_all(sock)


def error_of(sock: socket.socket) -> int:
    """Wait until a connection has failed, with neither a read nor a write, and return why."""
    poll = select.poll()
    poll.register(sock, 0)  # POLLERR and POLLHUP are always told
    assert poll.poll(10_000), "nothing was told"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


# How an end resets.  The other one, `peer`, is idle meanwhile, or as the case says.


def idle(sock: socket.socket, peer: socket.socket) -> None:
    reset(sock)
    read_until_reset(peer)


def while_sending(sock: socket.socket, peer: socket.socket) -> None:
    fill(sock)
    peer.recv(CHUNK)
    reset(sock)
    read_until_reset(peer)


def while_receiving(sock: socket.socket, peer: socket.socket) -> None:
    fill(peer)
    sock.recv(CHUNK)
    reset(sock)
    read_until_reset(peer)


def while_both_send(sock: socket.socket, peer: socket.socket) -> None:
    fill(sock)
    fill(peer)
    reset(sock)
    read_until_reset(peer)


def after_the_peers_fin(sock: socket.socket, peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    reset(sock)
    read_until_reset(peer)


def after_its_own_fin(sock: socket.socket, peer: socket.socket) -> None:
    """The peer has read the end: Linux says EPIPE (tcp_reset), and reading stays at the end."""
    sock.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b""
    reset(sock)
    assert error_of(peer) == errno.EPIPE


def with_unread_data(sock: socket.socket, peer: socket.socket) -> None:
    peer.sendall(b"unread")
    sock.recv(1, socket.MSG_PEEK)
    sock.close()
    read_until_reset(peer)


def by_dying_with_unread_data(sock: socket.socket, peer: socket.socket) -> None:
    peer.sendall(b"unread")
    sock.recv(1, socket.MSG_PEEK)
    holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[sock.fileno()])
    with holder:
        sock.close()
        holder.kill()
    read_until_reset(peer)


def while_the_peer_neither_reads_nor_writes(sock: socket.socket, peer: socket.socket) -> None:
    reset(sock)
    assert error_of(peer) == errno.ECONNRESET


WAYS = ("plain", "outward", "published")
CASES: tuple[Callable[[socket.socket, socket.socket], None], ...] = (
    idle,
    while_the_peer_neither_reads_nor_writes,
    while_sending,
    while_receiving,
    while_both_send,
    after_the_peers_fin,
    after_its_own_fin,
    with_unread_data,
    by_dying_with_unread_data,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("by", ["client", "server"])
@pytest.mark.parametrize("way", WAYS)
def test_a_reset_arrives_as_a_reset(
    network: Network,
    way: str,
    by: str,
    case: Callable[[socket.socket, socket.socket], None],
) -> None:
    with connected(network, way) as (client, server):
        if by == "client":
            case(client, server)
        else:
            case(server, client)


@pytest.mark.parametrize("way", ["plain", "outward", "published"])
def test_a_reset_right_behind_data_arrives_as_a_reset(network: Network, way: str) -> None:
    """The host's kernel tells of both at once."""
    with connected(network, way) as (client, server):
        near, far = (server, client) if way == "outward" else (client, server)
        for text in (b"one", b"two"):
            near.sendall(text)
            assert far.recv(10) == text
        with network.gvproxy.process.standing_still():
            near.sendall(b"three")
            reset(near)
        if way != "plain":  # where it drops what was not read
            assert far.recv(10) == b"three"
        read_until_reset(far)
    network.gvproxy.wait_until_unused()


def closed_port(network: Network) -> int:
    """Return a port of the host's loopback that nobody listens on."""
    with network.host.open_socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("address", [HOST, OUTSIDE])
def test_a_closed_port_refuses(network: Network, address: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        network.guest.connect(address, closed_port(network))


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (UNREACHABLE, errno.EHOSTUNREACH),
        (NO_ROUTE, errno.ENETUNREACH),
        ("169.254.169.254", errno.EHOSTUNREACH),
    ],
)
def test_what_the_host_cannot_reach_is_told_as_on_the_host(
    network: Network, address: str, error: int
) -> None:
    """By a blocking `connect`: where the ICMP error races with poll(2), Linux may lose it."""
    with pytest.raises(OSError) as raised:  # noqa: PT011
        network.guest.connect(address, 80, timeout=None)
    assert raised.value.errno == error


def start_connecting(network: Network, port: int) -> socket.socket:
    """Begin a connection to the host's loopback: a reset may come before `connect` returns."""
    sock = network.host.open_socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    sock.settimeout(10)
    return sock


def test_a_published_port_is_reset_where_the_guest_refuses_or_there_is_none(
    network: Network,
) -> None:
    with (
        published(network, f"{NOBODY}:{GUEST_PORT}"),
        published(network, f"{DEVICE}:{GUEST_PORT}", PUBLISHED_PORT + 1),
        start_connecting(network, PUBLISHED_PORT) as to_nobody,
        start_connecting(network, PUBLISHED_PORT + 1) as refused,
    ):
        read_until_reset(refused)
        assert not select.select([to_nobody], [], [], 0)[0], "it was not refused at once"
        read_until_reset(to_nobody)


def test_a_published_port_whose_guest_has_gone(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    gvproxy.expose(f"127.0.0.1:{PUBLISHED_PORT}", f"{DEVICE}:{GUEST_PORT}")
    with make_guest(world, gvproxy) as (_, agent):
        agent.process.stop()
        with world.host.connect("127.0.0.1", PUBLISHED_PORT) as client:
            read_until_reset(client)
    gvproxy.process.stop()
