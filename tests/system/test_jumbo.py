"""An MTU of 65520, by DHCP and by flag, with offloads and without."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.lab.cabled import Setting, lay
from tests.lab.impairment import Impairment
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest
from tests.lab.programs import GATEWAY, HOST, Gvproxy
from tests.lab.transfer import exchange

pytestmark = [pytest.mark.root, pytest.mark.system]

MTU = 65520
SIZE = 20_000_000


@contextlib.contextmanager
def daemon(world: World) -> Iterator[Gvproxy]:
    gvproxy = Gvproxy(world.folder, world.host, "-mtu", str(MTU))
    try:
        yield gvproxy
    finally:
        gvproxy.process.stop()
    assert "Traceback" not in gvproxy.process.log.read_text()


def mtu_of(guest: Namespace) -> int:
    words = guest.run("ip", "-oneline", "link", "show", "dev", "tap0").split()
    return int(words[words.index("mtu") + 1])


def live(world: World, guest: Namespace, mtu: int) -> None:
    """Pass packets of `mtu` bytes that may not be cut, and bulk data, each way."""
    size = mtu - 28
    pinged = guest.run("ping", "-c", "1", "-W", "5", "-M", "do", "-s", str(size), GATEWAY)
    assert f"{size + 8} bytes from {GATEWAY}" in pinged
    with (
        world.host.open_socket(socket.SOCK_DGRAM) as host,
        guest.open_socket(socket.SOCK_DGRAM) as there,
    ):
        host.bind(("127.0.0.1", 0))
        there.sendto(b"x" * size, (HOST, host.getsockname()[1]))
        data, sender = host.recvfrom(65535)
        assert data == b"x" * size
        host.sendto(data, sender)
        assert there.recv(65535) == data
    with (
        world.host.listen() as listener,
        guest.connect(HOST, listener.getsockname()[1]) as there,
        listener.accept()[0] as here,
    ):
        exchange(there, here, SIZE, 60)


@pytest.mark.parametrize(("flags", "mtu"), [((), MTU), (("-mtu", "9000"), 9000)])
def test_a_guest_with_the_agent(world: World, flags: tuple[str, ...], mtu: int) -> None:
    with daemon(world) as gvproxy, make_guest(world, gvproxy, "guest", *flags) as (guest, _):
        assert mtu_of(guest) == mtu
        live(world, guest, mtu)


def test_a_guest_without_offloads(world: World) -> None:
    """Its frames are as long as the length before them can say: 65534 bytes of 65535."""
    with daemon(world) as gvproxy, Namespace("guest", world.folder) as guest:
        setting = Setting(Impairment(), offload=False)
        process = lay(world.folder, setting, guest, gvproxy.url, mtu=MTU)
        try:
            assert mtu_of(guest) == MTU
            live(world, guest, MTU)
        finally:
            process.stop(status=None)
