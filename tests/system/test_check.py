"""`vsock-tap -check` says what would be done, does nothing, and fails where it could not be."""

import pytest

from tests.lab.network import World, make_guest
from tests.lab.programs import VSOCK_TAP, Gvproxy

pytestmark = [pytest.mark.root, pytest.mark.system]

URL = ("-url", "unix:///run/network.sock")


def test_what_would_be_done(world: World) -> None:
    host = world.host
    settings = world.folder / "settings"
    settings.write_text("mtu = 4000\n")
    before = host.run("ip", "-json", "link")
    done = host.try_run(VSOCK_TAP, "-check", *URL, "-config", settings)
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines == {
        "settings": str(settings),
        "host": "unix:///run/network.sock",
        "interface": "tap0 would be made, MAC 5a:94:ef:e4:0c:ee, MTU 4000 at most",
        "names": lines["names"],
    }
    assert lines["names"].startswith("by ")
    assert host.run("ip", "-json", "link") == before


def test_what_is_in_the_way(world: World) -> None:
    host = world.host
    host.run("ip", "tuntap", "add", "tap7", "mode", "tap")
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")

    def problems(*flags: str, status: int = 1) -> list[str]:
        done = host.try_run(VSOCK_TAP, "-check", "-config", "", *URL, *flags)
        assert (done.returncode, done.stderr) == (status, "")
        return [line for line in done.stdout.splitlines() if line.startswith(("problem", "but"))]

    stop = "but        eth0 exists (-stop-if-exist): it would end at once"
    assert problems(status=0) == [stop]
    assert problems("-stop-if-exist", "", "-iface", "tap7") == [
        "problem    tap7 exists already (-preexisting takes a tap that does)"
    ]
    assert problems("-stop-if-exist", "", "-preexisting") == [
        "problem    tap0 does not exist (-preexisting)"
    ]
    assert problems("-stop-if-exist", "", "-preexisting", "-iface", "eth0") == [
        "problem    eth0 is no tap"
    ]
    assert problems("-stop-if-exist", "", "-preexisting", "-iface", "tap7", status=0) == []


def test_nobody_reads_it(world: World) -> None:
    command = f"{VSOCK_TAP} -check -config '' {' '.join(URL)} >/dev/full"
    done = world.host.try_run("sh", "-c", command)
    said = "vsock-tap: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_without_the_right_to(world: World) -> None:
    done = world.host.try_run(
        *("setpriv", "--bounding-set", "-net_admin", VSOCK_TAP, "-check", *URL, "-config", "")
    )
    assert done.returncode == 1
    assert "problem    CAP_NET_ADMIN is missing: interfaces cannot be set up" in done.stdout


@pytest.mark.parametrize(
    ("set_up", "before", "said"),
    [
        (
            ("mount", "--bind", "/dev/null", "/dev/net/tun"),
            (),
            "/dev/net/tun is not the kernel's",
        ),
        (
            ("mount", "-t", "tmpfs", "none", "/dev/net"),
            ("env", "PATH="),
            "the module tun cannot be loaded: there is no modprobe",
        ),
        (
            ("mount", "-t", "tmpfs", "none", "/dev/net"),
            ("setpriv", "--bounding-set", "-sys_module"),
            "the module tun cannot be loaded: CAP_SYS_MODULE is missing",
        ),
    ],
)
def test_a_device_that_is_none(
    world: World, set_up: tuple[str, ...], before: tuple[str, ...], said: str
) -> None:
    host = world.host
    for path in ("/usr/sbin", "/sbin"):
        host.run("mount", "-t", "tmpfs", "none", path)
    host.run(*set_up)
    done = host.try_run(*before, VSOCK_TAP, "-check", "-config", "", *URL)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == f"problem    {said}"


def test_a_tun_is_no_tap(world: World) -> None:
    world.host.run("ip", "tuntap", "add", "tun7", "mode", "tun")
    done = world.host.try_run(
        *(VSOCK_TAP, "-check", "-config", "", *URL, "-preexisting", "-iface", "tun7")
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "problem    tun7 is no tap"


def test_without_proc(world: World) -> None:
    world.host.run("mount", "-t", "tmpfs", "none", "/proc")
    done = world.host.try_run(VSOCK_TAP, "-check", "-config", "", *URL)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == (
        "problem    /proc/self/mountinfo: No such file or directory"
    )


def test_modules_that_cannot_be_loaded(world: World) -> None:
    host = world.host
    command = (VSOCK_TAP, "-load-modules", "-config", "", *URL, "-stop-if-exist", "")
    done = host.try_run(*command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for path in ("/usr/sbin", "/sbin", "/dev/net"):
        host.run("mount", "-t", "tmpfs", "none", path)
    done = host.try_run("env", "PATH=", *command)
    assert done.returncode == 1
    assert done.stderr.endswith("the module tun is not loaded: there is no modprobe\n")


def test_health_is_an_address(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, _):
        done = guest.try_run(VSOCK_TAP, "-healthy")
        assert (done.returncode, done.stdout) == (0, "tap0: 192.168.127.2/24\n")
        done = guest.try_run(VSOCK_TAP, "-healthy", "-iface", "lo0")
        assert (done.returncode, done.stdout, done.stderr) == (1, "lo0: no such interface\n", "")
    gvproxy.process.stop()
    world.host.run("ip", "tuntap", "add", "tap0", "mode", "tap")
    done = world.host.try_run(VSOCK_TAP, "-healthy")
    assert (done.returncode, done.stdout) == (1, "tap0: no address\n")
    world.host.run("ip", "address", "add", "192.0.2.1/24", "dev", "tap0")
    done = world.host.try_run(VSOCK_TAP, "-healthy")
    assert (done.returncode, done.stdout) == (1, "tap0: no address of the agent's\n")
    done = world.host.try_run(VSOCK_TAP, "-healthy", "-preexisting")
    assert (done.returncode, done.stdout) == (0, "tap0: 192.0.2.1/24\n")
