"""Taps that are handed over, and guests at descriptors that gvproxy is started with."""

import contextlib
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gvproxy.limits import Limits
from taplink import tap
from taplink.tap import Tap, open_tap
from tests.lab import dialects, frames
from tests.lab.dialects import Packets, Stream, closing
from tests.lab.namespace import Namespace
from tests.lab.network import World
from tests.lab.process import piped
from tests.lab.programs import GATEWAY, GVPROXY, HOST, Gvproxy
from tests.lab.transfer import exchange
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

ADDRESS = "192.168.127.9"
SIZE = 20_000_000


@contextlib.contextmanager
def machine(world: World, name: str = "guest") -> Iterator[tuple[Namespace, Tap]]:
    """A namespace with a tap that is set up by hand, and the tap's descriptor."""
    with Namespace(name, world.folder) as guest:
        with guest.entered():
            opened = open_tap("tap0")
        guest.run("ip", "address", "add", f"{ADDRESS}/24", "dev", "tap0")
        guest.run("ip", "link", "set", "tap0", "up")
        guest.run("ip", "route", "add", "default", "via", GATEWAY)
        with opened:
            yield guest, opened


@contextlib.contextmanager
def listening(world: World) -> Iterator[tuple[Gvproxy, Path]]:
    path = world.folder / "tap.sock"
    gvproxy = Gvproxy(world.folder, world.host, "-listen-tap", f"unix://{path}")
    try:
        yield gvproxy, path
    finally:
        gvproxy.process.stop()
    assert "Traceback" not in gvproxy.process.log.read_text()
    assert not path.exists()


@contextlib.contextmanager
def handing_over(path: Path, *descriptors: int) -> Iterator[str]:
    """Hand descriptors over; gives the answer, and keeps the connection meanwhile."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        socket.send_fds(sock, [b"tap"], descriptors)
        with sock.makefile() as answers:
            answer = answers.readline()
            if answer != "OK\n":
                assert answers.read() == ""
            yield answer


def refusal(path: Path, *descriptors: int) -> str:
    """Hand over what is refused, and return the answer."""
    with handing_over(path, *descriptors) as answer:
        return answer


def transfer(world: World, guest: Namespace) -> None:
    with (
        world.host.listen() as listener,
        guest.connect(HOST, listener.getsockname()[1]) as there,
    ):
        here, _ = listener.accept()
        with here:
            exchange(there, here, SIZE, 60)


def test_a_tap_that_is_handed_over(world: World) -> None:
    with (
        listening(world) as (gvproxy, path),
        machine(world) as (guest, opened),
        handing_over(path, opened.fd) as answer,
    ):
        assert answer == "OK\n"
        opened.close()
        transfer(world, guest)
        assert "0% packet loss" in guest.run("ping", "-c", "1", "-W", "5", GATEWAY)
        (port,) = gvproxy.get("/ports")
        assert (port["dialect"], port["peer"]) == ("tap", "tap0")
        assert port["offloads"].startswith("csum,tso4,tso6")
        guest.run("ip", "link", "set", "tap0", "down")
        guest.run("ip", "link", "set", "tap0", "up")
        guest.run("ip", "route", "add", "default", "via", GATEWAY)
        transfer(world, guest)
        guest.run("ip", "link", "delete", "tap0")
        gvproxy.process.wait_for("has gone: the interface was deleted")
        assert gvproxy.get("/ports") == []


def test_what_is_sent_to_a_tap_that_is_down_is_dropped(world: World) -> None:
    with (
        listening(world) as (gvproxy, path),
        machine(world) as (guest, opened),
        handing_over(path, opened.fd) as answer,
    ):
        assert answer == "OK\n"
        guest.run("ping", "-c", "1", "-W", "5", GATEWAY)
        body = {"local": "127.0.0.1:7777", "remote": f"{ADDRESS}:7", "protocol": "udp"}
        gvproxy.post("/services/forwarder/expose", body)
        guest.run("ip", "link", "set", "tap0", "down")
        with world.host.open_socket(socket.SOCK_DGRAM) as sock:
            sock.sendto(b"anybody?", ("127.0.0.1", 7777))

        def dropped() -> None:
            if not gvproxy.get("/ports")[0]["dropped"]:
                raise NotYetError("nothing was dropped")

        until(dropped, "frames are dropped")


def test_a_tap_without_the_virtio_header(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "IFF_VNET_HDR", 0)
    with (
        listening(world) as (gvproxy, path),
        machine(world) as (guest, opened),
        handing_over(path, opened.fd) as answer,
    ):
        assert answer == "OK\n"
        transfer(world, guest)
        assert gvproxy.get("/ports")[0]["offloads"] == ""


def test_what_is_no_tap_is_refused_with_the_reason(world: World) -> None:
    with listening(world) as (gvproxy, path), machine(world) as (_, opened):
        before = len(os.listdir(f"/proc/{gvproxy.process.pid}/fd"))
        with socket.socket() as sock:
            assert refusal(path, sock.fileno()) == "it is no tap\n"
            assert refusal(path, opened.fd, sock.fileno()) == (
                "one descriptor is to be handed over, not 2\n"
            )
            assert refusal(path, *[sock.fileno()] * 10) == (
                "one descriptor is to be handed over, not 10\n"
            )
        assert refusal(path) == "one descriptor is to be handed over, not 0\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))

        def given_back() -> None:
            if len(os.listdir(f"/proc/{gvproxy.process.pid}/fd")) != before:
                raise NotYetError("descriptors are open")

        until(given_back, "everything was closed")
        assert gvproxy.get("/ports") == []


@pytest.mark.parametrize("way", [socket.SHUT_WR, None])
def test_the_guest_goes_with_the_connection_that_brought_it(world: World, way: int | None) -> None:
    with listening(world) as (gvproxy, path), machine(world) as (guest, opened):
        sock = socket.socket(socket.AF_UNIX)
        with sock:
            sock.settimeout(10)
            sock.connect(str(path))
            socket.send_fds(sock, [b"tap"], [opened.fd])
            assert sock.recv(10) == b"OK\n"
            opened.close()
            sock.send(b"whatever else is said is nothing")
            guest.run("ping", "-c", "1", "-W", "5", GATEWAY)
            if way is not None:
                sock.shutdown(way)
                assert sock.recv(10) == b""
        gvproxy.process.wait_for("has gone: who handed the tap over has left")
        assert gvproxy.get("/ports") == []
        with pytest.raises(Exception, match="does not exist"):
            guest.run("ip", "link", "show", "tap0")


def test_who_has_handed_over_hears_of_the_end(world: World) -> None:
    with (
        listening(world) as (_, path),
        machine(world) as (guest, opened),
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.settimeout(10)
        sock.connect(str(path))
        socket.send_fds(sock, [b"tap"], [opened.fd])
        assert sock.recv(10) == b"OK\n"
        guest.run("ping", "-c", "1", "-W", "5", GATEWAY)
        assert select.select([sock], [], [], 0)[0] == []
        guest.run("ip", "link", "delete", "tap0")
        assert sock.recv(10) == b""


def test_a_tap_without_an_interface_is_refused(world: World) -> None:
    with listening(world) as (_, path), machine(world) as (guest, opened):
        guest.run("ip", "link", "delete", "tap0")
        assert refusal(path, opened.fd) == "the tap has no interface, or no longer\n"


def all_there(gvproxy: Gvproxy) -> None:
    """There are as many guests as may be."""
    count = len(gvproxy.get("/ports"))
    if count < Limits().guests:
        raise NotYetError(f"there are {count}")


def test_where_there_is_no_room_the_reason_is_told(world: World) -> None:
    with (
        listening(world) as (gvproxy, path),
        machine(world) as (_, opened),
        contextlib.ExitStack() as others,
    ):
        for _ in range(Limits().guests):
            others.enter_context(closing(dialects.connect(world.folder / "gvproxy.sock")))
        until(lambda: all_there(gvproxy), "all guests have come")  # the log has some of them
        assert refusal(path, opened.fd) == "there is no room for another guest\n"


# -listen-fd


@contextlib.contextmanager
def started(
    world: World, *descriptors: int, flags: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Start gvproxy with descriptors, and without any listener."""
    numbers = [word for number in descriptors for word in ("-listen-fd", str(number))]
    command = world.host.command(GVPROXY, "-ssh-port", "-1", *numbers, *flags)
    with piped(command, descriptors) as process:
        yield process


def test_a_tap_at_a_descriptor(world: World) -> None:
    with machine(world) as (guest, opened), started(world, opened.fd) as process:
        opened.close()
        transfer(world, guest)
        guest.run("ip", "link", "delete", "tap0")
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "ending (its only guest has gone)" in said
        assert "Traceback" not in said


def test_connected_sockets_at_descriptors(world: World) -> None:
    """As QEMU has it with -netdev stream,addr.type=fd, and BESS."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    packets, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with started(world, there.fileno(), others.fileno()) as process:
        there.close()
        others.close()
        with closing(Stream(here, struct.Struct(">I"))) as guest:
            frames.live(guest, world.host)
        with closing(Packets(packets)) as guest:
            frames.live(guest, world.host)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "ending (its only guest has gone)" in said


def test_descriptors_that_are_no_guests(world: World) -> None:
    with socket.socket() as sock, open("/dev/null") as null, socket.socket(type=2) as datagrams:
        datagrams.connect(("127.0.0.1", 9))
        cases = {
            sock.fileno(): "the socket is not connected",
            null.fileno(): "it is no tap, and no socket",
            datagrams.fileno(): "a socket of a kind that no guest has",
            500: "no such descriptor was passed",
        }
        for number, problem in cases.items():
            given = [] if number == 500 else [number]
            process = subprocess.run(
                world.host.command(GVPROXY, "-ssh-port", "-1", "-listen-fd", str(number)),
                pass_fds=given,
                stderr=subprocess.PIPE,
                text=True,
                timeout=10,
                check=False,
            )
            assert process.returncode == 1
            assert process.stderr == f"gvproxy: -listen-fd {number}: {problem}\n"
