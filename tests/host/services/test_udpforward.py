"""A published UDP port, with a guest at its end and clients on loopback."""

import errno
import socket
from collections.abc import Iterator

import pytest
import uvloop

from gvproxy.limits import Limit, Quota
from gvproxy.services import udpforward
from gvproxy.services.udpforward import IDLE_TIMEOUT, MAX_CLIENTS, UdpForward
from gvproxy.virtual import VirtualNetwork
from tests.host.flows.guest import GATEWAY, GUEST, Cable, Guest
from tests.manual_loop import ManualLoop

PORT = 5300


class Bench:
    """`got` is what arrived at the guest's port."""

    def __init__(self, host: str = "") -> None:
        self.loop = ManualLoop()
        self.guest = Guest(self.loop)
        self.network = VirtualNetwork(self.guest.host, self.loop.as_loop())
        sock = udpforward.listen(host, 0)
        self.port: int = sock.getsockname()[1]
        self.owner = Cable(self.loop, self.guest.host)
        self.quota = Quota(Limit(16, 8))
        target = socket.inet_ntoa(GUEST), PORT
        self.forward = UdpForward(
            self.loop.as_loop(), self.network, sock, target, self.quota, self.owner
        )
        self.got = self.guest.bind(PORT)

    def send(self, client: socket.socket, payload: bytes, host: str = "127.0.0.1") -> int:
        """Have a client send; return the gateway's port that the guest sees it at."""
        count = len(self.got) + 1
        client.sendto(payload, (host, self.port))
        self.loop.until(lambda: len(self.got) == count)
        source, port, arrived = self.got[-1]
        assert (source, arrived) == (GATEWAY, payload)
        return port

    def answer(self, port: int, payload: bytes) -> None:
        self.guest.send_to(GATEWAY, port, payload, PORT)
        self.loop.run()

    def close(self) -> None:
        self.forward.close()
        self.loop.run()
        assert not self.network._endpoints
        assert not self.quota.used
        self.network.close()
        self.guest.close()


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def make_client(family: int = socket.AF_INET) -> socket.socket:
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.settimeout(10)
    return client


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with make_client() as sock:
        yield sock


@pytest.mark.parametrize("size", [0, 1, 1472, 9000, 60_000])
def test_there_and_back(bench: Bench, client: socket.socket, size: int) -> None:
    port = bench.send(client, b"x" * size)
    bench.answer(port, b"y" * size)
    assert client.recvfrom(65535) == (b"y" * size, ("127.0.0.1", bench.port))


def test_each_client_has_a_port_of_its_own_and_keeps_it(bench: Bench) -> None:
    with make_client() as one, make_client() as other:
        ports = [bench.send(one, b"1"), bench.send(other, b"2")]
        assert len(set(ports)) == 2
        assert [bench.send(one, b"3"), bench.send(other, b"4")] == ports
        bench.answer(ports[1], b"for the other")
        assert other.recv(100) == b"for the other"
        bench.answer(ports[0], b"for the one")
        assert one.recv(100) == b"for the one"


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "127.0.0.9"),
        (socket.AF_INET6, "::1"),
    ],
)
def test_an_answer_comes_from_where_the_question_went(bench: Bench, family: int, host: str) -> None:
    with make_client(family) as client:
        client.connect((host, bench.port))
        client.send(b"question")
        bench.loop.until(lambda: bench.got)
        bench.answer(bench.got[0][1], b"answer")
        assert client.recv(100) == b"answer"


def test_an_ipv4_socket_answers_from_where_the_question_went() -> None:
    bench = Bench("0.0.0.0")
    with make_client() as client:
        client.connect(("127.0.0.9", bench.port))
        client.send(b"question")
        bench.loop.until(lambda: bench.got)
        bench.answer(bench.got[0][1], b"answer")
        assert client.recv(100) == b"answer"
    bench.close()


def test_others_of_the_network_cannot_answer(bench: Bench, client: socket.socket) -> None:
    port = bench.send(client, b"question")
    bench.guest.send_to(GATEWAY, port, b"from another port", PORT + 1)
    bench.answer(port, b"from the port itself")
    assert client.recv(100) == b"from the port itself"


def test_a_silent_client_is_forgotten(bench: Bench, client: socket.socket) -> None:
    port = bench.send(client, b"1")
    bench.loop.advance(IDLE_TIMEOUT - 1)
    assert bench.send(client, b"2") == port
    bench.loop.advance(IDLE_TIMEOUT + udpforward.SWEEP_INTERVAL)
    assert not bench.network._endpoints
    assert not [timer for timer in bench.loop.timers if timer.at < bench.loop.now + 60]
    assert bench.send(client, b"3") != port


def test_the_client_unused_for_longest_makes_room(
    bench: Bench, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.forward._clients, "_quota", Quota(Limit(2, 2)))
    assert MAX_CLIENTS > 2
    with make_client() as second, make_client() as third:
        first_port, second_port = bench.send(client, b"1"), bench.send(second, b"2")
        bench.send(client, b"again")
        bench.send(third, b"3")
        assert len(bench.network._endpoints) == 2
        assert bench.send(client, b"still there") == first_port
        assert bench.send(second, b"anew") != second_port


def test_a_guests_ports_leave_room_for_anothers_clients(
    bench: Bench, client: socket.socket
) -> None:
    """It has published many, and sends to all of them itself."""
    forwards = [bench.forward]
    for _ in range(20):
        sock = udpforward.listen("127.0.0.1", 0)
        forwards.append(
            UdpForward(
                bench.loop.as_loop(),
                bench.network,
                sock,
                bench.forward.guest,
                bench.quota,
                bench.owner,
            )
        )
        client.sendto(b"x", sock.getsockname())
        bench.loop.run()
    assert bench.quota.held(bench.owner) == bench.quota.used == len(bench.got) == 8
    bench.forward._owner = Cable(bench.loop, bench.guest.host)
    bench.send(client, b"from the other guest's")
    assert bench.quota.used == 9
    for one in forwards[1:]:
        one.close()


def test_with_no_port_left_a_forward_s_own_oldest_client_makes_room(
    bench: Bench, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gvproxy.virtual.network.MAX_ENDPOINTS", 2)
    with make_client() as second, make_client() as third:
        ports = [bench.send(one, b"x") for one in (client, second)]
        ports.append(bench.send(third, b"3"))
        assert bench.send(second, b"still there") == ports[1]
        assert len(bench.network._endpoints) == 2


def test_no_port_is_left_at_the_gateway(
    bench: Bench, client: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    def bind(protocol: object) -> None:
        raise OSError(errno.EADDRINUSE, "in use")

    bench.network.bind = bind  # type: ignore[method-assign,assignment]
    for _ in range(2):
        client.sendto(b"x", ("127.0.0.1", bench.port))
        bench.loop.turn(10_000)
    assert caplog.messages == ["a datagram is lost: the gateway has no port left"]
    assert not bench.got


def test_a_client_that_has_gone(bench: Bench) -> None:
    with make_client() as client:
        port = bench.send(client, b"question")
    bench.answer(port, b"answer")
    bench.answer(port, b"another")
    with make_client() as client:
        assert bench.send(client, b"the port goes on") != port
