"""What keeps the agent from its work is one line and status 1, and the rest of its work goes on."""

import pytest

from tests.lab.namespace import Namespace
from tests.lab.network import World
from tests.lab.programs import VSOCK_TAP, Agent, Gvproxy

pytestmark = [pytest.mark.root, pytest.mark.system]

FLAGS = ("-url", "unix:///run/network.sock", "-stop-if-exist", "", "-config", "")


@pytest.mark.parametrize(
    ("set_up", "before", "said"),
    [
        (
            ("mount", "-t", "tmpfs", "none", "/dev/net"),
            (),
            "vsock-tap: /dev/net/tun is not there: the module tun is not loaded",
        ),
        (
            ("mount", "--bind", "/dev/null", "/dev/net/tun"),
            (),
            "vsock-tap: tap0: /dev/net/tun is not the kernel's",
        ),
        (
            ("true",),
            ("setpriv", "--bounding-set", "-net_admin"),
            "vsock-tap: tap0: not permitted; opening a tap takes CAP_NET_ADMIN or its ownership",
        ),
        (
            ("ip", "tuntap", "add", "tap0", "mode", "tap"),
            (),
            "vsock-tap: tap0: the interface exists already; -preexisting takes it as it is",
        ),
    ],
)
def test_one_line_and_status_1(
    world: World, set_up: tuple[str, ...], before: tuple[str, ...], said: str
) -> None:
    with Namespace("guest", world.folder) as guest:
        guest.run(*set_up)
        done = guest.try_run(*before, VSOCK_TAP, *FLAGS)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{said}\n")


def test_an_etc_that_cannot_be_written(world: World) -> None:
    """There is a network all the same, and the log says what there is not."""
    gvproxy = Gvproxy(world.folder, world.host)
    with Namespace("guest", world.folder) as guest:
        before = guest.run("cat", "/etc/resolv.conf")
        guest.run("umount", "/etc/resolv.conf")
        guest.run("mount", "--bind", "/etc", "/etc")
        guest.run("mount", "-o", "remount,bind,ro", "/etc")
        agent = Agent(guest, gvproxy.url)
        said = agent.process.wait_for("resolv.conf is not written")
        assert said.endswith(" ERROR /etc/resolv.conf is not written: Read-only file system")
        agent.process.wait_for("lease 192.168.127.2/24")
        guest.run("ping", "-c", "1", "192.168.127.1")
        assert guest.run("cat", "/etc/resolv.conf") != before, "the machine's own"
        agent.process.stop()
        assert "ERROR" not in agent.process.log.read_text().partition(said)[2]
    gvproxy.process.stop()
