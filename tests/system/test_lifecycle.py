"""The two programs as their users start, lose and end them."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest

from tests.lab import dialects, frames
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, GVPROXY, HOST, VSOCK_TAP, Agent, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]


def test_a_guest_outlives_the_daemon(world: World) -> None:
    first = Gvproxy(world.folder, world.host)
    with make_guest(world, first) as (guest, agent):
        before = agent.settings()
        with world.host.listen() as listener:
            port = listener.getsockname()[1]
            with guest.connect(HOST, port) as idle:
                held, _ = listener.accept()
                first.process.kill()
                held.close()
                assert agent.settings() == before
                agent.process.wait_for("again")
                assert agent.settings() == before

                second = Gvproxy(world.folder, world.host)  # over the socket file of the first

                def reconnected() -> None:
                    if not second.get("/cam"):
                        raise NotYetError("the guest is not there")

                until(reconnected, "the guest is back")
                assert agent.settings() == before
                with guest.connect(HOST, port) as sock:
                    listener.accept()[0].close()
                    assert sock.recv(1) == b""
                # The new daemon does not know the old connection, and says so.
                idle.sendall(b"still there?")
                with pytest.raises(ConnectionResetError):
                    idle.recv(1)
        assert agent.settings() == before
    second.process.stop()


def test_a_new_mtu_is_taken_without_a_restart(world: World) -> None:
    first = Gvproxy(world.folder, world.host)
    with make_guest(world, first) as (guest, agent):
        before = agent.settings()
        for mtu in (9000, 1400):
            first.process.kill()
            first = Gvproxy(world.folder, world.host, "-mtu", str(mtu))

            def taken(mtu: int = mtu) -> None:
                if f" mtu {mtu} " not in guest.run("ip", "link", "show", "tap0"):
                    raise NotYetError("it has another MTU")

            until(taken, f"the guest has an MTU of {mtu}")
            guest.run("ping", "-c", "1", "-M", "do", "-s", str(mtu - 28), GATEWAY)
            assert agent.settings().address == before.address
    first.process.stop()


def test_connections_outlive_the_link(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, agent), world.host.listen() as listener:
        with guest.connect(HOST, listener.getsockname()[1]) as sock:
            server, _ = listener.accept()
            with server:
                server.settimeout(30)
                agent.process.kill()
                again = Agent(guest, gvproxy.url)
                again.wait()
                sock.sendall(b"as if nothing had happened")
                assert server.recv(64) == b"as if nothing had happened"
        again.process.stop()
    gvproxy.process.stop()


def test_the_agent_leaves_nothing(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, agent):
        agent.process.stop()
        assert "tap0" not in guest.run("ip", "link", "show")
        assert "default" not in guest.run("ip", "route", "show")
        assert guest.run("cat", "/etc/resolv.conf") == ""
    gvproxy.process.stop()


def test_the_daemon_ends_with_guests_attached(world: World) -> None:
    pid_file = world.folder / "pid"
    gvproxy = Gvproxy(world.folder, world.host, "-pid-file", str(pid_file))
    assert gvproxy.get("/leases")  # it listens before it has written the file
    assert pid_file.read_text().strip().isdigit()
    with make_guest(world, gvproxy) as (guest, _), world.host.listen() as listener:
        sock = guest.connect(HOST, listener.getsockname()[1])
        server, _ = listener.accept()
        caller = guest.connect(GATEWAY, 80)
        with sock, server, caller:
            head = b"POST /services/forwarder/expose HTTP/1.1\r\nHost: 192.168.127.1\r\n"
            caller.sendall(head + b"Content-Length: 9\r\n\r\n{")
            assert guest.run("curl", "--silent", f"http://{GATEWAY}/services/forwarder/all")
            gvproxy.process.stop(timeout=3.0)
            for end in (sock, caller):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
    assert "Traceback" not in gvproxy.process.log.read_text()
    assert not gvproxy.path.exists()
    assert not pid_file.exists()


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """Not that of whoever runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("no_nohup")
def test_a_terminal_that_is_closed_is_an_end(world: World) -> None:
    """By SIGHUP, after which both have cleaned up; nohup keeps it away."""
    gvproxy = Gvproxy(world.folder, world.host)
    lasting = Gvproxy(world.folder, world.host, name="lasting", before=["nohup"])
    os.kill(lasting.process.pid, signal.SIGHUP)
    with Namespace("guest", world.folder) as guest:
        before = guest.run("cat", "/etc/resolv.conf")
        agent = Agent(guest, gvproxy.url)
        agent.wait()
        os.kill(agent.process.pid, signal.SIGHUP)
        assert agent.process.wait(10) == 0
        assert guest.run("cat", "/etc/resolv.conf") == before
    os.kill(gvproxy.process.pid, signal.SIGHUP)
    assert gvproxy.process.wait(10) == 0
    assert not gvproxy.path.exists()
    assert lasting.get("/leases")
    lasting.process.stop()


@pytest.mark.parametrize(
    ("program", "flags", "text"),
    [
        (GVPROXY, ["-listen", "nonsense"], "nonsense"),
        (GVPROXY, ["-listen", "unix:///nowhere/at/all.sock"], "/nowhere/at/all.sock"),
        (GVPROXY, ["-mtu", "12"], "mtu"),
        (GVPROXY, ["-no-such-flag"], "no-such-flag"),
        (GVPROXY, ["-listen", "tcp://127.0.0.1:0", "-pid-file", "/nowhere/pid"], "/nowhere/pid"),
        (
            GVPROXY,
            ["-listen-qemu", "unix:///nowhere/q"],
            "-listen-qemu: unix:///nowhere/q: No such",
        ),
        (GVPROXY, ["-listen-bess", "unixpacket:///etc/passwd"], "exists and is not a socket"),
        (GVPROXY, ["-listen-vfkit", "unixgram:///etc/passwd"], "exists and is not a socket"),
        (GVPROXY, ["-listen-stdio", "accept"], "standard input and output must be pipes"),
        (VSOCK_TAP, ["-url", "nonsense"], "nonsense"),
        (VSOCK_TAP, ["-url", "unix:///x", "-mac", "5a"], "5a"),
        (VSOCK_TAP, ["-no-such-flag"], "no-such-flag"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_1(
    world: World, program: Path, flags: list[str], text: str
) -> None:
    done = world.host.try_run(program, *flags)
    assert done.returncode == 1
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


CLOSED = ["<&-", ">&-", "<&- >&- 2>&-"]


def without(closed: str, *command: str | Path) -> list[str | Path]:
    """Return what runs a command without some of its standard descriptors."""
    return ["sh", "-c", f'exec "$@" {closed}', "sh", *command]


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_standard_descriptors_are_no_matter(world: World, closed: str) -> None:
    gvproxy = Gvproxy(world.folder, world.host, before=without(closed))
    with Namespace("guest", world.folder) as guest:
        flags = ["-url", gvproxy.url, "-stop-if-exist", ""]
        agent = guest.start("agent", *without(closed, VSOCK_TAP, *flags))

        def leased() -> None:
            agent.check()
            if DEVICE not in guest.run("ip", "-4", "address"):
                raise NotYetError("no lease")

        until(leased, "the guest has its lease")
        agent.stop()
    gvproxy.process.stop()


@pytest.mark.parametrize("closed", CLOSED[:2])
def test_a_guest_at_closed_standard_descriptors(world: World, closed: str) -> None:
    done = world.host.try_run(*without(closed, GVPROXY, "-listen-stdio", "accept"))
    said = "gvproxy: -listen-stdio: standard input and output must be pipes\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_busy_published_port_is_one_line_and_status_1(world: World) -> None:
    with world.host.listen("127.0.0.1", 2222):
        done = world.host.try_run(GVPROXY, "-listen", f"unix://{world.folder}/busy.sock")
    assert done.returncode == 1
    assert "2222" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (world.folder / "busy.sock").exists()


def test_malformed_frames_are_counted_and_harm_nobody(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, _):
        client = dialects.connect(gvproxy.path)
        mac = bytes.fromhex("020000000001")
        whole = frames.segment(dpkt.tcp.TH_SYN, 1, 0, 9).replace(frames.MAC, mac)
        for length in range(len(whole)):
            client.send(whole[:length])

        def counted() -> None:
            if gvproxy.get("/stats")["MalformedRcvdPackets"] < 34:
                raise NotYetError("not all of them are counted")

        until(counted, "the frames are counted")
        assert "1 received" in guest.run("ping", "-c", "1", GATEWAY)
        client.close()
    gvproxy.process.stop()


def test_a_stream_out_of_step_is_closed(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(gvproxy.path))
        sock.sendall(b"GARBAGE\0\0\0\r\n\r\n")
        assert sock.recv(64).startswith(b"HTTP/1.1 400 ")
        assert sock.recv(64) == b""
    gvproxy.process.stop()
