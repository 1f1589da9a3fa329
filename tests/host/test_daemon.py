"""A whole daemon in this process: it starts, shows, refuses, and leaves nothing behind."""

import asyncio
import json
import logging
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import dpkt
import pytest
import uvloop
from aiohttp import ClientSession, UnixConnector

from gvproxy.config import Config, configure
from gvproxy.daemon import CLOCK, Daemon
from gvproxy.errors import StartError
from gvproxy.tcp.states import End
from tests.host.stack.bench import GATEWAY, MAC, arp, echo
from tests.manual_loop import ManualLoop

DISCOVER = (
    b"\x01\x01\x06\0" + b"\x12\x34\x56\x78" + bytes(20) + MAC + bytes(202)
    + b"\x63\x82\x53\x63\x35\x01\x01\xff"
)  # fmt: skip
LOOPS = [asyncio.SelectorEventLoop, uvloop.new_event_loop]
Scenario = Callable[[Daemon], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Config, Scenario], None]:
    """Start a daemon, let the scenario happen, and close it."""

    def run(config: Config, scenario: Scenario) -> None:
        async def live() -> None:
            loop = asyncio.get_running_loop()
            daemon = Daemon(config, loop)
            try:
                async with asyncio.timeout(20):
                    await daemon.start()
                    await scenario(daemon)
            finally:
                await daemon.close()
            assert len(asyncio.all_tasks()) == 1
            assert not daemon.stack.switch.ports

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(live())

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gvproxy.sock"


def settings(*paths: Path, **other: object) -> Config:
    fields = {"listen": [f"unix://{path}" for path in paths], "ssh_port": -1} | other
    return configure(**fields)  # type: ignore[arg-type]


async def nothing(daemon: Daemon) -> None:
    pass


class Link:
    """A guest of the old dialect."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    async def __aenter__(self) -> "Link":
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        self._writer.write(b"POST /connect HTTP/1.1\r\nHost: x\r\n\r\n")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def send(self, frame: bytes) -> None:
        self._writer.write(len(frame).to_bytes(2, "little") + frame)

    async def receive(self) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(2), "little")
        return await self._reader.readexactly(size)

    async def ended(self) -> bool:
        return await self._reader.read() == b""


async def get(path: Path, what: str) -> object:
    async with (
        ClientSession(connector=UnixConnector(str(path))) as session,
        session.get(f"http://gvproxy{what}") as response,
    ):
        assert response.status == 200
        return await response.json()


def test_it_comes_and_goes(run: Callable[..., None], path: Path) -> None:
    async def scenario(daemon: Daemon) -> None:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600

    run(settings(path), scenario)
    assert not path.exists()


def test_another_socket_at_its_place_stays(run: Callable[..., None], path: Path) -> None:
    async def scenario(daemon: Daemon) -> None:
        path.unlink()
        path.touch()

    run(settings(path), scenario)
    assert path.exists()


@pytest.mark.parametrize("family", ["AF_VSOCK", "AF_HYPERV"])
def test_who_comes_as_guests_do_gets_no_api(
    run: Callable[..., None], path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """A unix socket stands for those of hypervisors: it may /connect, and nothing else."""
    monkeypatch.setattr(socket, family, socket.AF_UNIX, raising=False)

    async def scenario(daemon: Daemon) -> None:
        for request in (b"GET /stats", b"POST /tunnel?ip=192.168.127.2&port=22"):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
            writer.close()
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            assert await link.receive()

    run(settings(path), scenario)


def test_it_ends_while_everything_is_in_use(run: Callable[..., None], path: Path) -> None:
    """A guest, its connections to the outside, its datagrams, a client of the API."""

    async def scenario(daemon: Daemon) -> None:
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            await link.receive()
            idle = await asyncio.open_unix_connection(str(path))
            slow = await asyncio.open_unix_connection(str(path))
            slow[1].write(b"GET /sta")
            async with ClientSession(connector=UnixConnector(str(path))) as session:
                await session.get("http://gvproxy/cam")
                await daemon.close()
                assert await link.ended()
            for _, writer in (idle, slow):
                writer.close()

    run(settings(path), scenario)


def test_a_request_that_comes_with_the_end(run: Callable[..., None], path: Path) -> None:
    """Its connection is on the way to the HTTP server when that ends."""

    async def scenario(daemon: Daemon) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /cam HTTP/1.1\r\nHost: x\r\n\r\n")
        while not daemon._api._callers._adopting:
            await asyncio.sleep(0)
        await daemon.close()
        await reader.read()
        writer.close()

    run(settings(path), scenario)


def test_it_ends_while_a_tunnel_is_opened(run: Callable[..., None], path: Path) -> None:
    async def scenario(daemon: Daemon) -> None:
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            await link.receive()
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"POST /tunnel?ip=192.168.127.2&port=22 HTTP/1.1\r\nHost: x\r\n\r\n")
            syn = await link.receive()
            assert (syn[36:38], syn[47]) == (b"\0\x16", 2)
            await daemon.close()
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()

    run(settings(path), scenario)


def test_a_guest_is_shown(run: Callable[..., None], path: Path) -> None:
    async def scenario(daemon: Daemon) -> None:
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            link.send(echo(b"ping"))
            assert (await link.receive())[12:14] == b"\x08\x06"
            assert (await link.receive()).endswith(b"ping")
            assert await get(path, "/cam") == {"5a:94:ef:e4:0c:ee": 0}
            stats = await get(path, "/stats")
            assert isinstance(stats, dict)
            totals = stats["Details"]["Totals"]
            assert (totals["Ports"], totals["Stations"]) == (1, 1)
            assert stats["BytesReceived"] == len(arp(GATEWAY)) + len(echo(b"ping"))
            assert stats["BytesSent"] == stats["BytesReceived"]
            assert stats["ICMP"]["V4"]["PacketsReceived"]["EchoRequest"] == 1
            assert set(stats["Details"]) == {
                "Totals",
                "Stack",
                "TCP",
                "DHCP",
                "DNS",
                "DNSCache",
                "Resolver",
                "Destinations",
                "Access",
            }
        while daemon.stack.switch.ports:
            await asyncio.sleep(0)
        stats = await get(path, "/stats")
        assert isinstance(stats, dict)
        assert stats["BytesReceived"] > 0, "what a guest that has gone had is kept"
        assert await get(path, "/cam") == {}

    run(settings(path), scenario)


def test_a_guest_at_a_connected_socket(run: Callable[..., None], path: Path) -> None:
    """For programs that have gvproxy inside: no listener, no handshake."""

    async def scenario(daemon: Daemon) -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        daemon.attach(theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        frame = arp(GATEWAY)
        writer.write(len(frame).to_bytes(2, "little") + frame)
        size = int.from_bytes(await reader.readexactly(2), "little")
        assert (await reader.readexactly(size))[12:14] == b"\x08\x06"
        assert daemon.cam() == {"5a:94:ef:e4:0c:ee": 0}
        writer.close()

    run(replace(settings(path), listen=()), scenario)


def test_leases_are_shown(run: Callable[..., None], path: Path) -> None:
    async def scenario(daemon: Daemon) -> None:
        leases = await get(path, "/leases")
        assert isinstance(leases, dict)
        assert leases == daemon.leases()
        assert leases["192.168.127.2"] == "5a:94:ef:e4:0c:ee"

    run(settings(path), scenario)


def busy() -> tuple[socket.socket, int]:
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, int(sock.getsockname()[1])


def test_a_busy_port_to_publish(run: Callable[..., None], path: Path) -> None:
    sock, port = busy()
    said = rf"127.0.0.1:{port}: Address already in use; -ssh-port chooses another, -1 none$"
    with sock, pytest.raises(StartError, match=said):
        run(settings(path, ssh_port=port), nothing)
    assert not path.exists(), "what it had begun is undone"


def test_a_busy_port_to_listen_at(run: Callable[..., None], path: Path) -> None:
    sock, port = busy()
    config = configure(listen=[f"unix://{path}", f"tcp://127.0.0.1:{port}"], ssh_port=-1)
    with sock, pytest.raises(StartError, match=r"-listen: .*in use"):
        run(config, nothing)
    assert not path.exists()


def test_a_folder_that_is_not_there(run: Callable[..., None], path: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        run(settings(path, tmp_path / "missing" / "sock"), nothing)
    assert not path.exists()


def test_a_socket_that_a_killed_daemon_left(run: Callable[..., None], path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def scenario(daemon: Daemon) -> None:
        assert await get(path, "/cam") == {}

    run(settings(path), scenario)
    assert not path.exists()


def test_a_socket_that_is_in_use_is_left_alone(run: Callable[..., None], path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(StartError, match="somebody listens there"):
            run(settings(path), nothing)
        assert path.exists()


def test_a_file_in_the_way_is_left_alone(run: Callable[..., None], path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(StartError, match="not a socket"):
        run(settings(path), nothing)
    assert path.read_text() == "precious"


def test_the_stacks_timers_go_off(run: Callable[..., None], path: Path) -> None:
    """A guest that answers nothing: the SYN of a published port comes again."""

    sock, port = busy()
    sock.close()

    async def dialled(daemon: Daemon) -> None:
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            await link.receive()
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            first, again = await link.receive(), await link.receive()
            assert first[34:46] == again[34:46], "the same SYN"
            assert daemon.stack.connections.tcp_counters.timeouts == 1
            writer.close()

    run(settings(path, ssh_port=port), dialled)


def test_one_timer_does_not_hide_the_next(run: Callable[..., None], path: Path) -> None:
    """Of two SYNs without answer the earlier comes again, waits for longer, and then the other."""

    async def scenario(daemon: Daemon) -> None:
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            await link.receive()
            now = asyncio.get_running_loop().time()
            guest = bytes((192, 168, 127, 2))
            for later in (0.0, 0.1):
                daemon.stack.connections.open(Silent(), guest, 22, now + later)
            ports = [(await link.receive())[34:36] for _ in range(4)]
            assert ports[:2] == ports[2:]

    run(settings(path), scenario)


def test_services_are_the_api_without_guests(run: Callable[..., None], path: Path) -> None:
    desk = path.with_name("services.sock")

    async def scenario(daemon: Daemon) -> None:
        assert await get(desk, "/cam") == {}
        assert await get(path, "/cam") == {}
        reader, writer = await asyncio.open_unix_connection(str(desk))
        writer.write(b"POST /connect HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"404"
        writer.close()
        assert not daemon.stack.switch.ports

    run(settings(path, services=f"unix://{desk}"), scenario)
    assert not desk.exists()


def test_a_listener_hears_of_guests(path: Path) -> None:
    heard: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    socket_path = path.with_name("notification.sock")

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(json.loads(await reader.read()))
        writer.close()

    async def listening(daemon: Daemon) -> None:
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            link.send(arp(GATEWAY))
            await link.receive()
            told = [await heard.get() for _ in range(2)]
        told.append(await heard.get())
        mac = MAC.hex(":")
        assert told == [
            {"notification_type": "ready"},
            {"notification_type": "connection_established", "mac_address": mac},
            {"notification_type": "connection_closed", "mac_address": mac},
        ]

    async def live() -> None:
        config = settings(path, notification=str(socket_path))
        daemon = Daemon(config, asyncio.get_running_loop())
        async with await asyncio.start_unix_server(accepted, socket_path), asyncio.timeout(20):
            await daemon.start()
            try:
                await listening(daemon)
            finally:
                await daemon.close()

    asyncio.run(live())


def test_all_frames_are_recorded(run: Callable[..., None], path: Path) -> None:
    recording = path.with_name("frames.pcap")

    async def scenario(daemon: Daemon) -> None:
        async with Link(path) as link:
            link.send(arp(GATEWAY))
            await link.receive()

    run(settings(path, pcap=str(recording)), scenario)
    assert stat.S_IMODE(recording.stat().st_mode) == 0o600
    frames = [frame for _, frame in dpkt.pcap.Reader(recording.open("rb"))]
    assert frames[0] == arp(GATEWAY)
    assert len(frames) == 2


def test_a_recording_that_cannot_be_made_ends_the_start(
    run: Callable[..., None], path: Path
) -> None:
    with pytest.raises(StartError, match="-pcap /nonexistent/a cannot be written"):
        run(settings(path, pcap="/nonexistent/a"), nothing)


def test_an_alarm_is_never_early() -> None:
    """By a clock of whole milliseconds too, which is uvloop's: an early one is only set again."""
    loop = ManualLoop()
    daemon = Daemon(settings(), loop.as_loop())
    for milliseconds in range(2000):
        deadline = milliseconds / 1000 + 0.2
        daemon._wake(deadline)
        (alarm,) = loop.timers
        assert deadline <= round(alarm.at * 1000) / 1000 <= deadline + 2 * CLOCK


class Silent:
    """A user to whom nothing happens."""

    def established(self, now: float) -> None: ...
    def received(self, views: list[memoryview | bytes], now: float) -> int:
        return 0

    def received_eof(self, now: float) -> None: ...
    def writable(self, now: float) -> None: ...
    def ended(self, end: End, now: float) -> None: ...


def test_a_start_that_fails_leaves_another_s_capture_alone(
    run: Callable[[Config, Scenario], None], path: Path
) -> None:
    recording = path.with_name("frames.pcap")
    recording.write_bytes(b"precious")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        with pytest.raises(StartError, match="somebody listens"):
            run(settings(path, pcap=str(recording)), nothing)
    assert recording.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("dialect", "sent", "why"),
    [
        ("qemu", b"POST /connect HTTP/1.1\r\n\r\n", "an agent or HTTP client belongs to -listen"),
        ("qemu", b"GET / HTTP/1.1\r\n\r\n", "an agent or HTTP client belongs to -listen"),
        ("qemu", b"\xff\xff\xff\xff", "what arrived is no frame of QEMU's"),
        ("vpnkit", b"GET / HTTP/1.1\r\n\r\n", "what arrived is not vpnkit's hello"),
    ],
)
def test_who_does_not_speak_the_dialect_is_refused(
    run: Callable[[Config, Scenario], None],
    path: Path,
    caplog: pytest.LogCaptureFixture,
    dialect: str,
    sent: bytes,
    why: str,
) -> None:
    url = f"unix://{path}.{dialect}"

    async def scenario(daemon: Daemon) -> None:
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(f"{path}.{dialect}")
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
        assert daemon.ports() == []

    run(settings(path, **{f"listen_{dialect}": url}), scenario)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [f"refused at {url}: {why}"]
