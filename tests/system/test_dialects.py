"""Guests of every dialect, each by a stand-in for its hypervisor, alone and together."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import pytest

from tests.lab import dialects, frames
from tests.lab.dialects import LISTENERS, Guest, Stdio, closing
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest
from tests.lab.programs import GATEWAY, GVPROXY, Agent, Gvproxy

pytestmark = [pytest.mark.root, pytest.mark.system]

FEEDS = ["whole", "bytes", "coalesced"]
STREAMS = ["connect", "qemu", "vpnkit"]


@contextlib.contextmanager
def listening(world: World, *names: str, flags: Sequence[str] = ()) -> Iterator[Gvproxy]:
    """Run gvproxy with listeners for some dialects."""
    gvproxy = Gvproxy(world.folder, world.host, *dialects.flags(world.folder, *names), *flags)
    try:
        gvproxy.process.wait_for("is ready")
        yield gvproxy
    finally:
        gvproxy.process.stop()
    assert "Traceback" not in gvproxy.process.log.read_text()
    for name in names:
        assert not (world.folder / f"{name}.sock").exists()


def come(world: World, name: str, feed: str = "whole") -> contextlib.AbstractContextManager[Guest]:
    return closing(dialects.come(world.folder, name, feed))


@pytest.mark.parametrize(
    ("name", "feed"),
    [*((name, feed) for name in STREAMS for feed in FEEDS), ("bess", "whole"), ("vfkit", "whole")],
)
def test_a_guest_comes_and_goes_and_comes_again(world: World, name: str, feed: str) -> None:
    with listening(world, *([name] if name in LISTENERS else [])) as gvproxy:
        for _ in range(2):
            with come(world, name, feed) as guest:
                frames.live(guest, world.host)
                assert list(gvproxy.get("/cam")) == ["5a:94:ef:e4:0c:ee"]


@pytest.mark.parametrize("name", ["v.sock_1024", "00000002.00000400"])
def test_vsock_that_is_a_unix_socket_of_the_host(world: World, name: str) -> None:
    """As Firecracker and cloud-hypervisor have it, and hyperkit."""
    path = world.folder / name
    url = f"unix://{path}" if "_" in name else f"vsock://null:1024{world.folder}"
    gvproxy = Gvproxy(world.folder, world.host, "-listen", url)
    gvproxy.process.wait_for("is ready")
    with closing(dialects.connect(path)) as guest:
        frames.live(guest, world.host)
    gvproxy.process.stop()
    assert not path.exists()


def test_vfkit_need_not_greet(world: World) -> None:
    with listening(world, "vfkit"), closing(dialects.vfkit(world.folder / "vfkit.sock")) as guest:
        frames.live(guest, world.host)


@pytest.mark.parametrize("feed", FEEDS)
def test_a_guest_whose_program_gvproxy_is(world: World, feed: str) -> None:
    """It ends with its guest, by status 0."""
    api = world.folder / "api.sock"
    guest = Stdio(world.host, world.folder, feed, "-services", f"unix://{api}")
    with closing(guest):
        frames.live(guest, world.host)
    said = guest.log.read_text()
    assert "ending (its only guest has gone)" in said
    assert "Traceback" not in said
    assert not api.exists()


def test_an_agent_whose_program_gvproxy_is(world: World) -> None:
    with Namespace("alone", world.folder) as machine:
        url = f"stdio://{GVPROXY}?listen-stdio=accept&ssh-port=-1"
        agent = Agent(machine, url)
        agent.wait()
        assert "1 received" in machine.run("ping", "-c", "1", GATEWAY)
        agent.process.stop()
        assert "ending (its only guest has gone)" in agent.process.log.read_text()


def test_a_guest_of_a_program_with_others(world: World) -> None:
    """Others may come, so it does not end with that guest."""
    path = world.folder / "others.sock"
    guest = Stdio(world.host, world.folder, "whole", "-listen", f"unix://{path}")
    frames.live(guest, world.host)
    guest._sock.close()
    with closing(dialects.connect(path)) as other:
        frames.live(other, world.host)
    guest._program.terminate()
    guest.close()


def test_all_together(world: World) -> None:
    with (
        listening(world, "qemu", "vfkit", flags=["-source-checks=false"]) as gvproxy,
        make_guest(world, gvproxy, "guest", "-mac", "02:00:00:00:00:07") as (machine, _),
        come(world, "vfkit") as first,
        come(world, "qemu") as second,
        come(world, "connect") as third,
    ):
        for guest in (first, second, third, first):
            frames.live(guest, world.host)
        assert "1 received" in machine.run("ping", "-c", "1", GATEWAY)
        assert len(gvproxy.get("/cam")) == 2
        ports = {port["dialect"]: port for port in gvproxy.get("/ports")}
        assert {dialect: port["macs"] for dialect, port in ports.items()} == {
            "taplink/1": ["02:00:00:00:00:07"],
            "vfkit": ["5a:94:ef:e4:0c:ee"],
            "qemu": [],
            "hyperkit": [],
        }
        assert all(port["frames_in"] and port["frames_out"] for port in ports.values())
        assert ports["taplink/1"]["offloads"].startswith("csum,tso4")
        assert ports["vfkit"]["peer"] == f"{world.folder}/vfkit-guest.sock"
        assert ports["qemu"]["peer"] == f"process {os.getpid()}"
        # One MAC at several ports: the newer one wins, and it is said once.
        log = gvproxy.process.log.read_text()
        assert log.count("5a:94:ef:e4:0c:ee moved to port") == 1


def test_guests_hear_each_other(world: World) -> None:
    with (
        listening(world, "vfkit", "bess") as gvproxy,
        come(world, "vfkit") as one,
        come(world, "bess") as two,
    ):
        gvproxy.process.wait_for("guest 1 has come")
        one.send(frames.who_has("192.168.127.9"))
        assert two.receive() == frames.who_has("192.168.127.9")
        two.send(b"\x5a\x94\xef\xe4\x0c\xee" + b"\2\0\0\0\0\3" + b"\x88\xb5" + b"x" * 1400)
        assert one.receive()[6:12] == b"\2\0\0\0\0\3"


def test_a_stream_out_of_step_is_closed_with_a_reason(world: World) -> None:
    with listening(world, "qemu") as gvproxy, come(world, "qemu") as guest:
        assert isinstance(guest, dialects.Stream)
        guest.write(b"\0\0\0\x0e" + bytes(14) + b"POST /connect HTTP/1.1\r\n")
        with pytest.raises(EOFError):
            guest.receive()
        gvproxy.process.wait_for("the stream is out of step")


@pytest.mark.parametrize("size", [0, 1, 48, 49, 50, 89])
def test_a_handshake_that_breaks_off(world: World, size: int) -> None:
    with listening(world, "vpnkit") as gvproxy:
        sock = dialects._connected(world.folder / "vpnkit.sock")
        sock.sendall(b"VMN3T".ljust(size, b"x")[:size])
        sock.close()
        with come(world, "vpnkit") as guest:
            frames.live(guest, world.host)
        assert gvproxy.process.log.read_text().count("has come") == 1
