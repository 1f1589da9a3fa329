"""The clock jumps, for the daemon was stopped or its host busy: nothing is lost by that, nothing
stays for ever, and nothing is made up for in a storm.

Ten seconds are longer than most waits, eight hours longer than all.
"""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop
from aiohttp import web

from gvproxy.api import app
from gvproxy.api.callers import Callers
from gvproxy.flows import echo, udp
from gvproxy.limits import Limit, Quota
from gvproxy.ports.fairness import MAX_FACTOR, MAX_FRAMES, MAX_PAUSE, MOST, Fairness, Turns
from gvproxy.ports.lobby import Lobby
from gvproxy.services.dhcp import LEASE_TIME
from gvproxy.stack.fragments import Reassembler
from gvproxy.tcp import timers
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.states import ESTABLISHED, SYN_RECEIVED, SYN_SENT, State
from tests.host.flows import test_echo
from tests.host.flows.guest import CONNECT_TIMEOUT, GUEST, HOST, Guest, Socket
from tests.host.services import test_dhcp, test_dns, test_udpforward
from tests.host.stack.test_fragments import KEY, PAYLOAD, piece
from tests.manual_loop import ManualLoop

HOURS = 8 * 3600.0
JUMPS = pytest.mark.parametrize("seconds", [10.0, HOURS], ids=["10s", "8h"])
PORT = 5353


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest(ManualLoop())
    yield guest
    guest.host_port.cut = False
    guest.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)
        yield sock


def jump(guest: Guest, seconds: float) -> int:
    """Stop the daemon for so long; return how many frames it sends once it goes on.

    The guest's kernel hears them, and what it waits for itself comes later.
    """
    before = guest.host_port.sent
    guest.loop.jump(seconds)
    guest.host.run_timers(guest.loop.now)
    guest.loop.run()
    return guest.host_port.sent - before


def connect(guest: Guest, server: socket.socket) -> tuple[Socket, socket.socket]:
    inside = guest.connect(HOST, server.getsockname()[1])
    guest.loop.until(lambda: inside.told == ["established"])
    guest.tick(1.0)
    outside = server.accept()[0]
    outside.settimeout(10)
    return inside, outside


def the_host_side(guest: Guest) -> Connection:
    (flow,) = guest.tcp.open
    assert flow.connection is not None
    return flow.connection


def state(connection: Connection) -> State:
    return connection.state


@JUMPS
def test_a_silent_connection(guest: Guest, server: socket.socket, seconds: float) -> None:
    """It is asked whether it is there at most, once."""
    inside, outside = connect(guest, server)
    with outside:
        ours = the_host_side(guest)
        ours.keepalive = 7200.0
        outside.send(b"first ")
        guest.loop.until(lambda: inside.data)
        guest.tick(1.0)
        assert jump(guest, seconds) == (seconds == HOURS)
        assert ours.retries == (seconds == HOURS)
        guest.tick(timers.KEEPALIVE_INTERVAL)
        assert not ours.retries, "the guest has answered"
        inside.send(b"up")
        guest.loop.run()
        assert outside.recv(10) == b"up"
        outside.send(b"down")
        guest.loop.until(lambda: inside.data == b"first down")


@JUMPS
def test_data_on_its_way(guest: Guest, server: socket.socket, seconds: float) -> None:
    """What was not acknowledged is sent again, once; the time is no reason to give up."""
    inside, outside = connect(guest, server)
    with outside:
        guest.host_port.cut = True
        outside.send(bytes(100_000))
        guest.loop.until(lambda: the_host_side(guest).flight)
        assert 1 <= jump(guest, seconds) <= 2
        ours = the_host_side(guest)
        assert (ours.state, ours.retries <= 1) == (ESTABLISHED, True)
        guest.host_port.cut = False
        for _ in range(100):
            if len(inside.data) == 100_000:
                break
            guest.tick(0.5)
        assert len(inside.data) == 100_000


@JUMPS
def test_a_connection_that_is_being_made_to_a_guest(guest: Guest, seconds: float) -> None:
    here, there = socket.socketpair()
    with there:
        guest.host_port.cut = True
        guest.tcp.dial(here, GUEST, 80)
        guest.loop.run()
        ours = the_host_side(guest)
        for times in range(1, 4):
            assert jump(guest, seconds) == 1
            assert (state(ours), ours.retries) == (SYN_SENT, times)


@JUMPS
def test_a_connection_that_a_guest_is_making(
    guest: Guest, server: socket.socket, seconds: float
) -> None:
    guest.host_port.cut = True
    inside = guest.connect(HOST, server.getsockname()[1])
    guest.loop.until(lambda: guest.host_port.sent)
    ours = the_host_side(guest)
    assert state(ours) is SYN_RECEIVED
    assert jump(guest, seconds) == 1
    assert (state(ours), ours.retries) == (SYN_RECEIVED, 1)
    guest.host_port.cut = False
    for _ in range(20):
        guest.tick(0.5)
    assert inside.told == ["established"]


@JUMPS
def test_a_connection_to_who_does_not_answer(guest: Guest, seconds: float) -> None:
    """Its time is over; the guest's SYNs come again."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        guest.connect(HOST, full.getsockname()[1])
        guest.loop.run()
        assert len(guest.tcp.open) == guest.quotas.half_open.used == 1
        assert jump(guest, seconds) == 0
        assert len(guest.tcp.open) == guest.quotas.half_open.used == (seconds < CONNECT_TIMEOUT)
        if not guest.tcp.open:
            guest.tick(1.0)
            assert len(guest.tcp.open) == 1


@JUMPS
def test_datagrams(guest: Guest, seconds: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(10)
        got = guest.bind(PORT)

        def exchange() -> object:
            guest.send_to(HOST, peer.getsockname()[1], b"there", PORT)
            guest.loop.run()
            _, source = peer.recvfrom(10)
            peer.sendto(b"back", source)
            count = len(got) + 1
            guest.loop.until(lambda: len(got) == count)
            return source

        before = exchange()
        assert jump(guest, seconds) == 0
        kept = seconds < udp.IDLE_TIMEOUT
        assert len(guest.udp.mappings) == kept
        after = exchange()
        assert (after == before) or not kept
        assert len(guest.udp.mappings) == 1


@JUMPS
def test_pings(guest: Guest, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = {name: getattr(socket, name) for name in dir(socket)}
    made = SimpleNamespace(**sockets | {"socket": test_echo.FakePing})
    monkeypatch.setattr(echo, "socket", made)
    for count in (1, 2):
        test_echo.ping(guest, HOST, 7, count, b"body")
        guest.loop.until(lambda count=count: len(guest.echoes) == count)
        jump(guest, seconds)
        assert len(guest.echo.sessions) == (seconds < echo.IDLE_TIMEOUT)


@JUMPS
def test_leases(seconds: float) -> None:
    """One that has run out is its client's until another needs it, and nobody does."""
    client = test_dhcp.Client()
    address = client.lease(1)
    client.now += seconds
    in_force = seconds < LEASE_TIME
    assert (client.server.owner(test_dhcp.ip(address), client.now) is not None) is in_force
    assert client.lease(2) != address
    assert client.ask(test_dhcp.REQUEST, 1, wanted=address) == f"ack {address}"
    assert client.server.owner(test_dhcp.ip(address), client.now) == test_dhcp.mac(1)


@pytest.fixture
def names(tmp_path: Path) -> Iterator[test_dns.Bench]:
    bench = test_dns.Bench(tmp_path)
    yield bench
    bench.close()


@JUMPS
@pytest.mark.parametrize("answered", [True, False])
def test_names(names: test_dns.Bench, seconds: float, answered: bool) -> None:
    """An answer that is there counts, however late it is read; without one the next is asked."""
    names.list_servers(2)
    for ident in range(5):
        names.ask(test_dns.question(ident=ident))
    if answered:
        assert names.upstreams[0].answer(test_dns.respond) == 5
    names.loop.jump(seconds)
    if not answered:
        assert names.replies == []
        assert names.upstreams[1].answer(test_dns.respond) == 5
        names.loop.until(lambda: len(names.replies) == 5)
    assert names.rcodes() == ["NOERROR"] * 5
    assert names.resolver.counters.timeouts == (0 if answered else 5)
    assert not len(names.resolver)


@JUMPS
def test_fragments(seconds: float) -> None:
    quota = Quota(Limit(4, 4))
    reassembler = Reassembler(quota)
    assert reassembler.add(KEY, *piece(0, 1024), 0.0) is None
    whole = reassembler.add(KEY, *piece(1024, 2048), seconds)
    assert whole == (PAYLOAD if seconds == 10.0 else None)
    if whole is None:
        assert reassembler.add(KEY, *piece(0, 1024), seconds) == PAYLOAD
    assert quota.used == 0


@JUMPS
def test_a_guest_that_was_read_at_that_moment(seconds: float) -> None:
    """The time is not charged to it, and its batches grow again."""
    moved = {1: 0, 2: 10**9}
    fairness, turns = Fairness(moved.items), Turns()
    fairness.factor(1, 1.0)
    moved[2] += 10**9
    assert turns.took(seconds, MAX_FRAMES, 0)
    assert turns._debt <= MAX_FRAMES * MOST
    assert turns.frames == 1
    assert turns.pay(MAX_FACTOR) == MAX_PAUSE
    assert 0 < fairness.factor(1, 1.0 + seconds) <= MAX_FACTOR
    batches = 0
    while turns.frames < MAX_FRAMES:
        assert not turns.took(turns.frames * 1e-6, turns.frames, turns.frames * 1500)
        batches += 1
    assert batches < 10


@JUMPS
def test_who_has_not_said_what_it_wants(seconds: float) -> None:
    loop = ManualLoop()
    lobby = Lobby(loop.as_loop())
    here, there = socket.socketpair()
    with here:
        there.setblocking(False)
        lobby.enter(there, "here", lambda data: None)
        loop.jump(seconds)
        assert not lobby.waiting
        assert here.recv(1) == b""
    assert loop.idle


class Transport(asyncio.Transport):
    closed = 0

    def close(self) -> None:
        self.closed += 1

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize("busy", [True, False])
@JUMPS
def test_callers(seconds: float, busy: bool) -> None:
    """One that waits for its answer has all the time there is."""
    loop = ManualLoop()
    callers = Callers(loop.as_loop(), 4)
    runner = app.make_runner(web.Application())

    async def scenario() -> None:
        await runner.setup()
        assert runner.server is not None
        caller = callers.make_protocol(runner.server, b"")
        transport = Transport()
        caller.connection_made(transport)
        if busy:
            caller.busy()
        loop.jump(seconds)
        assert transport.closed == (not busy)
        assert callers.used == busy
        caller.connection_lost(None)
        assert callers.used == 0
        await runner.cleanup()

    asyncio.run(scenario())
    assert loop.idle


@JUMPS
def test_clients_of_a_published_port(seconds: float) -> None:
    bench = test_udpforward.Bench()
    with test_udpforward.make_client() as client:
        port = bench.send(client, b"question")
        bench.loop.jump(seconds)
        kept = seconds < test_udpforward.IDLE_TIMEOUT
        assert len(bench.network._endpoints) == kept
        after = bench.send(client, b"another")
        assert (after == port) or not kept
        bench.answer(after, b"answer")
        assert client.recv(100) == b"answer"
    bench.close()
