"""What a machine can do to the daemon while it runs, and that it goes on afterwards."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from dnslib import DNSRecord

from tests.lab import dns
from tests.lab.limits import no_descriptors
from tests.lab.namespace import Namespace
from tests.lab.network import HOST_OUTSIDE, OUTSIDE, Network, World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, HOST, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

WAIT = 5.0
"""Seconds; libuv and the daemon look again after half a second."""


@contextmanager
def network(world: World, *flags: str) -> Iterator[Network]:
    """A guest and its daemon, whose log has no traceback at the end."""
    gvproxy = Gvproxy(world.folder, world.host, *flags)
    try:
        with make_guest(world, gvproxy) as (guest, agent):
            yield Network(world, gvproxy, guest, agent)
    finally:
        gvproxy.process.stop()
    assert "Traceback" not in gvproxy.process.log.read_text()


def ask(guest: Namespace, timeout: float = 10.0, name: str = dns.NAME) -> str:
    """Return how a question to the gateway ends, by its RCODE, or `silence`."""
    with guest.open_socket(socket.SOCK_DGRAM, timeout) as sock:
        sock.sendto(DNSRecord.question(name).pack(), (GATEWAY, 53))
        try:
            return str(DNSRecord.parse(sock.recv(4096)).header.rcode)
        except TimeoutError:
            return "silence"


def answered(guest: Namespace, name: str = dns.NAME) -> None:
    """Wait until names of the outside are looked up."""

    def look_up() -> None:
        if (rcode := ask(guest, 1.0, name)) != "0":
            raise NotYetError(f"the answer is {rcode}")

    until(look_up, "a name is looked up", 30)


def echoed(one: Network, address: str = HOST, where: Namespace | None = None) -> None:
    """Send a datagram from the guest and have it answered outside."""
    with (where or one.host).open_socket(socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 0))
        with one.guest.open_socket(socket.SOCK_DGRAM) as client:
            client.sendto(b"there", (address, server.getsockname()[1]))
            data, source = server.recvfrom(64)
            server.sendto(data + b" and back", source)
            assert client.recv(64) == b"there and back"


def works(one: Network, published: int) -> None:
    """Use everything that takes a descriptor."""
    with one.host.listen() as listener:
        one.guest.connect(HOST, listener.getsockname()[1]).close()
        listener.accept()[0].close()
    with one.guest.listen(DEVICE, 0) as listener:
        one.gvproxy.expose("127.0.0.1:7070", f"{DEVICE}:{listener.getsockname()[1]}")
        one.host.connect("127.0.0.1", 7070).close()
        listener.accept()[0].close()
        one.gvproxy.unexpose("127.0.0.1:7070")
    echoed(one)
    answered(one.guest)
    one.guest.run("ping", "-c", "1", "-W", "10", OUTSIDE)
    one.host.connect("127.0.0.1", published).close()


def test_no_descriptors(world: World) -> None:
    state = world.folder / "state"
    with ExitStack() as stack:
        one = stack.enter_context(network(world, "-state-dir", str(state)))
        answered(one.guest, "kept.outside.test")  # by now resolv.conf has been read
        web = stack.enter_context(one.guest.listen(DEVICE, 80))
        one.gvproxy.expose("127.0.0.1:7777", f"{DEVICE}:80")
        api = http.client.HTTPConnection("gvproxy")
        api.sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        api.sock.connect(str(one.gvproxy.path))

        def call(method: str, target: str, body: object = None) -> tuple[int, str]:
            api.request(method, target, None if body is None else json.dumps(body))
            response = api.getresponse()
            return response.status, response.read().decode()

        assert call("GET", "/leases")[0] == 200
        until(lambda: None if (state / "state.json").exists() else _not_yet(), "it is saved")
        with no_descriptors(one.gvproxy.process.pid):
            outside = stack.enter_context(one.host.listen())
            for _ in range(3):
                stack.enter_context(one.host.connect("127.0.0.1", 7777))
                with pytest.raises(TimeoutError):
                    one.guest.connect(HOST, outside.getsockname()[1], timeout=0.2)
                assert ask(one.guest) == "2"  # SERVFAIL
                with one.guest.open_socket(socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"lost", (HOST, 9))
                one.guest.try_run("ping", "-c", "1", "-W", "0.1", OUTSIDE)
            assert call("GET", "/leases")[0] == 200
            body = {"local": "127.0.0.1:7778", "remote": f"{DEVICE}:80"}
            status, text = call("POST", "/services/forwarder/expose", body)
            assert (status, "Too many open files" in text) == (500, True)
            assert call("POST", "/services/dns/add", {"name": "z.", "records": []})[0] == 200
            one.gvproxy.process.wait_for("the state is not saved: Too many open files")
        works(one, 7777)
        for _ in range(4):  # those that waited, and that of `works`
            web.accept()[0].close()
        said = one.gvproxy.process.log.read_text()
        for text in (
            "cannot accept on ('127.0.0.1', 7777): Too many open files",
            "no socket for a guest's connection: Too many open files",
            "no socket for UDP of a guest: Too many open files",
            "no socket for a guest's ping: Too many open files",
            f"names are not looked up: name server {OUTSIDE}: Too many open files",
            "the state is not saved: Too many open files",
        ):
            assert said.count(text) == 1, text


def _not_yet() -> None:
    raise NotYetError("no file")


DISK = "/run/disk"


def test_a_full_disk(world: World) -> None:
    """Under log, capture and state; what is said meanwhile is in no log, and its count is."""
    world.host.run("mkdir", DISK)
    world.host.run("mount", "-t", "tmpfs", "-o", "size=128k", "disk", DISK)
    flags = (
        *("-state-dir", f"{DISK}/state"),
        *("-pcap", f"{DISK}/c.pcap"),
        *("-log-file", f"{DISK}/log"),
    )
    with network(world, *flags) as one:

        def file(name: str) -> str:
            return one.host.try_run("cat", f"{DISK}/{name}").stdout

        def saved(zone: str) -> None:
            if zone not in file("state/state.json"):
                raise NotYetError("it is not saved")

        def add(zone: str) -> None:
            one.gvproxy.post("/services/dns/add", {"name": zone, "records": []})

        add("before.")
        until(lambda: saved("before."), "the state is saved")
        one.host.try_run("sh", "-c", f"cat /dev/zero >{DISK}/fill")
        assert ask(one.guest) == "0"
        for _ in range(40):  # more lines than a page of memory still has room for
            one.gvproxy.expose("127.0.0.1:7070", f"{DEVICE}:80")
            one.gvproxy.unexpose("127.0.0.1:7070")
        add("meanwhile.")

        def tried() -> None:
            if one.host.try_run("test", "-e", f"{DISK}/state/state.json.new").returncode:
                raise NotYetError("the state was not to be saved")

        until(tried, "the state is to be saved")
        assert "meanwhile" not in file("state/state.json")
        before = file("log")  # whose last line may be cut in two
        one.host.run("rm", f"{DISK}/fill")
        until(lambda: saved("meanwhile."), "the state is saved again", 60)
        add("after.")
        until(lambda: saved("after."), "the state is saved")
        one.gvproxy.process.stop()
        assert one.gvproxy.process.log.read_text() == ""
        log = file("log")
        assert log.startswith(before)
        assert "lines of the log were lost" in log
        assert log.count("the state is saved again") == 1
        records = one.host.run("od", "-An", "-v", "-tx1", f"{DISK}/c.pcap")
        check_capture(bytes.fromhex(records))


def check_capture(data: bytes) -> None:
    """Find whole records only."""
    import io

    import dpkt

    position = 24
    for _ in dpkt.pcap.Reader(io.BytesIO(data)):
        position += 16 + int.from_bytes(data[position + 8 : position + 12], "little")
    assert position == len(data)


def test_the_daemon_stands_still(world: World) -> None:
    """For two seconds, as on a host under load or suspended: connections go on."""
    with network(world) as one, one.host.listen() as listener:
        with one.guest.connect(HOST, listener.getsockname()[1]) as inside:
            outside, _ = listener.accept()
            with outside:
                frames = one.gvproxy.get("/stats")["Details"]["Totals"]
                with one.gvproxy.process.standing_still():
                    inside.sendall(b"while it stands")
                    outside.sendall(b"still")
                    late = one.guest.open_socket()
                    late.setblocking(False)
                    late.connect_ex((HOST, listener.getsockname()[1]))
                    time.sleep(2)  # is what is tested
                outside.settimeout(WAIT)
                assert outside.recv(64) == b"while it stands"
                assert inside.recv(64) == b"still"
                late.settimeout(WAIT)
                listener.accept()[0].close()
                assert late.recv(1) == b""
                late.close()
                after = one.gvproxy.get("/stats")["Details"]["Totals"]
                assert after["FramesSent"] - frames["FramesSent"] < 50
        assert one.agent.settings()
        assert "ended" not in one.agent.process.log.read_text()


def test_the_hosts_address_and_route_change(world: World) -> None:
    """As with another Wi-Fi: what is new goes on by the new one, and mappings of UDP as well."""
    with ExitStack() as stack:
        one = stack.enter_context(network(world))
        server = stack.enter_context(one.outside.open_socket(socket.SOCK_DGRAM))
        server.bind((OUTSIDE, 0))
        server.settimeout(WAIT)
        listener = stack.enter_context(one.outside.listen(OUTSIDE, 0))
        client = stack.enter_context(one.guest.open_socket(socket.SOCK_DGRAM, WAIT))
        client.connect(server.getsockname())
        old = stack.enter_context(one.guest.connect(OUTSIDE, listener.getsockname()[1]))
        listener.accept()[0].close()
        assert old.recv(1) == b""

        def exchange() -> str:
            client.send(b"where from?")
            data, (host, port) = server.recvfrom(64)
            server.sendto(data, (host, port))
            assert client.recv(64) == data
            return str(host)

        assert exchange() == HOST_OUTSIDE
        answered(one.guest)
        one.host.run("ip", "address", "flush", "dev", "out0")
        client.send(b"nowhere")  # of which the guest's kernel hears, and thinks little (udp(7))
        with pytest.raises(OSError, match="unreachable"):
            one.guest.connect(OUTSIDE, listener.getsockname()[1])
        assert ask(one.guest, name="new.outside.test") == "2"
        one.host.run("ip", "address", "add", "10.77.0.9/24", "dev", "out0")
        assert exchange() == "10.77.0.9"
        with one.guest.connect(OUTSIDE, listener.getsockname()[1]):
            sock, (host, _) = listener.accept()
            sock.close()
            assert host == "10.77.0.9"
        one.guest.run("ping", "-c", "1", "-W", "10", OUTSIDE)
        assert ask(one.guest, name="new.outside.test") == "3"  # NXDOMAIN, by the server


def test_the_resolver_goes_and_comes(world: World) -> None:
    with network(world) as one:
        assert ask(one.guest) == "0"
        one.host.set_resolvers([])

        def gone() -> None:
            if ask(one.guest, name="new.outside.test") != "2":
                raise NotYetError("there are servers")

        until(gone, "there is no server")
        one.host.set_resolvers([OUTSIDE])
        until(lambda: None if ask(one.guest, name="x.test") == "3" else _not_yet(), "it is back")
        text = "names are not looked up: the host's resolv.conf has no name server"
        assert one.gvproxy.process.log.read_text().count(text) == 1
