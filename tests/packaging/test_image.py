"""The image is small, and its container is the agent: on the machine's network, healthy, stopped.

The base is Debian's (`tests.lab.base`).  podman runs in a namespace, so that --net=host is a
machine of the lab, with a folder of ours for what it keeps.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.lab.base import BASE
from tests.lab.namespace import Namespace
from tests.lab.programs import DEVICE, GATEWAY, HOST, Gvproxy
from tests.lab.wait import NotYetError, until
from tests.packaging.conftest import Repository

_BUILD = Path(__file__).parents[2] / "containers" / "build.sh"
_IMAGE = "localhost/vsock-tap"
_BASE = "localhost/base"
_LARGEST = 250_000_000  # bytes
_RESOLVER = "192.0.2.1"
"""The machine's own, which does not answer."""
_LINK = "unix:///link/gvproxy.sock"
_RIGHTS = {
    "all": ("--privileged",),
    "one": ("--cap-drop=all", "--cap-add=NET_ADMIN", "--device=/dev/net/tun"),
}

# For machines with version 1 of cgroups, and without the right to raise limits.
_CONTAINERS_CONF = """\
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
[network]
network_config_dir = "/run/cni"
"""
_ENVIRONMENT = {
    "BUILDAH_ISOLATION": "chroot",
    "DISABLE_HC_SYSTEMD": "true",  # which would run health checks by itself
}


def _is_real_root() -> bool:
    return os.geteuid() == 0 and "4294967295" in Path("/proc/self/uid_map").read_text()


pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (_is_real_root() and shutil.which("podman") and BASE.exists()),
        reason="needs podman, root's own right to it, and a base, which make test makes of Debian",
    ),
]


@contextlib.contextmanager
def _machine(name: str, folder: Path, kept: Path) -> Iterator[Namespace]:
    """Make a machine for podman, which keeps everything in `kept`; containers end with it."""
    before = _children()
    with Namespace(name, folder, [_RESOLVER]) as machine:
        machine.run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
        machine.run("mount", "--bind", kept, "/var/lib")
        try:
            yield machine
        finally:
            machine.run("podman", "rm", "--all", "--force", "--time=0")
    # Whom podman leaves behind to look after a container, until that has ended.
    for orphan in _children() - before:
        os.waitpid(orphan, 0)


def _children() -> set[int]:
    # Those that were given to this process are its first thread's.
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.fixture(scope="module")
def kept(bundled: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What podman has: the image, built of the bundled packages."""
    folder = tmp_path_factory.mktemp("podman")
    settings, kept = folder / "containers.conf", folder / "kept"
    settings.write_text(_CONTAINERS_CONF)
    kept.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**_ENVIRONMENT, "CONTAINERS_CONF": str(settings)}.items():
            patch.setenv(name, value)
        try:
            with _machine("builder", folder, kept) as builder:
                builder.run("podman", "import", BASE, _BASE)
                builder.run("env", f"BASE={_BASE}", _BUILD, bundled.path, _IMAGE)
            yield kept
        finally:
            shutil.rmtree(kept)


@pytest.fixture
def guest(kept: Path, tmp_path: Path) -> Iterator[Namespace]:
    with _machine("guest", tmp_path, kept) as machine:
        yield machine


@pytest.fixture
def host(guest: Namespace, tmp_path: Path) -> Iterator[Namespace]:
    with Namespace("host", tmp_path) as machine:
        yield machine


def _start(guest: Namespace, *flags: str, settings: Sequence[str]) -> None:
    """Start the container, with its link in the lab's folder."""
    volumes = (
        f"{guest.folder}:/link",
        "/etc/resolv.conf:/etc/resolv.conf",
        "vsock-tap:/var/lib/vsock-tap",
    )
    guest.run(
        *("podman", "run", "-d", "--name=vsock-tap", "--net=host"),
        *(f"--volume={volume}" for volume in volumes),
        *flags,
        _IMAGE,
        *settings,
    )


def _health(guest: Namespace) -> tuple[int, str]:
    """Return the status of the image's own check, and what it says."""
    done = guest.try_run("podman", "healthcheck", "run", "vsock-tap")
    return done.returncode, done.stdout.strip()


def _logged(guest: Namespace) -> str:
    return guest.try_run("podman", "logs", "vsock-tap").stderr


def _wait_for_lease(guest: Namespace) -> None:
    def attempt() -> None:
        if "names are looked up at" not in (logged := _logged(guest)):
            raise NotYetError(logged)

    until(attempt, "the container has its lease", timeout=30)


def _devices(guest: Namespace) -> set[str]:
    lines = guest.run("ip", "-brief", "-4", "address").splitlines()
    return {" ".join(line.split()) for line in lines}


def test_without_a_builder_it_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("dirname", "realpath"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/sh", _BUILD, tmp_path, "image"], env={"PATH": str(tmp_path)}, capture_output=True
    )
    said = b"build.sh needs podman or buildah, and neither is here\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", said)


def test_it_is_small(guest: Namespace) -> None:
    size = int(guest.run("podman", "image", "inspect", "--format={{.Size}}", _IMAGE))
    assert size < _LARGEST


def test_what_was_built_before_is_not_taken_again(bundled: Repository, guest: Namespace) -> None:
    guest.run("env", f"BASE={_BASE}", _BUILD, bundled.path, "localhost/again")
    images = guest.run("podman", "image", "inspect", "--format={{.Id}}", _IMAGE, "localhost/again")
    assert len(set(images.split())) == 2


@pytest.mark.parametrize("rights", _RIGHTS)
def test_it_is_the_machines_network(guest: Namespace, host: Namespace, rights: str) -> None:
    loopback, resolv_conf = _devices(guest), guest.run("cat", "/etc/resolv.conf")
    _start(guest, *_RIGHTS[rights], settings=["-url", _LINK])
    assert _health(guest)[0] == 1

    Gvproxy(guest.folder, host)
    _wait_for_lease(guest)
    assert _devices(guest) - loopback == {f"tap0 UNKNOWN {DEVICE}/24"}
    assert _health(guest)[0] == 0
    guest.run("ping", "-c1", "-W5", GATEWAY)
    assert guest.run("dig", "+short", "host.containers.internal").split() == [HOST]

    # One that needs SIGKILL has another status.
    guest.run("podman", "stop", "--time=5", "vsock-tap")
    assert guest.run("podman", "wait", "vsock-tap").split() == ["0"]
    assert _devices(guest) == loopback
    assert guest.run("cat", "/etc/resolv.conf") == resolv_conf


def test_resolv_conf_outlives_a_container_that_crashed(guest: Namespace, host: Namespace) -> None:
    resolv_conf = guest.run("cat", "/etc/resolv.conf")
    Gvproxy(guest.folder, host)
    _start(guest, *_RIGHTS["one"], settings=["-url", _LINK])
    _wait_for_lease(guest)
    guest.run("podman", "kill", "--signal=KILL", "vsock-tap")
    guest.run("podman", "rm", "vsock-tap")
    assert guest.run("cat", "/etc/resolv.conf") != resolv_conf

    _start(guest, *_RIGHTS["one"], settings=["-url", _LINK])
    _wait_for_lease(guest)
    assert "left behind by an agent that did not end well" in _logged(guest)
    guest.run("podman", "stop", "--time=5", "vsock-tap")
    assert guest.run("cat", "/etc/resolv.conf") == resolv_conf


def test_a_settings_file_is_for_the_health_check_too(guest: Namespace, host: Namespace) -> None:
    settings = guest.folder / "vsock-tap.conf"
    settings.write_text(f"url = {_LINK}\niface = net0\n")
    Gvproxy(guest.folder, host)
    mounted = f"--volume={settings}:/etc/vsock-tap.conf"
    _start(guest, *_RIGHTS["one"], mounted, settings=[])
    _wait_for_lease(guest)
    assert "net0" in "".join(_devices(guest))
    assert _health(guest)[0] == 0


def test_a_wrong_flag_is_one_line(guest: Namespace) -> None:
    _start(guest, "--privileged", settings=["-mtu", "much"])
    assert guest.run("podman", "wait", "vsock-tap").split() == ["1"]
    assert _logged(guest) == "vsock-tap: -mtu: 'much' is no MTU: 576 to 65520\n"
