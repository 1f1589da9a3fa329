"""The real daemon, confined: what it is asked for later works, or is refused in one clear line."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.lab import api
from tests.lab.api import ApiError
from tests.lab.landlock import needs_landlock
from tests.lab.programs import DEVICE, GVPROXY, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

EXPOSE, UNEXPOSE = "/services/forwarder/expose", "/services/forwarder/unexpose"
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which no rule is by itself, with all that the daemon has in a folder below."""
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    for name in ("own", "allowed", "other"):
        (made / name).mkdir()
    for name in ("allowed", "other"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made / name / "key"]
        subprocess.run(keygen, check=True)
    yield made
    shutil.rmtree(made)


def start(folder: Path, *flags: str, before: tuple[str, ...] = ()) -> Gvproxy:
    own, allowed = folder / "own", folder / "allowed"
    rest = ("-pid-file", str(own / "pid"), "-state-dir", str(own / "state"))
    daemon = Gvproxy(
        own,
        None,
        "-allow-path",
        str(allowed),
        *rest,
        *flags,
        env={"TMPDIR": "/tmp", "HOME": str(folder)},
        before=before,
    )
    daemon.get("/stats")  # it serves, and so is ready
    return daemon


@pytest.fixture
def gvproxy(folder: Path) -> Iterator[Gvproxy]:
    """A daemon that leaves nothing but its state and its log behind."""
    own = folder / "own"
    capture = own / "frames.pcap"
    daemon = start(folder, "-debug", "-pcap", str(capture), "-services", f"unix://{own}/api.sock")
    yield daemon
    daemon.process.stop()
    left = {path.name for path in own.iterdir()}
    assert left == {"gvproxy.log", "frames.pcap", "state"}
    assert "Traceback" not in daemon.process.log.read_text()


def expose(daemon: Gvproxy, local: str, remote: str, protocol: str) -> None:
    daemon.post(EXPOSE, {"local": local, "remote": remote, "protocol": protocol})


def tunnel(key: Path) -> str:
    return f"ssh-tunnel://core@{DEVICE}:22/run/s?key={quote(str(key))}"


def fields(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limit(daemon: Gvproxy) -> list[str]:
    text = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    return text.partition("Max core file size")[2].split()[:2]


def test_it_is_confined_before_it_is_ready(gvproxy: Gvproxy) -> None:
    lines = gvproxy.process.log.read_text().splitlines()
    said = [number for number, line in enumerate(lines) if "sandbox: no_new_privs" in line]
    ready = [number for number, line in enumerate(lines) if line.endswith(" is ready")]
    assert len(said) == len(ready) == 1
    assert said < ready
    has = fields(gvproxy.process.pid)
    assert (has["NoNewPrivs"], has["Seccomp"]) == ("1", "2")
    assert int(has["CapEff"], 16) in (0, 1 << 10)
    assert limit(gvproxy) == ["0", "0"]


def test_every_thread_is_confined(gvproxy: Gvproxy, folder: Path) -> None:
    """Also those that read keys, and write the state."""
    expose(gvproxy, str(folder / "own/host.sock"), tunnel(folder / "allowed/key"), "unix")
    until(lambda: _has_saved(folder, "host.sock"), "the state is saved")
    for thread in Path(f"/proc/{gvproxy.process.pid}/task").iterdir():
        status = (thread / "status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert int(status.partition("CapPrm:")[2].split()[0], 16) in (0, 1 << 10)
    gvproxy.post(UNEXPOSE, {"local": str(folder / "own/host.sock"), "protocol": "unix"})


def _has_saved(folder: Path, text: str) -> None:
    file = folder / "own/state/state.json"
    if not file.exists() or text not in file.read_text():
        raise NotYetError(f"{text} is not in {file}")


@pytest.mark.parametrize("name", ["own", "allowed"])
def test_sockets_are_published_where_they_may_be(gvproxy: Gvproxy, folder: Path, name: str) -> None:
    path = folder / name / "web.sock"
    for _ in range(2):
        expose(gvproxy, str(path), f"tcp://{DEVICE}:80", "unix")
        assert path.is_socket()
        gvproxy.post(UNEXPOSE, {"local": str(path), "protocol": "unix"})
        assert not path.exists()


@needs_landlock
def test_a_socket_elsewhere_is_refused_with_the_setting_that_helps(
    gvproxy: Gvproxy, folder: Path
) -> None:
    path = folder / "other/web.sock"
    with pytest.raises(ApiError) as caught:
        expose(gvproxy, str(path), f"tcp://{DEVICE}:80", "unix")
    assert str(caught.value).endswith(
        f"{path}: Permission denied; -allow-path {path.parent} opens that folder to gvproxy"
    )
    assert not path.exists()


@needs_landlock
@pytest.mark.parametrize("name", [".ssh/key", "other/key"])
def test_a_key_elsewhere_is_refused_with_the_setting_that_helps(
    gvproxy: Gvproxy, folder: Path, name: str
) -> None:
    (folder / ".ssh").mkdir()
    shutil.copy(folder / "other/key", folder / ".ssh")
    key = folder / name
    with pytest.raises(ApiError) as caught:
        expose(gvproxy, str(folder / "own/host.sock"), tunnel(key), "unix")
    assert str(caught.value) == (
        f"400: key {key} cannot be read: Permission denied; "
        f"-allow-path {key.parent} opens that folder to gvproxy"
    )


def test_another_error_is_not_the_sandboxs(gvproxy: Gvproxy, folder: Path) -> None:
    key = folder / "allowed/none"
    with pytest.raises(ApiError) as caught:
        expose(gvproxy, str(folder / "own/host.sock"), tunnel(key), "unix")
    assert str(caught.value) == f"400: key {key} cannot be read: No such file or directory"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ports_are_published(gvproxy: Gvproxy, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        local = f"127.0.0.1:{free.getsockname()[1]}"
    expose(gvproxy, local, f"{DEVICE}:80", protocol)
    assert [one["local"] for one in gvproxy.get("/services/forwarder/all")] == [local]


@needs_root
def test_ports_below_1024_are_still_for_root(gvproxy: Gvproxy) -> None:
    expose(gvproxy, "127.0.0.9:7", f"{DEVICE}:7", "tcp")


def test_what_asks_the_kernel_has_answers(gvproxy: Gvproxy) -> None:
    assert gvproxy.get("/stats")["Details"]["Totals"]["ResidentBytes"] > 1 << 20
    profile = api.call(gvproxy.path, "GET", "/debug/profile?seconds=1")
    assert "function calls" in profile


def test_a_key_of_the_configuration_may_be_anywhere(folder: Path) -> None:
    """It is read before."""
    own = folder / "own"
    flags = {
        "sock": str(own / "host.sock"),
        "dest": "/run/s",
        "user": "core",
        "identity": str(folder / "other/key"),
    }
    words = [word for name, value in flags.items() for word in (f"-forward-{name}", value)]
    daemon = start(folder, *words)
    assert (own / "host.sock").is_socket()
    daemon.process.stop()
    assert not (own / "host.sock").exists()


def test_without_the_sandbox_there_is_none_but_no_core_dumps(folder: Path) -> None:
    daemon = start(folder, "-drop-privileges=false")
    has = fields(daemon.process.pid)
    assert (has["NoNewPrivs"], has["Seccomp"]) == ("0", "0")
    assert limit(daemon) == ["0", "0"]
    expose(daemon, str(folder / "other/web.sock"), f"tcp://{DEVICE}:80", "unix")
    daemon.process.stop()
    assert "sandbox" not in daemon.process.log.read_text()


@needs_landlock
def test_a_socket_of_the_state_that_has_to_stay_is_named(folder: Path) -> None:
    """It was made before, and its folder is not among those that are open."""
    path = folder / "other/web.sock"
    earlier = start(folder, "-drop-privileges=false")
    expose(earlier, str(path), f"tcp://{DEVICE}:80", "unix")
    until(lambda: _has_saved(folder, "web.sock"), "the state is saved")
    earlier.process.stop()
    assert not path.exists()
    daemon = start(folder)
    daemon.post(UNEXPOSE, {"local": str(path), "protocol": "unix"})
    assert path.exists()
    daemon.process.stop()
    said = daemon.process.log.read_text()
    assert (
        said.count(
            f"{path} cannot be removed: Permission denied; "
            f"-allow-path {path.parent} opens that folder to gvproxy"
        )
        == 1
    )


@needs_root
def test_an_ordinary_user_is_confined_as_well(folder: Path) -> None:
    for path in (folder, folder / "own"):
        os.chown(path, NOBODY, NOBODY)
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    daemon = start(folder, before=user)
    has = fields(daemon.process.pid)
    assert has["Uid"].split()[0] == str(NOBODY)
    assert (has["NoNewPrivs"], has["Seccomp"], int(has["CapEff"], 16)) == ("1", "2", 0)
    daemon.process.stop()
    said = daemon.process.log.read_text()
    assert "no capabilities" not in said
    assert "does not need to be root" not in said
    assert not (folder / "own/pid").exists()


@needs_root
def test_root_is_told_that_it_is_not_needed(gvproxy: Gvproxy) -> None:
    said = gvproxy.process.log.read_text()
    assert said.count("gvproxy does not need to be root") == 1


def test_a_missing_folder_ends_the_start_in_one_line(tmp_path: Path) -> None:
    listen = f"unix://{tmp_path}/gvproxy.sock"
    command = [GVPROXY, "-listen", listen, "-ssh-port", "-1", "-allow-path", "/nonexistent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    said = "gvproxy: -allow-path /nonexistent: there is no such folder\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert not (tmp_path / "gvproxy.sock").exists()
