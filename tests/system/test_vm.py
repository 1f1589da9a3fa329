"""A real virtual machine on the network, without an agent: QEMU hands its frames over itself."""

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.network import World
from tests.lab.programs import DEVICE, GATEWAY, HOST, Gvproxy
from tests.lab.sockets import read_all
from tests.lab.vm import Vm, needs_vm
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system, needs_vm]

SIZE = 20_000_000
PORT = 8091


@contextmanager
def machine(world: World, listener: str, netdev: str) -> Iterator[tuple[Gvproxy, Vm]]:
    gvproxy = Gvproxy(world.folder, world.host, "-listen-qemu", listener)
    try:
        gvproxy.process.wait_for("is ready")  # QEMU does not try twice
        with Vm(world.host, world.folder, netdev) as vm:
            yield gvproxy, vm
    finally:
        gvproxy.process.stop()
    assert "Traceback" not in gvproxy.process.log.read_text()


@pytest.mark.parametrize("netdev", ["stream", "socket"])
def test_a_machine_lives_on_the_network(world: World, netdev: str) -> None:
    path, address = world.folder / "qemu.sock", "127.0.0.1:8090"
    where = {
        "stream": (f"unix://{path}", f"stream,server=off,addr.type=unix,addr.path={path}"),
        "socket": (f"tcp://{address}", f"socket,connect={address}"),
    }
    with machine(world, *where[netdev]) as (gvproxy, vm):
        vm.get_lease()
        assert gvproxy.get("/leases")[DEVICE] == "5a:94:ef:e4:0c:ee"
        assert "2 packets received" in vm.run(f"ping -c 2 -i 0.2 {GATEWAY}")
        assert f"Address: {HOST}" in vm.run("nslookup host.containers.internal")
        upload(world, vm)
        download(world, vm)
        use_published_port(gvproxy, world, vm)


def upload(world: World, vm: Vm) -> None:
    digest = vm.run(f"head -c {SIZE} /dev/urandom >/tmp/file; sha256sum /tmp/file").split()[0]
    with world.host.listen(port=PORT) as listener:
        vm.run(f"(nc {HOST} {PORT} </tmp/file >/dev/null &)")
        with listener.accept()[0] as sock:
            sock.settimeout(60)
            data = read_all(sock)
    assert len(data) == SIZE
    assert hashlib.sha256(data).hexdigest() == digest


def download(world: World, vm: Vm) -> None:
    data = hashlib.shake_256(b"download").digest(SIZE)
    with world.host.listen(port=PORT) as listener:
        vm.run(f"(nc {HOST} {PORT} </dev/null >/tmp/file &)")
        with listener.accept()[0] as sock:
            sock.settimeout(60)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b""

    def ended() -> None:
        if vm.run("pidof nc || true").strip():
            raise NotYetError("nc runs")

    until(ended, "all is in the file")
    assert vm.run("sha256sum /tmp/file").split()[0] == hashlib.sha256(data).hexdigest()


def use_published_port(gvproxy: Gvproxy, world: World, vm: Vm) -> None:
    vm.run("echo a page >/tmp/page; httpd -p 80 -h /tmp")
    gvproxy.expose(f"127.0.0.1:{PORT}", f"{DEVICE}:80")
    page = world.host.run("curl", "--silent", "--fail", f"http://127.0.0.1:{PORT}/page")
    assert page == "a page\n"
