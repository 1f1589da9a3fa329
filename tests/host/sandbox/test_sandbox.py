"""What a process that confines itself can do, and cannot; `attacker` is that process."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.landlock import needs_landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

_ATTACKER = Path(__file__).with_name("attacker.py")


@dataclass(frozen=True)
class Outcome:
    results: dict[str, str]
    status: dict[str, str]
    said: str


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that no rule has."""
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    (made / "open").mkdir()
    for path in (made / "secret", made / "open/key"):
        path.write_text("secret")
    yield made
    shutil.rmtree(made)


def attack(folder: Path, *attempts: str, without: str = "") -> Outcome:
    done = subprocess.run(
        [sys.executable, _ATTACKER, folder / "secret", folder / "open", *attempts],
        env={**os.environ, "TMPDIR": "/tmp", "WITHOUT": without},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    said = [line for line in done.stderr.splitlines() if " sandbox: " in line]
    assert len(said) == 1
    return Outcome(tree["results"], tree["status"], said[0])


@pytest.fixture(scope="module")
def confined(folder: Path) -> Outcome:
    return attack(folder)


@pytest.mark.parametrize(
    "name",
    [
        "read of the system",
        "read of its memory's size",
        "module",
        "module, compiled",
        "name",
        "name in thread",
        "tcp",
        "udp",
        "netlink",
        "socket, allowed",
        "read, allowed",
        "socket in /tmp",
        "null",
    ],
)
def test_what_a_daemon_needs_goes_on(confined: Outcome, name: str) -> None:
    assert confined.results[name] == "done"


@needs_landlock
@pytest.mark.parametrize(
    "name",
    [
        "read",
        "read in thread",
        "read of another's memory",
        "write",
        "write, allowed",
        "write to system",
        "unlink",
        "socket",
    ],
)
def test_files_that_no_rule_has_are_out_of_reach(confined: Outcome, name: str) -> None:
    assert confined.results[name] == "EACCES"


@pytest.mark.parametrize(
    "name",
    [
        "truncate",
        "link",
        "symlink",
        "mode",
        "owner",
        "execve",
        "fork",
        "spawn",
        "setuid",
        "ptrace",
        "other's memory",
        "mount",
        "user namespace",
        "personality",
        "keyctl",
        "bpf",
        "chroot",
        "signal",
        "limits of another",
        "packet socket",
        "kernel's crypto",
        "dumpable",
    ],
)
def test_system_calls_that_are_not_needed_fail(confined: Outcome, name: str) -> None:
    assert confined.results[name] == "EPERM"


def test_rings_that_go_around_the_filter_are_not_there(confined: Outcome) -> None:
    assert confined.results["io_uring"] == "ENOSYS"


def test_there_are_no_rights_left(confined: Outcome) -> None:
    assert confined.results["raw socket"] == "EPERM"
    port_below_1024 = 1 << 10
    for name in ("CapPrm", "CapEff", "CapBnd"):
        kept = int(confined.status[name], 16)
        if name != "CapBnd" or os.geteuid() == 0:  # it takes a right to drop from the bounding set
            assert kept & ~port_below_1024 == 0, name
    assert int(confined.status["CapInh"], 16) == int(confined.status["CapAmb"], 16) == 0
    assert confined.status["NoNewPrivs"] == "1"
    assert confined.status["Seccomp"] == "2"
    assert confined.results["core"] == "(0, 0)"


@needs_landlock
def test_all_that_is_in_force_is_said_in_one_line(confined: Outcome, folder: Path) -> None:
    assert confined.said == "INFO sandbox: no_new_privs, capabilities, Landlock, seccomp"
    assert confined.results["why"] == f"; -allow-path {folder} opens that folder to gvproxy"


@needs_landlock
@pytest.mark.parametrize(
    ("without", "said", "possible"),
    [
        (
            "landlockpy",
            "no_new_privs, capabilities, seccomp; no Landlock (without landlockpy)",
            "read",
        ),
        (
            "seccomp pyseccomp",
            "no_new_privs, capabilities, Landlock; no seccomp (without libseccomp)",
            "limits of another",
        ),
        (
            "pyprctl",
            "no_new_privs, Landlock, seccomp; no capabilities (without pyprctl)",
            "tcp",
        ),
        (
            "pyprctl landlockpy seccomp pyseccomp",
            "none; no capabilities (without pyprctl), "
            "no Landlock (without landlockpy), no seccomp (without libseccomp)",
            "read",
        ),
    ],
    ids=["landlock", "seccomp", "pyprctl", "all"],
)
def test_what_is_missing_is_said_and_the_rest_is_there(
    folder: Path, without: str, said: str, possible: str
) -> None:
    outcome = attack(folder, possible, without=without)
    level = "WARNING" if said.startswith("none") else "INFO"
    assert outcome.said == f"{level} sandbox: {said}"
    assert outcome.results[possible] == "done"
    assert outcome.status["NoNewPrivs"] == ("1" if "no_new_privs" in said else "0")
    assert outcome.status["Seccomp"] == ("0" if "pyseccomp" in without else "2")
