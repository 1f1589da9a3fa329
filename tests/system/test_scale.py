"""Many connections at once, and a guest that asks for more than there can be."""

import contextlib
import resource
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.lab.namespace import Namespace
from tests.lab.network import DEAD, Network, World, make_guest, make_network
from tests.lab.programs import GATEWAY, HOST, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
HELD = 10_000 if DESCRIPTORS >= 20_000 else DESCRIPTORS // 3
SYNS = 20_000
BURST = 200
"""SYNs between two round trips; a tap's queue of 500 packets takes them (Linux: TUN_READQ_SIZE)."""
MEMORY = 16 << 10
"""Bytes for each connection, at the most."""
CLOSED_PORT = 8030

_ECHO = """\
import asyncio
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=4096)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def start_echo(namespace: Namespace) -> int:
    """Start a server that says what it is told, in a process of its own; return its port."""
    echo = namespace.start("echo", sys.executable, "-c", _ECHO)
    return int(echo.wait_for("port").split()[1])


@pytest.mark.timeout(180)
def test_ten_thousand_connections_at_once() -> None:
    with make_network() as network:
        gvproxy = network.gvproxy
        port = start_echo(network.host)
        with contextlib.ExitStack() as stack:
            stack.enter_context(network.guest.connect(HOST, port)).close()
            before = gvproxy.process.resident()
            socks = [stack.enter_context(network.guest.connect(HOST, port)) for _ in range(HELD)]
            for number, sock in enumerate(socks):
                sock.sendall(b"%d" % number)
            for number, sock in enumerate(socks):
                assert sock.recv(16) == b"%d" % number
            assert gvproxy.get("/stats")["TCP"]["CurrentEstablished"] >= HELD
            each = (gvproxy.process.resident() - before) / HELD
        # All of them ended at once, and the guest's queue has room for something else, though its
        # kernel may have lost what it asked for the gateway's MAC address meanwhile.
        until(lambda: _answers(network.guest), "the gateway answers", 60)
        gvproxy.wait_until_unused()
        assert each < MEMORY


def _answers(guest: Namespace) -> None:
    ping = guest.try_run("ping", "-n", "-c", "1", "-W", "1", GATEWAY)
    if ping.returncode:
        raise NotYetError(ping.stdout)


@contextlib.contextmanager
def round_trips(guest: Namespace, host: Namespace) -> Iterator[Callable[[], None]]:
    """Have a connection; each call of what is yielded sends both ways and waits for it."""
    with (
        host.listen() as listener,
        guest.connect(HOST, listener.getsockname()[1]) as here,
        listener.accept()[0] as there,
    ):
        there.settimeout(10)

        def round_trip() -> None:
            here.sendall(b"question")
            assert there.recv(16) == b"question"
            there.sendall(b"answer")
            assert here.recv(16) == b"answer"

        yield round_trip


def connect_all(guest: Namespace, address: str, port: int, count: int) -> list[socket.socket]:
    """Begin `count` connections."""
    with guest.entered():
        socks = [socket.socket() for _ in range(count)]
    for sock in socks:
        sock.setblocking(False)
        sock.connect_ex((address, port))
    return socks


@pytest.mark.timeout(120)
def test_many_are_refused_and_others_work(network: Network) -> None:
    with round_trips(network.guest, network.host) as round_trip:
        for _ in range(SYNS // BURST):
            socks = connect_all(network.guest, HOST, CLOSED_PORT, BURST)
            round_trip()
            for sock in socks:
                sock.settimeout(10)
                with sock, pytest.raises(ConnectionRefusedError):
                    sock.send(b"x")


@pytest.mark.timeout(120)
def test_many_are_never_answered_and_others_work(world: World) -> None:
    """More than may be being made at once: the rest is dropped and counted."""
    prefix = DEAD.rpartition(".")[0].rpartition(".")[0]
    gvproxy = Gvproxy(world.folder, world.host, "-connect-timeout", "10")
    with make_guest(world, gvproxy) as (guest, _):
        with round_trips(guest, world.host) as round_trip:
            for number in range(SYNS // BURST):
                for sock in connect_all(guest, f"{prefix}.1.{number}", 80, BURST):
                    sock.close()
                round_trip()
            tcp = gvproxy.get("/stats")["TCP"]
        dropped, pending = tcp["ForwardMaxInFlightDrop"], tcp["CurrentConnected"] - 1
        assert dropped
        assert dropped + pending + tcp["FailedConnectionAttempts"] == SYNS
        gvproxy.wait_until_unused()
    assert "Traceback" not in gvproxy.process.log.read_text()
    gvproxy.process.stop()


def test_more_connections_than_descriptors(world: World) -> None:
    """What does not fit is dropped and comes again by itself; the API goes on to answer."""
    gvproxy = Gvproxy(world.folder, world.host, before=("prlimit", "--nofile=256:256"))
    port = start_echo(world.host)
    with make_guest(world, gvproxy) as (guest, _):
        with round_trips(guest, world.host) as round_trip:
            socks = connect_all(guest, HOST, port, 300)
            round_trip()
            assert gvproxy.get("/stats")["TCP"]["ForwardMaxInFlightDrop"]
            for sock in socks[:250]:
                sock.close()
            for sock in socks[250:]:
                sock.settimeout(30)
                with sock:
                    sock.sendall(b"x")
                    assert sock.recv(1) == b"x"
        gvproxy.wait_until_unused()
    assert "Traceback" not in gvproxy.process.log.read_text()
    gvproxy.process.stop()
