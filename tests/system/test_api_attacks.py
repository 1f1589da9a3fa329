"""Attacks on both APIs of a daemon: by other users, guests, web pages, and who has no token."""

import contextlib
import errno
import json
import re
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.limits import many_descriptors
from tests.lab.namespace import Namespace, link
from tests.lab.network import Network, World, make_guest
from tests.lab.process import Process
from tests.lab.programs import DEVICE, GATEWAY, GVPROXY, HOST, Agent, Gvproxy
from tests.lab.sockets import read_all
from tests.lab.users import AS_NOBODY, NOBODY, other_users
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

FORWARDER = "/services/forwarder"
EXPOSE, UNEXPOSE, ALL = (f"{FORWARDER}/{name}" for name in ("expose", "unexpose", "all"))
TUNNEL = f"/tunnel?ip={DEVICE}&port=22"
GUESTS = f"http://{GATEWAY}"
LOCAL = "127.0.0.1:8071"
OTHER = "192.168.127.3"
EVIL = "evil.example"
SECRET = "a-token-of-many-characters"
PORT = 1071
CROWD = 2000


def curl(
    machine: Namespace, *arguments: str | Path, before: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Call from a machine; returns status and body, or minus curl's own status and its message."""
    done = machine.try_run(
        *before,
        *("curl", "--silent", "--show-error", "--max-time", "20", "--globoff"),
        *("--write-out", "\n%{http_code}", *arguments),
    )
    body, _, status = done.stdout.rpartition("\n")
    return (int(status), body) if int(status) else (-done.returncode, done.stderr)


def asks(local: str = LOCAL, remote: str = ":80", protocol: str = "tcp") -> tuple[str, str]:
    """Return curl's arguments for a body."""
    return "--data", json.dumps({"local": local, "remote": remote, "protocol": protocol})


def published(gvproxy: Gvproxy) -> object:
    return gvproxy.get(ALL)


# Other users of the host


@other_users
@pytest.mark.parametrize(
    "call",
    [
        ("http://x/stats",),
        (f"http://x{EXPOSE}", *asks(remote=f"{DEVICE}:80")),
        (f"http://x{UNEXPOSE}", "--data", "{}"),
        ("http://x/connect", "--data", ""),
        (f"http://x{TUNNEL}", "--data", ""),
        ("http://x/connect", "--data", "", "-H", "Upgrade: taplink/1", "-H", "Connection: Upgrade"),
    ],
)
def test_another_user_at_an_open_socket(network: Network, call: tuple[str, ...]) -> None:
    path = network.gvproxy.path
    folder, socket_mode = path.parent.stat().st_mode, path.stat().st_mode
    guests = len(network.gvproxy.get("/ports"))
    path.parent.chmod(0o755)
    path.chmod(0o666)
    try:
        answer = curl(network.host, "--unix-socket", path, *call, before=AS_NOBODY)
        own = curl(network.host, "--unix-socket", path, "http://x/cam")
    finally:
        path.chmod(socket_mode)
        path.parent.chmod(folder)
    assert answer == (403, f"user {NOBODY} may not call\n")
    assert own[0] == 200
    assert published(network.gvproxy) == []
    assert len(network.gvproxy.get("/ports")) == guests
    assert f"user {NOBODY} may not call" in network.gvproxy.process.log.read_text()


@other_users
def test_another_user_at_a_private_socket(network: Network) -> None:
    """The mode alone keeps them out, where it has not been changed."""
    path = network.gvproxy.path
    assert path.stat().st_mode & 0o777 == 0o600
    mode = path.parent.stat().st_mode
    path.parent.chmod(0o755)
    try:
        status, said = curl(network.host, "--unix-socket", path, "http://x/cam", before=AS_NOBODY)
    finally:
        path.parent.chmod(mode)
    assert status == -7, said


# Guests


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (asks(remote=f"{OTHER}:22"), 403, f"{DEVICE} may publish its own ports, not those of"),
        (asks(remote=f"{GATEWAY}:80"), 400, f"remote {GATEWAY} is no address of a guest"),
        (asks(remote="192.168.127.254:22"), 400, "remote 192.168.127.254 is no address of a g"),
        (asks(remote="127.0.0.1:22"), 400, "remote 127.0.0.1 is not in the virtual network"),
        (asks(remote="localhost:22"), 403, f"{DEVICE} may have no names looked up: localhost"),
        (asks("/tmp/x.sock", f"tcp://{DEVICE}:22", "unix"), 403, f"{DEVICE} may publish ports"),
        (asks("/tmp/x.sock", f"tcp://{OTHER}:22", "unix"), 403, f"{DEVICE} may publish ports"),
        (asks(r"\\.\pipe\x", f"tcp://{DEVICE}:22", "npipe"), 403, f"{DEVICE} may publish ports"),
        (
            asks("/tmp/x.sock", f"ssh-tunnel://root@{DEVICE}/s?key=/etc/shadow", "unix"),
            403,
            f"{DEVICE} may publish ports, not files of the host",
        ),
        (
            asks(remote=f"ssh-tunnel://root@{DEVICE}/s?key=/etc/shadow"),
            400,
            f"remote 'ssh-tunnel://root@{DEVICE}/s' must be",
        ),
        (asks(protocol="ssh-tunnel"), 500, "unknown protocol ssh-tunnel"),
        (asks(protocol="TCP"), 500, "unknown protocol TCP"),
    ],
)
def test_a_guest_asks_for_what_is_not_its_own(
    network: Network, body: tuple[str, ...], status: int, said: str
) -> None:
    got, text = curl(network.guest, f"{GUESTS}{EXPOSE}", *body)
    assert (got, text[: len(said)]) == (status, said)
    assert text.count("\n") == 1
    assert published(network.gvproxy) == []


def test_a_guest_takes_back_what_is_not_its_own(network: Network) -> None:
    """What the host has published for another guest, what it has as a file, what is not there."""
    path = network.world.folder / "published.sock"
    network.gvproxy.expose(LOCAL, f"{OTHER}:22")
    unix = {"local": str(path), "remote": f"tcp://{DEVICE}:22", "protocol": "unix"}
    network.gvproxy.post(EXPOSE, unix)
    before = published(network.gvproxy)
    for local, protocol, status in (
        (LOCAL, "tcp", 403),
        (str(path), "unix", 403),
        ("127.0.0.1:1", "tcp", 500),
    ):
        answer = curl(network.guest, f"{GUESTS}{UNEXPOSE}", *asks(local, "", protocol))
        assert answer[0] == status, answer
        assert published(network.gvproxy) == before
    network.gvproxy.unexpose(LOCAL)
    network.gvproxy.post(UNEXPOSE, unix)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (("-H", f"Host: {EVIL}"), 421),
        (("-H", f"Host: {EVIL}", "--request-target", f"{GUESTS}{EXPOSE}"), 421),
        (("-H", f"Host: {GATEWAY}.{EVIL}"), 421),
        (("-H", f"Host: {GATEWAY}@{EVIL}"), 421),
        (("-H", "Host: 127.0.0.1"), 421),
        (("-H", f"Origin: http://{EVIL}"), 403),
        (("-H", "Origin: null"), 403),
        (("-H", f"Origin: {GUESTS}"), 403),
        (("--resolve", f"{EVIL}:80:{GATEWAY}", f"http://{EVIL}{EXPOSE}"), 421),
    ],
)
def test_a_web_page_in_a_guest(network: Network, fields: tuple[str, ...], status: int) -> None:
    url = () if any(one.startswith(f"http://{EVIL}/") for one in fields) else (f"{GUESTS}{EXPOSE}",)
    assert curl(network.guest, *url, *asks(), *fields)[0] == status
    assert published(network.gvproxy) == []


def test_a_guest_says_that_it_is_another(network: Network) -> None:
    """Who calls is what the connection says."""
    claims = [f"{name}: {OTHER}" for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded")]
    fields = [word for claim in claims for word in ("-H", claim)]
    status, _ = curl(network.guest, f"{GUESTS}{EXPOSE}", *asks(remote=f"{OTHER}:22"), *fields)
    assert status == 403
    assert curl(network.guest, f"{GUESTS}{EXPOSE}", *asks(), *fields) == (200, "")
    entry = {"local": LOCAL, "remote": f"{DEVICE}:80", "protocol": "tcp"}
    assert published(network.gvproxy) == [entry]
    network.gvproxy.unexpose(LOCAL)


def test_each_call_of_a_guest_is_logged(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    key = f"ssh-tunnel://root@{DEVICE}/s?key=/root/id&passphrase=sesame"
    with make_guest(world, gvproxy) as (guest, _):
        curl(guest, f"{GUESTS}{EXPOSE}", *asks())
        curl(guest, f"{GUESTS}{UNEXPOSE}", *asks())
        curl(guest, f"{GUESTS}{EXPOSE}", *asks("/tmp/x.sock", key, "unix"))
        curl(guest, f"{GUESTS}{EXPOSE}", *asks(key, ":80"))
        curl(guest, f"{GUESTS}{ALL}?passphrase=sesame", "-H", f"Host: {EVIL}")
        curl(guest, f"{GUESTS}/stats", "-H", "Authorization: Bearer sesame")
    gvproxy.process.stop()
    log = gvproxy.process.log.read_text()
    shown = key.partition("?")[0]
    assert re.findall(r"INFO .*the guest (.* calls .*)", log) == [
        f"{DEVICE} calls POST {EXPOSE} tcp {LOCAL} to :80: 200",
        f"{DEVICE} calls POST {UNEXPOSE} tcp {LOCAL}: 200",
        f"{DEVICE} calls POST {EXPOSE} unix /tmp/x.sock to {shown}: 403",
        f"{DEVICE} calls POST {EXPOSE} tcp {shown} to :80: 400",
        f"{DEVICE} calls GET {ALL}: 421",
        f"{DEVICE} calls GET /stats: 404",
    ]
    assert "sesame" not in log
    assert "/root/id" not in log


def test_a_crowd_of_one_guest_keeps_no_other_out(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with (
        make_guest(world, gvproxy) as (guest, _),
        make_guest(world, gvproxy, "other", "-mac", "5a:94:ef:e4:0c:ef") as (other, _),
        many_descriptors(),
        contextlib.ExitStack() as crowd,
    ):
        for _ in range(CROWD):
            sock = crowd.enter_context(guest.open_socket(timeout=0))
            assert sock.connect_ex((GATEWAY, 80)) == errno.EINPROGRESS

        def full() -> None:
            limit = gvproxy.get("/stats")["Limits"]["GuestApiConnections"]
            if limit["Most"] < limit["Guest"] or not limit["Refused"]:
                raise NotYetError(str(limit))
            assert limit["Most"] == limit["Guest"] < limit["Total"]

        until(full, "the guest has all that it may")
        assert curl(other, f"{GUESTS}{EXPOSE}", *asks(remote=f"{OTHER}:80")) == (200, "")
        assert curl(other, f"{GUESTS}{UNEXPOSE}", *asks()) == (200, "")
    gvproxy.process.stop()
    assert "Traceback" not in gvproxy.process.log.read_text()


@pytest.mark.parametrize("flag", ["-listen", "-services"])
def test_a_guest_goes_around_by_the_hosts_loopback(world: World, flag: str) -> None:
    """Where everybody of the host may call; other ports of it are the guest's to reach."""
    gvproxy = Gvproxy(world.folder, world.host, flag, f"tcp://127.0.0.1:{PORT}")
    with make_guest(world, gvproxy) as (guest, _), world.host.listen() as listener:
        assert curl(world.host, f"http://127.0.0.1:{PORT}/cam")[0] == 200
        for name in (HOST, "127.0.0.1", "localhost"):
            where = ("--connect-to", f"::{HOST}:{PORT}", f"http://{name}:{PORT}")
            for path, more in (("/stats", ()), (EXPOSE, asks(remote=f"{OTHER}:22"))):
                status, said = curl(guest, *where[:2], f"{where[2]}{path}", *more)
                assert status == -7, said
        guest.connect(HOST, listener.getsockname()[1]).close()
        assert published(gvproxy) == []
        assert gvproxy.get("/stats")["Details"]["Destinations"]["RefusedOwnApi"] >= 6
    gvproxy.process.stop()


def test_guests_without_an_api(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host, "-guest-api=false")
    with make_guest(world, gvproxy) as (guest, _):
        for path in (ALL, EXPOSE, "/"):
            status, said = curl(guest, f"{GUESTS}{path}")
            assert status == -7, said
        assert curl(world.host, "--unix-socket", gvproxy.path, f"http://x{ALL}") == (200, "[]\n")
    gvproxy.process.stop()


# What does not end


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(b"x" * 10_000_000)
    return path


@pytest.mark.parametrize("expect", ["100-continue", ""])
@pytest.mark.parametrize("where", ["guest", "host"])
def test_a_body_of_ten_megabytes(network: Network, body: Path, where: str, expect: str) -> None:
    before = network.gvproxy.process.resident()
    fields = ("-H", f"Expect: {expect}".strip(), "--data-binary", f"@{body}")
    if where == "guest":
        status, text = curl(network.guest, f"{GUESTS}{EXPOSE}", *fields)
    else:
        there = ("--unix-socket", network.gvproxy.path, f"http://x{EXPOSE}")
        status, text = curl(network.host, *there, *fields)
    assert (status, text[:25]) == (413, "Maximum request body size")
    assert network.gvproxy.process.resident() < before + 8_000_000
    network.gvproxy.wait_until_unused()


@pytest.mark.parametrize("where", ["guest", "host"])
def test_a_header_of_a_megabyte(network: Network, where: str) -> None:
    """The answer is an error, if it comes before the connection's end."""
    head = b"GET /cam HTTP/1.1\r\nHost: 192.168.127.1\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n"
    if where == "guest":
        sock = network.guest.connect(GATEWAY, 80)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(str(network.gvproxy.path))
    answer = b""
    with sock, contextlib.suppress(ConnectionError):
        sock.sendall(head)
        answer = read_all(sock)
    assert not answer or re.match(rb"HTTP/1\.[01] 400 ", answer)
    assert curl(network.guest, f"{GUESTS}{ALL}") == (200, "[]\n")
    network.gvproxy.wait_until_unused()
    assert "Traceback" not in network.gvproxy.process.log.read_text()


def test_what_drips(network: Network) -> None:
    """A byte now and then does not keep a body, or a head, from being too late."""
    fields = f"Host: {GATEWAY}\r\nContent-Length: 1000\r\n\r\n"
    body = f"POST {EXPOSE} HTTP/1.1\r\n{fields}".encode()
    waiting: dict[socket.socket, tuple[str, bytes]] = {}
    for name, begun, late in (("body", body, b"HTTP/1.1 408 "), ("head", b"GET /", b"")):
        guest = network.guest.connect(GATEWAY, 80)
        host = socket.socket(socket.AF_UNIX)
        host.connect(str(network.gvproxy.path))
        for sock, where in ((guest, "guest"), (host, "host")):
            sock.sendall(begun)
            waiting[sock] = (f"{name} of the {where}", late)
    rounds = 0
    while waiting:
        rounds += 1
        assert rounds < 80, waiting.values()
        readable = select.select(list(waiting), [], [], 0.25)[0]
        for sock in readable:
            name, late = waiting.pop(sock)
            with sock, contextlib.suppress(ConnectionError):
                assert sock.recv(65536)[:13] == late, name
        for sock in waiting:
            with contextlib.suppress(ConnectionError):
                sock.send(b"x")
    network.gvproxy.wait_until_unused()


# Over TCP


@pytest.mark.parametrize("flag", ["-listen", "-services"])
def test_other_machines_without_a_token(world: World, flag: str) -> None:
    """Nothing listens anywhere: the daemon does not start."""
    other = ("-listen", f"unix://{world.folder}/network.sock")
    for address in ("0.0.0.0", "10.77.0.1", "[::]"):
        url = f"tcp://{address}:{PORT}"
        done = world.host.try_run(GVPROXY, *other, flag, url, "-ssh-port", "-1")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"gvproxy: {flag}: {url} takes calls of other machines, which needs an "
            "-api-token-file; 127.0.0.1 takes those of this one\n"
        )
    assert not (world.folder / "network.sock").exists()


@pytest.fixture
def token(world: World) -> Path:
    path = world.folder / "token"
    path.touch(0o600)
    path.write_text(f"{SECRET}\n")
    return path


@contextlib.contextmanager
def remote(world: World, token: Path) -> Iterator[tuple[Gvproxy, Namespace]]:
    """Run a daemon that takes guests from a machine on a cable, and that machine."""
    url = f"tcp://10.66.0.1:{PORT}"
    with Namespace("machine", world.folder) as machine:
        link(world.host, "cable0", machine, "cable1")
        world.host.run("ip", "address", "add", "10.66.0.1/24", "dev", "cable0")
        machine.run("ip", "address", "add", "10.66.0.2/24", "dev", "cable1")
        flags = ("-listen", url, "-api-token-file", str(token), "-debug")
        gvproxy = Gvproxy(world.folder, world.host, *flags)
        try:
            yield gvproxy, machine
        finally:
            gvproxy.process.stop()


def secret_of(*programs: Process) -> bool:
    """Tell whether any of the programs has logged the token."""
    return any(SECRET in program.log.read_text() for program in programs)


def test_a_guest_over_tcp_needs_the_token(world: World, token: Path) -> None:
    with remote(world, token) as (gvproxy, machine):
        url = f"tcp://10.66.0.1:{PORT}"
        without = Agent(machine, url, "-config", "", "-debug", iface="tap1")
        said = without.process.wait_for("no link to")
        assert said.endswith(
            f"no link to {url}: the host refuses the link: 401 Unauthorized; "
            "-token-file names its token; trying again"
        )
        assert gvproxy.get("/ports") == []
        without.process.stop()
        agent = Agent(machine, url, "-config", "", "-debug", "-token-file", str(token))
        assert agent.wait().address == f"{DEVICE}/24"
        machine.run("ping", "-c", "1", "-W", "5", GATEWAY)
        assert len(gvproxy.get("/ports")) == 1
        agent.process.stop()
        assert not secret_of(gvproxy.process, agent.process, without.process)


def test_tokens_that_are_none(world: World, token: Path) -> None:
    wrong = (
        *("", "Bearer", "Bearer ", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x"),
        *(f"Bearer {SECRET[1:]}", f"Bearer {SECRET.upper()}", f"Basic {SECRET}", SECRET),
        *(f"Bearer {SECRET} {SECRET}", f"Bearer {'x' * 10_000}", "Bearer %00"),
    )
    url = f"http://10.66.0.1:{PORT}"
    with remote(world, token) as (gvproxy, machine):
        for value in wrong:
            fields = ("-H", f"Authorization: {value}" if value else "Authorization;")
            status, text = curl(machine, f"{url}/stats", *fields)
            assert (status, text) == (401, "the token is missing or wrong\n"), value
        for path in ("/connect", TUNNEL, EXPOSE, "/none"):
            assert curl(machine, f"{url}{path}", "--data", "")[0] == 401, path
        assert curl(machine, f"{url}/stats?token={SECRET}")[0] == 401
        assert gvproxy.get("/stats")["Details"]["Access"]["Unauthorized"] == len(wrong) + 5
        right = ("-H", f"Authorization: Bearer {SECRET}")
        assert curl(machine, f"{url}/cam", *right)[0] == 200
        # The same connection, and no longer the same caller.
        again = ("--next", "--silent", "--write-out", "\n%{http_code}", f"{url}/cam")
        done = machine.try_run("curl", "--silent", *right, f"{url}/cam", *again)
        assert done.stdout.endswith("\n401")
        assert not secret_of(gvproxy.process)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (("--resolve", f"{EVIL}:{PORT}:127.0.0.1", f"http://{EVIL}:{PORT}"), 403),
        (("-H", f"Host: {EVIL}", f"http://127.0.0.1:{PORT}"), 403),
        (("-H", f"Host: localhost.{EVIL}", f"http://127.0.0.1:{PORT}"), 403),
        (("-H", f"Origin: http://{EVIL}", f"http://127.0.0.1:{PORT}"), 403),
        (("-H", "Origin: null", f"http://localhost:{PORT}"), 403),
        ((f"http://127.0.0.1:{PORT}",), 200),
        ((f"http://localhost:{PORT}",), 200),
        (("-H", f"Origin: http://127.0.0.1:{PORT}", f"http://127.0.0.1:{PORT}"), 200),
    ],
)
def test_a_web_page_on_the_host(world: World, fields: tuple[str, ...], status: int) -> None:
    """A page whose own name leads here, DNS rebinding, or that posts what it cannot read."""
    gvproxy = Gvproxy(world.folder, world.host, "-listen", f"tcp://127.0.0.1:{PORT}")
    *options, where = fields
    assert curl(world.host, *options, f"{where}/stats")[0] == status
    call = ("-H", "Content-Type: text/plain", *asks(remote=f"{DEVICE}:80"))
    assert curl(world.host, *options, f"{where}{EXPOSE}", *call)[0] == status
    assert len(gvproxy.get(ALL)) == (status == 200)
    gvproxy.process.stop()
