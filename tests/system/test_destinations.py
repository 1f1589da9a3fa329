"""Where a guest may not go, tried from inside with curl, ping and a kernel's sockets."""

import errno
import socket
from collections.abc import Iterator

import pytest

from tests.lab import web
from tests.lab.namespace import Namespace
from tests.lab.network import HOST_OUTSIDE, OUTSIDE, World, make_guest
from tests.lab.programs import DEVICE, HOST, Gvproxy

pytestmark = [pytest.mark.root, pytest.mark.system]

BROADCAST = "10.77.0.255"
DOOR = "10.99.0.1"
"""Another way to the host's loopback."""
API, QEMU, PUBLISHED, WEB, OTHER_WEB = 7777, 7778, 8041, 8080, 8081
CONFIG = f"""\
services: tcp://0.0.0.0:{API}
api-token-file: FOLDER/token
interfaces:
  qemu: tcp://{HOST_OUTSIDE}:{QEMU}
stack:
  nat:
    {HOST}: 127.0.0.1
    {DOOR}: 127.0.0.2
  destinations:
    - allow: {OUTSIDE}
      ports: {WEB}
      protocols: tcp
      guests: {DEVICE}
    - deny: {OUTSIDE}
"""


@pytest.fixture
def gvproxy(world: World) -> Iterator[Gvproxy]:
    config = world.folder / "gvproxy.yaml"
    token = world.folder / "token"
    token.write_text("that-nobody-here-should-know")
    token.chmod(0o600)
    config.write_text(CONFIG.replace("FOLDER", str(world.folder)))
    gvproxy = Gvproxy(world.folder, world.host, "-config", str(config))
    yield gvproxy
    gvproxy.process.stop()


def curl(namespace: Namespace, address: str, port: int, path: str = "") -> str:
    """Return the status of an answer, or what curl says instead."""
    done = namespace.try_run(
        *("curl", "--silent", "--verbose", "--max-time", "10", "--output", "/dev/null"),
        *("--write-out", "%{http_code}", f"http://{address}:{port}/{path}"),
    )
    return done.stdout if done.returncode == 0 else done.stderr


def refused(gvproxy: Gvproxy) -> dict[str, int]:
    counters: dict[str, int] = gvproxy.get("/stats")["Details"]["Destinations"]
    return counters


def test_our_own_api_is_the_hosts_alone(world: World, gvproxy: Gvproxy) -> None:
    with make_guest(world, gvproxy) as (guest, _):
        doors = [HOST, DOOR, HOST_OUTSIDE]
        tries = [(door, API) for door in doors] + [(HOST_OUTSIDE, QEMU)]
        for address, port in tries:
            assert "No route to host" in curl(guest, address, port, "cam"), (address, port)
        assert refused(gvproxy)["RefusedOwnApi"] == len(tries)
        gvproxy.process.wait_for("gvproxy itself listens there")
        for address in ("127.0.0.1", "127.0.0.2", HOST_OUTSIDE):
            assert curl(world.host, address, API, "cam") == "401", "it asks for its token"
        assert curl(world.outside, HOST_OUTSIDE, API, "cam") == "401"
        # What is published is a guest's.
        gvproxy.expose(f"0.0.0.0:{PUBLISHED}", f"{DEVICE}:{PUBLISHED}")
        with guest.listen("0.0.0.0", PUBLISHED) as listener:
            for address in (HOST, HOST_OUTSIDE):
                with guest.connect(address, PUBLISHED):
                    listener.accept()[0].close()


def test_rules(world: World, gvproxy: Gvproxy) -> None:
    for port in (WEB, OTHER_WEB):
        command = web.command(world.folder, OUTSIDE, port)
        world.outside.start(f"web{port}", *command).wait_for("port")
    with make_guest(world, gvproxy) as (guest, _):
        assert curl(guest, OUTSIDE, WEB, "gvproxy.yaml") == "200"
        assert "No route to host" in curl(guest, OUTSIDE, OTHER_WEB, "gvproxy.yaml")
        assert "Packet filtered" in guest.try_run("ping", "-n", "-c", "1", OUTSIDE).stdout
        assert no_datagram(guest, OUTSIDE, 53) == errno.EHOSTUNREACH
        assert refused(gvproxy)["RefusedByRule"] == 3
        # The resolver is there, and it is gvproxy that asks it.
        assert guest.run("dig", "+short", "+tries=1", "www.outside.test")
        guest.run("ping", "-n", "-c", "1", HOST_OUTSIDE)
        gvproxy.process.wait_for("stack.destinations[1] (")


def test_what_is_closed_to_all(world: World, gvproxy: Gvproxy) -> None:
    with make_guest(world, gvproxy) as (guest, _):
        assert "No route to host" in curl(guest, "169.254.169.254", 80)
        assert no_datagram(guest, "169.254.169.254", 53) == errno.EHOSTUNREACH
        assert "Packet filtered" in guest.try_run("ping", "-n", "-c", "1", "169.254.169.254").stdout
        assert refused(gvproxy) == {"RefusedClosed": 3, "RefusedOwnApi": 0, "RefusedByRule": 0}


def test_a_broadcast_of_a_network_of_the_hosts(world: World, gvproxy: Gvproxy) -> None:
    with (
        make_guest(world, gvproxy) as (guest, _),
        world.outside.open_socket(socket.SOCK_DGRAM) as victim,
    ):
        victim.bind(("0.0.0.0", 0))
        port = victim.getsockname()[1]
        for _ in range(3):
            assert no_datagram(guest, BROADCAST, port) == errno.EHOSTUNREACH
        victim.sendto(b"first", ("127.0.0.1", port))
        assert victim.recv(16) == b"first"


def no_datagram(guest: Namespace, address: str, port: int) -> int | None:
    """Send a datagram; returns the error that the guest's kernel makes of the answer."""
    with guest.open_socket(socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sock.send(b"x")
        with pytest.raises(OSError) as caught:  # noqa: PT011
            sock.recv(1)
    return caught.value.errno
