"""The host daemon ends and is started again: its guests come back by themselves, within seconds."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tests.lab import dialects, frames
from tests.lab.dialects import LISTENERS, Guest, closing
from tests.lab.namespace import Namespace, link
from tests.lab.network import World, make_guest
from tests.lab.process import Process
from tests.lab.programs import GATEWAY, GVPROXY, HOST, Agent, Gvproxy, Settings
from tests.lab.sockets import read_all
from tests.lab.vm import Vm, needs_vm
from tests.lab.wait import NotYetError, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.parametrize("end", [Process.kill, Process.stop], ids=["killed", "stopped"]),
]

End = Callable[[Process], None]
T = TypeVar("T")

PORT = 8091
MACS = "02:00:00:00:00:03", "02:00:00:00:00:07"
"""Of guests without a static lease."""
GATEWAY_MAC = "5a:94:ef:e4:0c:dd"
HOST_CABLE, GUEST_CABLE = "10.81.0.1", "10.81.0.2"
OLD_HOST = """\
import runpy, sys
from taplink import upgrade
upgrade.offered = lambda request: None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a gvproxy that answers /connect with nothing, as Go's does."""

WAYS = {
    "unix": ("", "taplink/1", ()),
    "tcp": (f"tcp://{HOST_CABLE}:1024", "taplink/1", ()),
    "old": ("", "hyperkit", (sys.executable, "-c", OLD_HOST)),
}
"""How an agent reaches its host: the URL, where it is not the usual one, the dialect, and what the
daemon is run by."""


@contextmanager
def cabled(world: World) -> Iterator[Namespace]:
    """Make a guest that has a cable to the host besides."""
    with Namespace("guest", world.folder) as guest:
        link(world.host, "vm0", guest, "eth0")
        world.host.run("ip", "address", "add", f"{HOST_CABLE}/24", "dev", "vm0")
        guest.run("ip", "address", "add", f"{GUEST_CABLE}/24", "dev", "eth0")
        yield guest


def picture(agent: Agent) -> tuple[int, Settings]:
    """Return which tap it is, and what is set up."""
    with agent.namespace.entered():
        return socket.if_nametoindex(agent.iface), agent.settings()


def use(guest: Namespace, host: Namespace) -> None:
    """ARP, a ping, a name, and TCP with a server of the host."""
    guest.run("ip", "neighbour", "flush", "dev", "tap0")
    assert "1 received" in guest.run("ping", "-c", "1", "-W", "10", GATEWAY)
    assert GATEWAY_MAC in guest.run("ip", "neighbour", "show", GATEWAY)
    assert guest.run("dig", "+short", "host.containers.internal") == f"{HOST}\n"
    with (
        host.listen() as listener,
        guest.connect(HOST, listener.getsockname()[1]) as sock,
        listener.accept()[0] as peer,
    ):
        peer.settimeout(10)
        sock.sendall(b"hello")
        assert peer.recv(16) == b"hello"
        peer.sendall(b"goodbye")
        assert sock.recv(16) == b"goodbye"


def wait_for_lease(gvproxy: Gvproxy) -> None:
    def leased() -> None:
        if gvproxy.get("/leases").get("192.168.127.4") != MACS[1]:
            raise NotYetError("the guest has not asked for its address")

    until(leased, "the guest is back")


def check_left(path: Path, end: End) -> None:
    """Check that only a killed daemon has left its socket file, for the next one to replace."""
    assert path.exists() == (end is Process.kill)


def read_to_end(guest: Guest) -> None:
    with suppress(EOFError, ConnectionResetError):
        while True:
            guest.receive()


def come_again(attempt: Callable[[], T]) -> T:
    """Try until there is somebody, as hypervisors do."""

    def once() -> T:
        try:
            return attempt()
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise NotYetError(str(error)) from error

    return until(once, "the daemon takes guests")


def finish(gvproxy: Gvproxy) -> None:
    gvproxy.process.stop()
    assert "Traceback" not in gvproxy.process.log.read_text()


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_connects_again(world: World, way: str, end: End) -> None:
    url, dialect, before = WAYS[way]
    token = world.folder / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    flags = ["-listen", url, "-api-token-file", str(token)] if url else []
    mine = ["-token-file", str(token)] if url else []
    with cabled(world) as guest:
        first = Gvproxy(world.folder, world.host, *flags, before=before)
        with make_guest(world, first, "before", "-mac", MACS[0]):
            pass  # it had the first address of the pool, which a guest without a memory would get
        agent = Agent(guest, url or first.url, "-mac", MACS[1], *mine)
        assert agent.wait().address == "192.168.127.4/24"
        agent.process.wait_for(f": {dialect}, ")
        use(guest, world.host)
        before_end = picture(agent)

        end(first.process)
        check_left(first.path, end)
        agent.process.wait_for("the link has ended")
        assert picture(agent) == before_end
        agent.process.wait_for("trying again")
        assert picture(agent) == before_end

        second = Gvproxy(world.folder, world.host, *flags, before=before)
        wait_for_lease(second)
        use(guest, world.host)
        assert picture(agent) == before_end
        assert [port["dialect"] for port in second.get("/ports")] == [dialect]
        agent.process.stop()
    finish(second)


def test_an_agent_starts_its_program_again(world: World, end: End) -> None:
    api, pid_file = world.folder / "api.sock", world.folder / "pid"
    flags = f"listen-stdio=accept&ssh-port=-1&services=unix://{api}&pid-file={pid_file}"
    with Namespace("alone", world.folder) as machine:
        agent = Agent(machine, f"stdio://{GVPROXY}?{flags}")
        agent.wait()
        use(machine, machine)
        before_end = picture(agent)
        first = pid_file.read_text()
        os.kill(int(first), signal.SIGKILL if end is Process.kill else signal.SIGTERM)
        agent.process.wait_for("the link has ended")
        assert picture(agent) == before_end

        def started() -> None:
            if not pid_file.exists() or pid_file.read_text() in ("", first):
                raise NotYetError("its program is not there")

        until(started, "the program is started again")
        use(machine, machine)
        assert picture(agent) == before_end
        agent.process.stop()
    assert "Traceback" not in agent.process.log.read_text()


@pytest.mark.parametrize("name", ["connect", "qemu", "vpnkit", "bess"])
def test_a_hypervisor_connects_again(world: World, name: str, end: End) -> None:
    """Its guest knows nothing of that, and goes on with the address it has."""
    flags = dialects.flags(world.folder, *([name] if name in LISTENERS else []))
    first = Gvproxy(world.folder, world.host, *flags)
    first.process.wait_for("is ready")
    with closing(dialects.come(world.folder, name)) as guest:
        frames.live(guest, world.host)
        end(first.process)
        read_to_end(guest)
    if flags:
        check_left(world.folder / f"{name}.sock", end)

    second = Gvproxy(world.folder, world.host, *flags)
    with closing(come_again(lambda: dialects.come(world.folder, name))) as guest:
        frames.live_on(guest, world.host)
    finish(second)


def test_an_address_in_use_is_nobody_elses(world: World, end: End) -> None:
    """The new daemon has no lease for it, but sees who has it."""
    first = Gvproxy(world.folder, world.host)
    with Namespace("fixed", world.folder) as machine:
        machine.run("ip", "tuntap", "add", "tap0", "mode", "tap")
        machine.run("ip", "link", "set", "tap0", "address", MACS[0], "up")
        machine.run("ip", "address", "add", "192.168.127.3/24", "dev", "tap0")
        agent = Agent(machine, first.url, "-preexisting")
        agent.process.wait_for("linked to")
        end(first.process)
        agent.process.wait_for("the link has ended")

        second = Gvproxy(world.folder, world.host)

        def seen() -> None:
            if MACS[0] not in second.get("/cam"):
                raise NotYetError("it has sent nothing")

        until(seen, "the guest is back")
        with make_guest(world, second, "other", "-mac", MACS[1]) as (_, other):
            assert other.settings().address == "192.168.127.4/24"
        agent.process.stop()
    finish(second)


def test_vfkit_sends_again(world: World, end: End) -> None:
    """Its socket stays bound to its path, by which the new daemon finds it without a greeting."""
    path = world.folder / "vfkit.sock"
    flags = dialects.flags(world.folder, "vfkit")
    first = Gvproxy(world.folder, world.host, *flags)
    first.process.wait_for("is ready")
    with closing(dialects.vfkit(path)) as guest:
        frames.live(guest, world.host)
        end(first.process)
        check_left(path, end)
        with pytest.raises(ConnectionRefusedError):
            guest.send(frames.who_has(GATEWAY))

        second = Gvproxy(world.folder, world.host, *flags)
        come_again(guest.connect)
        frames.live_on(guest, world.host)
        assert [port["peer"] for port in second.get("/ports")] == [str(guest.path)]
    finish(second)


@needs_vm
def test_a_machine_lives_on(world: World, end: End) -> None:
    path, own = world.folder / "vfkit.sock", world.folder / "machine.sock"
    flags = dialects.flags(world.folder, "vfkit")
    netdev = f"dgram,local.type=unix,local.path={own},remote.type=unix,remote.path={path}"
    first = Gvproxy(world.folder, world.host, *flags)
    with Vm(world.host, world.folder, netdev) as vm:
        vm.get_lease()
        use_machine(world, vm)
        end(first.process)
        assert "0 packets received" in vm.run(f"ping -c 1 -W 1 {GATEWAY} || true")

        second = Gvproxy(world.folder, world.host, *flags)
        come_again(lambda: reach(path))
        use_machine(world, vm)
    finish(second)


def reach(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(path))


def use_machine(world: World, vm: Vm) -> None:
    vm.run("ip neigh flush dev eth0")
    assert "1 packets received" in vm.run(f"ping -c 1 -W 10 {GATEWAY}")
    assert f"Address: {HOST}" in vm.run("nslookup host.containers.internal")
    with world.host.listen(port=PORT) as listener, ThreadPoolExecutor(1) as pool:
        heard = pool.submit(answer, listener)
        assert "goodbye" in vm.run(f"echo hello | nc {HOST} {PORT}")
        assert heard.result() == b"hello\n"


def answer(listener: socket.socket) -> bytes:
    with listener.accept()[0] as sock:
        sock.settimeout(10)
        heard = read_all(sock)
        sock.sendall(b"goodbye")
    return heard
