"""Published ports: what may be asked for, and what happens to connections."""

import asyncio
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from gvproxy import errors
from gvproxy.services.forwarder import Forwarder
from tests.manual_loop import ManualLoop

GUEST = "192.168.127.2"
PACKED = bytes((192, 168, 127, 2))


class Bench:
    """A forwarder that hands its connections to the test."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.dialled: list[tuple[socket.socket, bytes, int]] = []
        self.clients: list[socket.socket] = []
        subnet = IPv4Network("192.168.127.0/24")
        owned = {IPv4Address("192.168.127.1"), IPv4Address("192.168.127.254")}
        self.forwarder = Forwarder(self.loop.as_loop(), subnet, owned, self.dial)

    def dial(self, sock: socket.socket, address: bytes, port: int) -> None:
        self.dialled.append((sock, address, port))

    def expose(
        self, local: str, remote: str, protocol: str = "tcp", caller: str | None = None
    ) -> None:
        asyncio.run(self.forwarder.expose(local, remote, protocol, caller))

    def unexpose(self, local: str, protocol: str = "tcp", caller: str | None = None) -> None:
        asyncio.run(self.forwarder.unexpose(local, protocol, caller))

    def connect(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        client = socket.create_connection((host, port))
        self.clients.append(client)
        return client

    def close(self) -> None:
        self.forwarder.close()
        assert not self.loop.readers
        assert not self.loop.timers
        for sock in (*self.clients, *(sock for sock, _, _ in self.dialled)):
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def port() -> int:
    """A port that is free on all addresses."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        return int(sock.getsockname()[1])


def test_a_connection_reaches_the_guest(bench: Bench, port: int) -> None:
    bench.expose(f"127.0.0.1:{port}", f"{GUEST}:22")
    client = bench.connect(port)
    bench.loop.run()
    ((sock, address, remote_port),) = bench.dialled
    assert (address, remote_port) == (PACKED, 22)
    assert not sock.getblocking()
    assert sock.getpeername() == client.getsockname()


@pytest.mark.parametrize(
    ("local", "reached"),
    [
        (":{}", ["127.0.0.1", "127.0.0.9", "::1"]),
        ("0.0.0.0:{}", ["127.0.0.1"]),
        ("[::1]:{}", ["::1"]),
        ("127.0.0.9:{}", ["127.0.0.9"]),
    ],
)
def test_which_addresses_are_listened_on(
    bench: Bench, port: int, local: str, reached: list[str]
) -> None:
    bench.expose(local.format(port), f"{GUEST}:80")
    for host in ("127.0.0.1", "127.0.0.9", "::1"):
        if host in reached:
            bench.connect(port, host)
    bench.loop.run()
    assert len(bench.dialled) == len(reached)
    if local.startswith(("[", "127")):
        with pytest.raises(ConnectionRefusedError):
            bench.connect(port, "127.0.0.1")


def test_what_is_published_is_shown_by_local_address(bench: Bench) -> None:
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            ports.append(sock.getsockname()[1])
    for number in ports:
        bench.expose(f"127.0.0.1:{number}", f"{GUEST}:{number}")
    assert bench.forwarder.all() == [
        {"local": local, "remote": f"{GUEST}:{local[10:]}", "protocol": "tcp"}
        for local in sorted(f"127.0.0.1:{number}" for number in ports)
    ]
    bench.unexpose(f"127.0.0.1:{ports[0]}")
    assert len(bench.forwarder.all()) == 2


def test_a_port_alone_is_the_callers(bench: Bench, port: int) -> None:
    bench.expose(f"127.0.0.1:{port}", ":80", caller="192.168.127.77")
    assert bench.forwarder.all()[0]["remote"] == "192.168.127.77:80"


def test_a_guest_publishes_and_takes_back_its_own_ports_only(bench: Bench, port: int) -> None:
    local, other = f"127.0.0.1:{port}", "192.168.127.77"
    with pytest.raises(
        errors.ForbiddenError, match=f"{other} may publish its own ports, not those of {GUEST}"
    ):
        bench.expose(local, f"{GUEST}:80", caller=other)
    assert bench.forwarder.all() == []
    bench.expose(local, f"{GUEST}:80", caller=GUEST)
    with pytest.raises(
        errors.ForbiddenError, match=f"{other} may not take back what leads to {GUEST}"
    ):
        bench.unexpose(local, caller=other)
    assert len(bench.forwarder.all()) == 1
    bench.unexpose(local, caller=GUEST)
    assert bench.forwarder.all() == []


@pytest.mark.parametrize("caller", [None, "", "127.0.0.1", "::1", "10.0.0.1"])
def test_the_host_publishes_anybodys(bench: Bench, port: int, caller: str | None) -> None:
    bench.expose(f"127.0.0.1:{port}", f"{GUEST}:80", caller=caller)
    bench.unexpose(f"127.0.0.1:{port}", caller=caller)
    assert bench.forwarder.all() == []


def test_what_was_taken_back_is_free_again(bench: Bench, port: int) -> None:
    local = f"127.0.0.1:{port}"
    bench.expose(local, f"{GUEST}:80")
    client = bench.connect(port)
    bench.loop.run()
    bench.unexpose(local)
    with pytest.raises(ConnectionRefusedError):
        bench.connect(port)
    client.send(b"still there")
    assert bench.dialled[0][0].recv(100) == b"still there"
    bench.expose(local, f"{GUEST}:81")
    bench.connect(port)
    bench.loop.run()
    assert bench.dialled[1][2] == 81


def test_a_thousand_ports(bench: Bench) -> None:
    for number in range(1000):
        bench.expose(f"127.1.{number >> 8}.{number & 255}:8080", f"{GUEST}:80")
    bench.connect(8080, "127.1.3.0")
    bench.loop.run()
    assert len(bench.dialled) == 1
    assert len(bench.forwarder.all()) == 1000


# Refusals


@pytest.mark.parametrize(
    ("local", "remote", "protocol", "error", "text"),
    [
        (":{}", GUEST, "tcp", errors.BadRemoteError, "remote '192.168.127.2' has no port"),
        (":{}", "", "tcp", errors.BadRemoteError, "remote '' has no port"),
        (":{}", ":80", "tcp", errors.BadRemoteError, "remote ':80' has no address"),
        (":{}", "10.0.0.1:80", "tcp", errors.BadRemoteError, "10.0.0.1 is not in the virtual"),
        (":{}", "127.0.0.1:80", "tcp", errors.BadRemoteError, "127.0.0.1 is not in the virtual"),
        (":{}", "guest:80", "tcp", errors.BadRemoteError, "'guest:80' is no IPv4 address"),
        (":{}", "[fd00::2]:80", "tcp", errors.BadRemoteError, "is no IPv4 address"),
        (":{}", "tcp://192.168.127.2:80", "tcp", errors.BadRemoteError, "is no IPv4 address"),
        (":{}", f"{GUEST}:0", "tcp", errors.BadPortError, "port '0' is not a number from 1 to"),
        (":{}", f"{GUEST}:http", "tcp", errors.BadPortError, "port 'http' is not"),
        (":{}", f"{GUEST}:65536", "tcp", errors.BadPortError, "port '65536' is not"),
        (":{}", f"{GUEST}:²", "tcp", errors.BadPortError, "port '²' is not"),
        (":{}", f"{GUEST}:" + "9" * 9999, "tcp", errors.BadPortError, "is not a number"),
        (":{}", "192.168.127.1:80", "tcp", errors.BadRemoteError, "is no address of a guest"),
        (":{}", "192.168.127.254:80", "tcp", errors.BadRemoteError, "is no address of a guest"),
        ("", f"{GUEST}:80", "tcp", errors.BadLocalError, "local '' has no port"),
        ("{}", f"{GUEST}:80", "tcp", errors.BadLocalError, "has no port"),
        ("127.0.0.1", f"{GUEST}:80", "tcp", errors.BadLocalError, "'127.0.0.1' has no port"),
        (":", f"{GUEST}:80", "tcp", errors.BadPortError, "port '' is not"),
        (":80a", f"{GUEST}:80", "tcp", errors.BadPortError, "port '80a' is not"),
        (":99999", f"{GUEST}:80", "tcp", errors.BadPortError, "port '99999' is not"),
        ("localhost:{}", f"{GUEST}:80", "tcp", errors.ListenError, "it is no IP address"),
        ("1.2.3.4.5:{}", f"{GUEST}:80", "tcp", errors.ListenError, "it is no IP address"),
        ("192.0.2.1:{}", f"{GUEST}:80", "tcp", errors.ListenError, "Cannot assign requested"),
        (":{}", f"{GUEST}:80", "sctp", errors.UnknownProtocolError, "unknown protocol sctp"),
        (":{}", f"{GUEST}:80", "udp", errors.NotSupportedError, "protocol udp is not supported"),
        ("/tmp/s", f"tcp://{GUEST}:80", "unix", errors.NotSupportedError, "protocol unix is not"),
        ("/tmp/s", f"tcp://{GUEST}:80", "npipe", errors.NotSupportedError, "protocol npipe is"),
    ],
)
def test_refused(
    bench: Bench,
    port: int,
    local: str,
    remote: str,
    protocol: str,
    error: type[errors.ForwarderError],
    text: str,
) -> None:
    with pytest.raises(error) as caught:
        bench.expose(local.format(port), remote, protocol)
    assert text in str(caught.value)
    assert bench.forwarder.all() == []
    assert bench.loop.readers == {}
    with socket.create_server(("127.0.0.1", port)):
        pass  # nothing was left half-made


def test_published_twice(bench: Bench, port: int) -> None:
    bench.expose(f":{port}", f"{GUEST}:80")
    with pytest.raises(errors.AlreadyExposedError) as caught:
        bench.expose(f":{port}", f"{GUEST}:81")
    assert str(caught.value) == f"proxy already running for tcp on :{port}"
    assert bench.forwarder.all()[0]["remote"] == f"{GUEST}:80"


def test_a_busy_port(bench: Bench, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        for local in (f"127.0.0.1:{port}", f":{port}"):
            with pytest.raises(errors.ListenError) as caught:
                bench.expose(local, f"{GUEST}:80")
            assert str(caught.value) == f"cannot listen on {local}: Address already in use"
    assert bench.forwarder.all() == []
    bench.expose(f"127.0.0.1:{port}", f"{GUEST}:80")


def test_taking_back_what_is_not_published(bench: Bench, port: int) -> None:
    bench.expose(f"127.0.0.1:{port}", f"{GUEST}:80")
    with pytest.raises(errors.NotExposedError) as caught:
        bench.unexpose(f":{port}")
    assert str(caught.value) == "proxy not found"
    with pytest.raises(errors.UnknownProtocolError):
        bench.unexpose(f"127.0.0.1:{port}", "sctp")
    assert len(bench.forwarder.all()) == 1
