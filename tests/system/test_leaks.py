"""Thousands of connections that end in every way there is leave nothing behind in the daemon.

FULL=1 in the environment makes twenty thousand of them.
"""

import contextlib
import errno
import itertools
import os
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab.network import UNREACHABLE, Network, make_network
from tests.lab.programs import DEVICE, HOST, Gvproxy
from tests.lab.sockets import read_all, reset
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

FULL = bool(os.environ.get("FULL"))
ROUND = 10_000 if FULL else 2_000
"""Connections; there are two rounds, so that the second shows what each of them costs for good."""
GROWTH = 4 << 20
"""Bytes of memory by which the second round may grow: what the allocator does not give back."""
CHUNK = 1 << 17
PUBLISHED_PORT = 8021
GUEST_PORT = 8020
CLOSED_PORT = 8022
PUBLISHED_CLOSED_PORT = 8023

Ending = Callable[[socket.socket, socket.socket], None]


def fill(sock: socket.socket) -> None:
    """Send as much as is taken at once."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.send(bytes(CHUNK))


# How a connection ends, begun by the first of its two ends; both are closed behind it.


def closed(one: socket.socket, other: socket.socket) -> None:
    one.sendall(b"goodbye")
    one.close()
    read_all(other)


def closed_by_both(one: socket.socket, other: socket.socket) -> None:
    one.close()
    other.close()


def half_closed(one: socket.socket, other: socket.socket) -> None:
    one.shutdown(socket.SHUT_WR)
    read_all(other)
    other.sendall(b"answer" * 1000)
    other.close()
    read_all(one)


def closed_with_unread_data(one: socket.socket, other: socket.socket) -> None:
    other.sendall(b"unread")
    one.recv(1)
    one.close()


def closed_in_mid_stream(one: socket.socket, other: socket.socket) -> None:
    fill(one)
    fill(other)
    one.close()


def reset_when_idle(one: socket.socket, other: socket.socket) -> None:
    reset(one)


def reset_in_mid_stream(one: socket.socket, other: socket.socket) -> None:
    fill(one)
    fill(other)
    reset(one)


def reset_after_the_peers_fin(one: socket.socket, other: socket.socket) -> None:
    other.shutdown(socket.SHUT_WR)
    read_all(one)
    reset(one)


def reset_after_its_own_fin(one: socket.socket, other: socket.socket) -> None:
    one.shutdown(socket.SHUT_WR)
    read_all(other)
    reset(one)


def reset_by_both(one: socket.socket, other: socket.socket) -> None:
    reset(one)
    reset(other)


ENDINGS: tuple[Ending, ...] = (
    closed,
    closed_by_both,
    half_closed,
    closed_with_unread_data,
    closed_in_mid_stream,
    reset_when_idle,
    reset_in_mid_stream,
    reset_after_the_peers_fin,
    reset_after_its_own_fin,
    reset_by_both,
)
CASES = list(itertools.product(ENDINGS, (False, True), (False, True)))
"""Each ending, begun by the guest and by the host, of its own and of published connections."""
KILLED = 5
FAILED = 5
BATCH = len(CASES) + KILLED + FAILED


@dataclass
class Load:
    """Makes connections and ends them."""

    network: Network
    outside: socket.socket
    inside: socket.socket
    abandoned: socket.socket
    chance: random.Random

    def pair(self, published: bool) -> tuple[socket.socket, socket.socket]:
        """Connect from the guest, or to its published port; the guest's end comes first."""
        if published:
            host = self.network.host.connect("127.0.0.1", PUBLISHED_PORT)
            guest = self.inside.accept()[0]
        else:
            guest = self.network.guest.connect(HOST, self.outside.getsockname()[1])
            host = self.outside.accept()[0]
        guest.settimeout(10)
        host.settimeout(10)
        return guest, host

    def batch(self) -> None:
        """Have BATCH connections at once, and end each in its own way, in any order."""
        self.fail()
        self.kill()
        with contextlib.ExitStack() as stack:
            cases = []
            for ending, by_host, published in CASES:
                pair = self.pair(published)
                for sock in pair:
                    stack.enter_context(sock)
                cases.append((ending, reversed(pair) if by_host else pair))
            self.chance.shuffle(cases)
            for ending, ends in cases:
                ending(*ends)

    def kill(self) -> None:
        """Kill a process that has the guest's ends of KILLED connections, half with unread data."""
        pairs = [self.pair(published=number % 4 == 0) for number in range(KILLED)]
        for one, other in pairs[::2]:
            other.sendall(b"unread")
            one.recv(1, socket.MSG_PEEK)
        held = [one.fileno() for one, _ in pairs]
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=held) as holder:
            for one, _ in pairs:
                one.close()
            holder.kill()
        for _, other in pairs:
            other.close()

    def fail(self) -> None:
        """Make FAILED connections that come to nothing."""
        network = self.network
        for address, port, error in (
            (HOST, CLOSED_PORT, ConnectionRefusedError),
            (UNREACHABLE, 80, OSError),
        ):
            with pytest.raises(error):
                network.guest.connect(address, port, timeout=None)
        with (
            contextlib.suppress(ConnectionResetError),
            network.host.connect("127.0.0.1", PUBLISHED_CLOSED_PORT) as client,
        ):
            read_all(client)
        network.host.connect("127.0.0.1", PUBLISHED_PORT).close()
        self.inside.accept()[0].close()
        with network.guest.open_socket() as sock:
            sock.setblocking(False)
            assert sock.connect_ex((HOST, self.abandoned.getsockname()[1])) == errno.EINPROGRESS
        with contextlib.suppress(BlockingIOError):
            while True:
                self.abandoned.accept()[0].close()

    def run(self) -> None:
        """Make ROUND connections and end them."""
        for _ in range(ROUND // BATCH):
            self.batch()


@contextlib.contextmanager
def load_on(network: Network) -> Iterator[Load]:
    """Listen and publish what a load needs."""
    gvproxy = network.gvproxy
    with (
        network.host.listen() as outside,
        network.guest.listen("0.0.0.0", GUEST_PORT) as inside,
        network.host.listen() as abandoned,
    ):
        abandoned.setblocking(False)
        gvproxy.expose(f"127.0.0.1:{PUBLISHED_PORT}", f"{DEVICE}:{GUEST_PORT}")
        gvproxy.expose(f"127.0.0.1:{PUBLISHED_CLOSED_PORT}", f"{DEVICE}:{CLOSED_PORT}")
        yield Load(network, outside, inside, abandoned, random.Random(1))


def wait_for_the_end(gvproxy: Gvproxy, most: int) -> int:
    """Wait until nothing is left but `most` descriptors; return the resident bytes."""

    def closed() -> None:
        held = gvproxy.process.descriptors()
        if held > most:
            raise NotYetError(f"{held} instead of {most}")

    gvproxy.wait_until_unused()
    until(closed, "the descriptors are closed")
    return gvproxy.process.resident()


@pytest.mark.timeout(900 if FULL else 60)
def test_nothing_is_left() -> None:
    with make_network() as network, load_on(network) as load:
        gvproxy = network.gvproxy
        load.batch()  # what is made once, is made now
        gvproxy.wait_until_unused()
        most = gvproxy.process.descriptors()
        load.run()
        first = wait_for_the_end(gvproxy, most)
        load.run()
        second = wait_for_the_end(gvproxy, most)
        assert "Traceback" not in gvproxy.process.log.read_text()
    assert second - first < GROWTH
