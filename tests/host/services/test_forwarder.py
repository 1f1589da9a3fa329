"""Published ports: what may be asked for, and what happens to connections."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gvproxy import errors
from gvproxy.limits import Limit
from tests.host.forwarding import GUEST, make_forwarder
from tests.host.stack.bench import Port
from tests.manual_loop import ManualLoop

PACKED = bytes((192, 168, 127, 2))


class Bench:
    """A forwarder that hands its connections to the test."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.dialled: list[tuple[socket.socket, bytes, int]] = []
        self.clients: list[socket.socket] = []
        names = {
            "guest": [GUEST],
            "guest.internal": ["10.0.0.1", GUEST],
            "gateway.internal": ["192.168.127.1"],
            "www.example": ["203.0.113.7"],
        }
        self.forwarder = make_forwarder(self.loop.as_loop(), self.dial, names=names, limit=1010)
        self.guest = Port()  # that calls
        self.guest.attached = True

    def dial(self, sock: socket.socket, address: bytes, port: int) -> None:
        self.dialled.append((sock, address, port))

    def expose(
        self, local: str, remote: str, protocol: str = "tcp", caller: str | None = None
    ) -> None:
        port = self.guest if caller else None
        asyncio.run(self.forwarder.expose(local, remote, protocol, caller, port))

    def unexpose(self, local: str, protocol: str = "tcp", caller: str | None = None) -> None:
        asyncio.run(self.forwarder.unexpose(local, protocol, caller))

    def connect(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        client = socket.create_connection((host, port))
        self.clients.append(client)
        return client

    def close(self) -> None:
        asyncio.run(self.forwarder.close())
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


def consecutive(count: int) -> list[int]:
    """Return ports in a row that are free on loopback, for TCP and UDP alike."""
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first, first + count):
                    if port > first:
                        stack.enter_context(socket.create_server(("127.0.0.1", port)))
                    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return list(range(first, first + count))
    raise AssertionError("no free ports in a row")


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


def test_how_many_there_are_is_told(bench: Bench) -> None:
    told: list[int] = []
    bench.forwarder.changed = told.append
    first = consecutive(3)[0]
    local, remote = f"127.0.0.1:{first}-{first + 2}", f"{GUEST}:1-3"
    bench.expose(local, remote)
    with pytest.raises(errors.AlreadyExposedError):
        bench.expose(local, remote)
    bench.unexpose(f"127.0.0.1:{first}")
    assert told == [3, 2]


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
        (":{}", "", "tcp", errors.BadRemoteError, "remote is missing"),
        (":{}", ":80", "tcp", errors.BadRemoteError, "remote has no address, and the caller is no"),
        (":{}", "10.0.0.1:80", "tcp", errors.BadRemoteError, "10.0.0.1 is not in the virtual"),
        (":{}", "127.0.0.1:80", "tcp", errors.BadRemoteError, "127.0.0.1 is not in the virtual"),
        (
            ":{}",
            "nobody:80",
            "tcp",
            errors.BadRemoteError,
            "remote nobody has no IPv4",
        ),
        (
            ":{}",
            "[fd00::2]:80",
            "tcp",
            errors.BadRemoteError,
            "'[fd00::2]' is no IPv4",
        ),
        (":{}", "www.example:80", "tcp", errors.BadRemoteError, "203.0.113.7 is not in the"),
        (":{}", "gateway.internal:80", "tcp", errors.BadRemoteError, "is no address of a guest"),
        (":{}", "a..b:80", "tcp", errors.BadRemoteError, "'a..b' is no IPv4 address, and no name"),
        (":{}", "x" * 64 + ":80", "tcp", errors.BadRemoteError, "is no IPv4 address, and no name"),
        (":{}", "a." * 127 + "a:80", "tcp", errors.BadRemoteError, "and no name"),
        (":{}", "tcp://192.168.127.2:80", "tcp", errors.BadRemoteError, "must be host:port, and"),
        (":{}", f"{GUEST}:0", "tcp", errors.BadPortError, "port '0' is not a number from 1 to"),
        (":{}", f"{GUEST}:http", "tcp", errors.BadPortError, "port 'http' is not"),
        (":{}", f"{GUEST}:65536", "tcp", errors.BadPortError, "port '65536' is not"),
        (":{}", f"{GUEST}:²", "tcp", errors.BadPortError, "port '²' is not"),
        (":{}", f"{GUEST}:" + "9" * 9999, "tcp", errors.BadPortError, "is not a number"),
        (":{}", "192.168.127.1:80", "tcp", errors.BadRemoteError, "is no address of a guest"),
        (":{}", "192.168.127.254:80", "tcp", errors.BadRemoteError, "is no address of a guest"),
        ("", f"{GUEST}:80", "tcp", errors.BadLocalError, "local is missing"),
        ("{}", f"{GUEST}:80", "tcp", errors.BadLocalError, "has no port"),
        ("127.0.0.1", f"{GUEST}:80", "tcp", errors.BadLocalError, "'127.0.0.1' has no port"),
        (":", f"{GUEST}:80", "tcp", errors.BadPortError, "port '' is not"),
        (":80a", f"{GUEST}:80", "tcp", errors.BadPortError, "port '80a' is not"),
        (":99999", f"{GUEST}:80", "tcp", errors.BadPortError, "port '99999' is not"),
        ("localhost:{}", f"{GUEST}:80", "tcp", errors.ListenError, "it is no IP address"),
        ("1.2.3.4.5:{}", f"{GUEST}:80", "tcp", errors.ListenError, "it is no IP address"),
        ("192.0.2.1:{}", f"{GUEST}:80", "tcp", errors.ListenError, "Cannot assign requested"),
        (":{}", f"{GUEST}:80", "sctp", errors.UnknownProtocolError, "unknown protocol sctp"),
        (":{}", f"{GUEST}:80", "TCP", errors.UnknownProtocolError, "unknown protocol TCP"),
        ("localhost:{}", f"{GUEST}:80", "udp", errors.ListenError, "it is no IP address"),
        ("192.0.2.1:{}", f"{GUEST}:80", "udp", errors.ListenError, "Cannot assign requested"),
        ("[::1%none]:{}", f"{GUEST}:80", "udp", errors.ListenError, "there is no such interface"),
        ("name", f"tcp://{GUEST}:80", "npipe", errors.NotSupportedError, "npipe needs a host with"),
        ("/tmp/no/such/folder/s", f"tcp://{GUEST}:80", "unix", errors.ListenError, "No such file"),
        ("/tmp", f"tcp://{GUEST}:80", "unix", errors.ListenError, "exists and is not a socket"),
        ("/" + "x" * 108, f"tcp://{GUEST}:80", "unix", errors.ListenError, "longer than 107 bytes"),
        ("/tmp/s", "tcp://10.0.0.1:80", "unix", errors.BadRemoteError, "is not in the virtual"),
        ("/tmp/s", "tcp://:80", "unix", errors.BadRemoteError, "remote has no address"),
        (":{}", f"{GUEST}:80-81", "tcp", errors.BadRemoteError, "has 2 ports, and local ':"),
        (":1024-2047", f"{GUEST}:1024-2047", "udp", errors.ListenError, "1010 are published"),
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


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_range_is_published_and_taken_back_as_one(bench: Bench, protocol: str) -> None:
    ports = consecutive(3)
    local, remote = f"127.0.0.1:{ports[0]}-{ports[2]}", f"{GUEST}:8000-8002"
    bench.expose(local, remote, protocol)
    assert bench.forwarder.all() == [
        {"local": f"127.0.0.1:{port}", "remote": f"{GUEST}:{8000 + n}", "protocol": protocol}
        for n, port in enumerate(ports)
    ]
    with pytest.raises(errors.AlreadyExposedError, match=f"{protocol} on 127.0.0.1:{ports[1]}"):
        bench.expose(f"127.0.0.1:{ports[1]}", f"{GUEST}:1", protocol)
    bench.unexpose(f"127.0.0.1:{ports[1]}", protocol)
    with pytest.raises(errors.NotExposedError):
        bench.unexpose(local, protocol)
    assert len(bench.forwarder.all()) == 2, "nothing of it was taken back"
    bench.expose(f"127.0.0.1:{ports[1]}", f"{GUEST}:1", protocol)
    bench.unexpose(local, protocol)
    assert bench.forwarder.all() == []


def test_each_port_of_a_range_leads_to_its_own(bench: Bench) -> None:
    ports = consecutive(3)
    bench.expose(f"127.0.0.1:{ports[0]}-{ports[2]}", f"{GUEST}:8000-8002")
    for port in reversed(ports):
        bench.connect(port)
        bench.loop.run()
    assert [remote for _, _, remote in bench.dialled] == [8002, 8001, 8000]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_range_of_which_one_is_busy(bench: Bench, protocol: str) -> None:
    ports = consecutive(3)
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as busy:
        busy.bind(("127.0.0.1", ports[2]))
        if protocol == "tcp":
            busy.listen()
        with pytest.raises(errors.ListenError, match=f"127.0.0.1:{ports[2]}: Address already in"):
            bench.expose(f"127.0.0.1:{ports[0]}-{ports[2]}", f"{GUEST}:1-3", protocol)
        assert bench.forwarder.all() == []
        assert not bench.loop.readers
    bench.expose(f"127.0.0.1:{ports[0]}-{ports[2]}", f"{GUEST}:1-3", protocol)


def test_a_protocol_has_ports_of_its_own(bench: Bench, port: int) -> None:
    for protocol in ("udp", "tcp"):
        bench.expose(f":{port}", f"{GUEST}:53", protocol)
    assert [one["protocol"] for one in bench.forwarder.all()] == ["tcp", "udp"]
    bench.unexpose(f":{port}", "udp")
    assert [one["protocol"] for one in bench.forwarder.all()] == ["tcp"]


@pytest.mark.parametrize("name", ["guest", "guest.internal"])
def test_a_name_leads_to_its_address_in_the_network(bench: Bench, port: int, name: str) -> None:
    bench.expose(f"127.0.0.1:{port}", f"{name}:22")
    assert bench.forwarder.all()[0]["remote"] == f"{GUEST}:22"


def test_a_guest_has_no_names_looked_up(bench: Bench, port: int) -> None:
    with pytest.raises(errors.ForbiddenError, match="may have no names looked up: guest"):
        bench.expose(f"127.0.0.1:{port}", "guest:22", caller=GUEST)
    assert bench.forwarder.all() == []


# Unix sockets


@pytest.mark.parametrize("prefix", ["", "unix://"])
def test_a_unix_socket_reaches_a_port(bench: Bench, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "a socket"
    bench.expose(f"{prefix}{path}", f"tcp://{GUEST}:80", "unix")
    assert path.stat().st_mode & 0o777 == 0o600
    assert bench.forwarder.all() == [
        {"local": str(path), "remote": f"tcp://{GUEST}:80", "protocol": "unix"}
    ]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        bench.loop.run()
        ((sock, address, port),) = bench.dialled
        assert (address, port) == (PACKED, 80)
        client.send(b"hello")
        assert sock.recv(10) == b"hello"
    bench.unexpose(str(path), "unix")
    assert not path.exists()


def test_a_stale_socket_is_replaced_and_a_busy_one_is_not(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(errors.ListenError, match="somebody listens there"):
            bench.expose(str(path), f"tcp://{GUEST}:80", "unix")
    bench.expose(str(path), f"tcp://{GUEST}:80", "unix")
    with pytest.raises(errors.AlreadyExposedError, match=f"for unix on {path}"):
        bench.expose(str(path), f"tcp://{GUEST}:81", "unix")


def test_what_has_taken_the_place_of_a_socket_stays(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "s"
    bench.expose(str(path), f"tcp://{GUEST}:80", "unix")
    path.unlink()
    path.write_text("another's")
    bench.unexpose(str(path), "unix")
    assert path.read_text() == "another's"


def test_a_file_is_never_replaced(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "diary"
    path.write_text("dear diary")
    with pytest.raises(errors.ListenError, match="exists and is not a socket"):
        bench.expose(str(path), f"tcp://{GUEST}:80", "unix")
    assert path.read_text() == "dear diary"


@pytest.mark.parametrize("protocol", ["unix", "npipe"])
def test_a_guest_has_no_business_with_the_hosts_files(
    bench: Bench, tmp_path: Path, protocol: str
) -> None:
    path = str(tmp_path / "s")
    with pytest.raises(errors.ForbiddenError, match="may publish ports, not files of the host"):
        bench.expose(path, f"tcp://{GUEST}:80", protocol, caller=GUEST)
    bench.expose(path, f"tcp://{GUEST}:80", "unix")
    with pytest.raises(errors.ForbiddenError, match="may take back ports, not files of the host"):
        bench.unexpose(path, protocol, caller=GUEST)


def test_a_key_that_cannot_be_read(bench: Bench, tmp_path: Path) -> None:
    for name, text in (("none", None), ("junk", "junk")):
        if text is not None:
            (tmp_path / name).write_text(text)
        remote = f"ssh-tunnel://core@{GUEST}/run/s?key={tmp_path / name}"
        with pytest.raises(errors.BadRemoteError, match=f"key {tmp_path / name} cannot be read: "):
            bench.expose(str(tmp_path / "s"), remote, "unix")
    assert bench.forwarder.all() == []
    assert not (tmp_path / "s").exists()


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


@pytest.mark.parametrize("local", ["[::1]:{0}", "127.0.0.2:{0}", ":{0}"])
def test_a_guest_does_not_stand_in_for_the_api(bench: Bench, port: int, local: str) -> None:
    """Who means to call the daemon, with a token, gets there first by another address."""
    bench.forwarder.own_ports = [port]
    with pytest.raises(errors.ForbiddenError, match=str(port)):
        bench.expose(local.format(port), ":80", caller=GUEST)
    with pytest.raises(errors.ForbiddenError, match=str(port)):
        bench.expose(f"127.0.0.2:{port - 2}-{port}", ":80-82", caller=GUEST)
    bench.expose(f"127.0.0.2:{port}", ":80", "udp", caller=GUEST)
    bench.expose(f"127.0.0.2:{port}", f"{GUEST}:80")  # the host's user may


def test_a_guest_with_many_addresses_has_one_guests_ports(bench: Bench) -> None:
    bench.forwarder._quota.limit = Limit(10, 4)
    first, *others = consecutive(5)
    for number in range(4):
        bench.expose(f"127.0.0.1:{first + number}", ":80", caller=f"192.168.127.{10 + number}")
    with pytest.raises(errors.ListenError, match="4 are published"):
        bench.expose(f"127.0.0.1:{others[-1]}", ":80", caller="192.168.127.20")


def test_what_a_guest_has_published_that_went_makes_room(bench: Bench) -> None:
    bench.forwarder._quota.limit = Limit(10, 4)
    first, *others = consecutive(5)
    bench.expose(f"127.0.0.1:{first}-{others[2]}", ":80-83", caller=GUEST)
    bench.guest.attached = False
    assert len(bench.forwarder.all()) == 4, "it may come back"
    bench.expose(f"127.0.0.1:{others[3]}", ":80", caller=GUEST)
    assert [one["local"] for one in bench.forwarder.all()] == [f"127.0.0.1:{others[3]}"]
    assert bench.forwarder._quota.used == 1
