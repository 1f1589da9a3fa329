"""The packages as people install and use them: dnf, systemctl, journalctl, over a real vsock.

The machine is its own host: gvproxy@test runs in it, and the guest's service, by a drop-in, in a
network namespace, on vsock's loopback.  Tests go on from one another, as the machine's life does.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.machine import Machine, needs_machine
from tests.lab.scratch import build_stub, query
from tests.lab.wait import NotYetError, until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(400),
    needs_machine,
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the machine has Python 3.11"),
]

_BUILD = Path(__file__).parents[2] / "packaging/rpm/build.sh"
_SYSTEM = "/etc/systemd/system"
NETNS = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip netns add guest
ExecStart=ip -netns guest link set lo up

[Install]
WantedBy=multi-user.target
"""
IN_NETNS = """\
[Unit]
Requires=guest.service
After=guest.service gvproxy@test.service

[Service]
NetworkNamespacePath=/run/netns/guest
"""
SETTINGS = "# Of the test\nurl = vsock://1:1024/connect\n"
NETWORK = """\
listen:
  - vsock://:1024
services: unix:///run/gvproxy/test/api.sock
"""
ORIGINAL = "# the original\nnameserver 192.0.2.1\n"
PAGE = "a page of the host's"
API = ("curl", "--silent", "--show-error", "--fail", "--unix-socket", "/run/gvproxy/test/api.sock")


def guest(machine: Machine, *command: str) -> str:
    return machine.run("ip", "netns", "exec", "guest", *command)


def show(machine: Machine, unit: str, name: str) -> str:
    return machine.run("systemctl", "show", "--value", "--property", name, unit).strip()


def lease(machine: Machine) -> str:
    """Return the guest's address, once its service has one."""

    def attempt() -> str:
        done = machine.try_run("ip", "netns", "exec", "guest", "vsock-tap", "-healthy")
        if done.returncode:
            raise NotYetError(done.stdout or done.stderr)
        return done.stdout.split()[1]

    return until(attempt, "the guest has an address", 60)


def is_online(machine: Machine) -> None:
    assert lease(machine) == "192.168.127.2/24"
    guest(machine, "ping", "-c", "1", "-W", "10", "192.168.127.1")
    assert guest(machine, "curl", "--silent", "http://192.168.127.254:8000/page") == PAGE
    assert "192.168.127.254" in guest(machine, "getent", "ahosts", "host.containers.internal")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the RPMs of this commit, with their libraries, and what Debian stands for."""
    folder = tmp_path_factory.mktemp("rpms")
    command = ["env", "BUNDLED=1", str(_BUILD), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (host,) = folder.rglob("gvproxy-host-*.rpm")
    needs = query(host, "--requires")
    stubs = [name for name in needs if ".so." in name or "rtld" in name]
    work = tmp_path_factory.mktemp("stub") / "stub"
    build_stub(work, stubs).rename(folder / "stub.rpm")
    return folder


@pytest.fixture(scope="module")
def installed(machine: Machine, packages: Path) -> Machine:
    machine.copy_in(packages, "/srv/rpms")
    machine.write("/etc/resolv.conf", ORIGINAL)
    machine.write("/srv/www/page", PAGE)
    machine.write(
        f"{_SYSTEM}/www.service",
        "[Service]\nWorkingDirectory=/srv/www\n"
        "ExecStart=python3 -m http.server --bind 127.0.0.1 8000\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    machine.write(f"{_SYSTEM}/guest.service", NETNS)
    machine.write(f"{_SYSTEM}/vsock-tap.service.d/test.conf", IN_NETNS)
    machine.write("/etc/gvproxy/test.yaml", NETWORK)
    dnf(machine, "install", "vsock-tap", "gvproxy-host", "/srv/rpms/stub.rpm")
    machine.write("/etc/vsock-tap.conf", SETTINGS)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", "www", "guest")
    return machine


def dnf(machine: Machine, *command: str) -> None:
    source = ("--repofrompath=own,file:///srv/rpms", "--setopt=reposdir=/nonexistent")
    machine.run("dnf", "--quiet", "--assumeyes", "--nogpgcheck", *source, *command, timeout=200)


def test_nothing_runs_before_it_is_enabled(installed: Machine) -> None:
    for unit in ("vsock-tap", "gvproxy@test"):
        assert installed.try_run("systemctl", "is-active", unit).stdout == "inactive\n"
        assert installed.try_run("systemctl", "is-enabled", unit).stdout == "disabled\n"


def test_the_units_are_what_systemd_takes_for_safe(installed: Machine) -> None:
    for unit in ("vsock-tap.service", "gvproxy@test.service"):
        said = installed.run("systemd-analyze", "security", "--no-pager", unit)
        assert float(said.rpartition(": ")[2].split()[0]) <= 2.5, said


def test_the_host_is_enabled(installed: Machine) -> None:
    installed.run("systemctl", "enable", "--now", "gvproxy@test")
    assert installed.run("systemctl", "is-active", "gvproxy@test") == "active\n"
    assert json.loads(installed.run(*API, "http://x/ports")) == []
    owner = installed.run(
        "stat", "--format=%U", f"/proc/{show(installed, 'gvproxy@test', 'MainPID')}"
    )
    assert owner.strip() != "root"


def test_the_host_has_given_up_what_it_does_not_need(installed: Machine) -> None:
    """Inside what systemd leaves it, on a kernel with all of it."""
    said = installed.wait_for("sandbox: ", unit="gvproxy@test.service")
    assert said == "sandbox: no_new_privs, capabilities, Landlock, seccomp"
    pid = show(installed, "gvproxy@test", "MainPID")
    status = installed.run("cat", f"/proc/{pid}/status")
    assert "NoNewPrivs:\t1\n" in status
    assert "CapBnd:\t0000000000000000\n" in status
    # One that it may write to as far as systemd and its user go.
    for folder, why in (
        ("/var/lib/gvproxy/test", "Permission denied; -allow-path /var/lib/private/gvproxy/test"),
        ("/run/gvproxy/test", ""),
    ):
        body = {"local": f"{folder}/web.sock", "remote": "tcp://192.168.127.2:80"}
        url = "http://x/services/forwarder/expose"
        call = (*(word for word in API if word != "--fail"), url, "--data")
        answer = installed.run(*call, json.dumps(body | {"protocol": "unix"}))
        assert (why in answer) if why else answer == ""


def test_a_key_for_root_only_is_out_of_roots_reach(installed: Machine) -> None:
    """Where gvproxy is started by root, whose files are everybody's but root's by Landlock only."""
    installed.write("/root/key", "a secret")
    command = "gvproxy -listen unix:///tmp/own.sock -ssh-port -1 >/tmp/own.log 2>&1 & echo $!"
    pid = installed.run("sh", "-c", command).strip()
    url = "http://x/services/forwarder/expose"
    call = ("curl", "--silent", "--unix-socket", "/tmp/own.sock", url, "--data")

    def ask(local: str, remote: str) -> str:
        body = {"local": local, "remote": remote, "protocol": "unix"}
        done = installed.try_run(*call, json.dumps(body))
        if done.returncode:
            raise NotYetError(f"curl ended with {done.returncode}")
        return done.stdout.strip()

    tunnel = "ssh-tunnel://root@192.168.127.2:22/run/s?key=/root/key"
    answer = until(lambda: ask("/tmp/a.sock", tunnel), "gvproxy answers", 60)
    denied = "Permission denied; -allow-path /root opens that folder to gvproxy"
    assert answer == f"key /root/key cannot be read: {denied}"
    assert ask("/root/a.sock", "tcp://192.168.127.2:80").endswith(denied)
    assert ask("/tmp/a.sock", "tcp://192.168.127.2:80") == ""
    assert int(installed.run("grep", "CapEff", f"/proc/{pid}/status").split()[1], 16) == 1 << 10
    installed.run("kill", pid)
    installed.run("rm", "/root/key")


def test_the_guest_is_enabled(installed: Machine) -> None:
    checked = installed.run("ip", "netns", "exec", "guest", "vsock-tap", "-check")
    assert "host       vsock://1:1024/connect\n" in checked
    assert "problem" not in checked
    installed.run("systemctl", "enable", "--now", "vsock-tap", timeout=90)
    # It has returned, so systemd was told that it is ready.
    status = show(installed, "vsock-tap", "StatusText")
    assert status.startswith("lease 192.168.127.2/24 from 192.168.127.1")
    is_online(installed)
    (port,) = json.loads(installed.run(*API, "http://x/ports"))
    assert port["dialect"] == "taplink/1"
    assert "tso4" in port["offloads"]
    assert port["peer"] == "cid 1"


def test_the_journal_has_fields(installed: Machine) -> None:
    said = {one["MESSAGE"]: one for one in installed.journal("vsock-tap.service")}
    (got,) = (one for text, one in said.items() if str(text).startswith("lease 192.168.127.2/24"))
    assert got["INTERFACE"] == "tap0"
    assert got["ADDRESS"] == "192.168.127.2/24"
    assert got["SYSLOG_IDENTIFIER"] == "vsock-tap"
    assert got["PRIORITY"] == "6"
    assert "gvproxy" in {
        one["SYSLOG_IDENTIFIER"] for one in installed.journal("gvproxy@test.service")
    }


def test_a_published_port_leads_into_the_guest(installed: Machine) -> None:
    body = json.dumps({"local": "127.0.0.1:8080", "remote": "192.168.127.2:9000"})
    installed.run(*API, "http://x/services/forwarder/expose", "--data", body)
    serve = "ip netns exec guest python3 -m http.server -d /srv/www 9000 >/dev/null 2>&1 & echo $!"
    pid = installed.run("sh", "-c", serve).strip()

    def attempt() -> str:
        done = installed.try_run("curl", "--silent", "http://127.0.0.1:8080/page")
        if done.returncode:
            raise NotYetError(f"curl ended with {done.returncode}")
        return done.stdout

    assert until(attempt, "the guest's page", 60) == PAGE
    installed.run("kill", pid)


def test_the_guest_outlives_its_host(installed: Machine) -> None:
    before = show(installed, "vsock-tap", "MainPID")
    installed.run("systemctl", "restart", "gvproxy@test")

    def attempt() -> None:
        if installed.run(*API, "http://x/ports").strip() == "[]":
            raise NotYetError("the guest has not come back")

    until(attempt, "the guest has come back", 60)
    is_online(installed)
    assert show(installed, "vsock-tap", "MainPID") == before
    # And what was published is there again.
    shown = json.loads(installed.run(*API, "http://x/services/forwarder/all"))
    assert "127.0.0.1:8080" in {one["local"] for one in shown}


def test_a_stop_leaves_the_machine_as_it_was(installed: Machine) -> None:
    assert installed.run("cat", "/etc/resolv.conf") != ORIGINAL
    installed.run("systemctl", "stop", "vsock-tap")
    assert installed.run("cat", "/etc/resolv.conf") == ORIGINAL
    assert "tap0" not in guest(installed, "ip", "link")
    assert show(installed, "vsock-tap", "Result") == "success"


def test_a_service_that_crashed_is_back(installed: Machine) -> None:
    installed.run("systemctl", "start", "vsock-tap", timeout=90)
    installed.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "vsock-tap")
    is_online(installed)
    assert show(installed, "vsock-tap", "NRestarts") == "1"
    installed.run("systemctl", "stop", "vsock-tap")
    assert installed.run("cat", "/etc/resolv.conf") == ORIGINAL
    installed.run("systemctl", "reset-failed", "vsock-tap")


def test_what_is_wrong_ends_in_one_line_and_does_not_spin(installed: Machine) -> None:
    installed.write("/etc/vsock-tap.conf", SETTINGS + "mtu = 12\n")
    # Each start takes seconds here: three have to stand for the unit's ten.
    faster = "[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=100ms\nExecStartPre=\n"
    installed.write(f"{_SYSTEM}/vsock-tap.service.d/faster.conf", faster)
    installed.run("systemctl", "daemon-reload")
    assert installed.try_run("systemctl", "start", "vsock-tap").returncode != 0
    wrong = "vsock-tap: /etc/vsock-tap.conf:3: -mtu: '12' is no MTU"

    def attempt() -> None:
        if show(installed, "vsock-tap", "ActiveState") != "failed":
            raise NotYetError("systemd tries again")

    until(attempt, "systemd has given it up", 200)
    said = [str(one["MESSAGE"]) for one in installed.journal("vsock-tap.service")]
    assert sum(text.startswith(wrong) for text in said) == 3
    assert show(installed, "vsock-tap", "ExecMainStatus") == "1"
    assert not any("Traceback" in text for text in said)
    installed.write("/etc/vsock-tap.conf", SETTINGS)
    installed.run("rm", f"{_SYSTEM}/vsock-tap.service.d/faster.conf")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "reset-failed", "vsock-tap")


def test_a_machine_with_another_network_is_left_alone(installed: Machine) -> None:
    guest(installed, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    installed.run("systemctl", "start", "vsock-tap")
    assert show(installed, "vsock-tap", "Result") == "success"
    assert show(installed, "vsock-tap", "ActiveState") == "inactive"
    assert "eth0 exists" in installed.wait_for("eth0 exists", unit="vsock-tap.service")
    guest(installed, "ip", "link", "del", "eth0")


def test_without_a_way_to_the_host_it_says_so_and_goes_on(installed: Machine) -> None:
    """The machine has no device of vsock's, only the loopback."""
    installed.write("/etc/vsock-tap.conf", "url = vsock://2:1024/connect\n")
    checked = installed.try_run("ip", "netns", "exec", "guest", "vsock-tap", "-check")
    assert checked.returncode == 1
    assert "problem    this machine has no vsock device" in checked.stdout
    installed.run("systemctl", "start", "--no-block", "vsock-tap")
    said = installed.wait_for("no link to vsock://2:1024/connect: ", unit="vsock-tap.service")
    assert said.endswith("; trying again")
    assert show(installed, "vsock-tap", "StatusText").startswith("no link: ")
    assert show(installed, "vsock-tap", "ActiveState") == "activating"
    installed.run("systemctl", "stop", "vsock-tap")
    installed.write("/etc/vsock-tap.conf", SETTINGS)


def test_the_next_boot_comes_up_by_itself(installed: Machine) -> None:
    installed.reboot()
    is_online(installed)
    assert show(installed, "vsock-tap", "ActiveState") == "active"
    assert installed.run("systemctl", "is-system-running") == "running\n"


def test_who_asks_resolved_goes_on_asking_it(installed: Machine) -> None:
    """With the agent in the machine's own network, whose names systemd-resolved looks after."""
    installed.run("systemctl", "stop", "vsock-tap")
    installed.run("systemctl", "start", "systemd-resolved")
    stub = "../run/systemd/resolve/stub-resolv.conf"
    installed.run("ln", "--symbolic", "--force", stub, "/etc/resolv.conf")
    installed.run("mv", f"{_SYSTEM}/vsock-tap.service.d/test.conf", "/root/")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "start", "vsock-tap", timeout=90)
    assert "192.168.127.1" in installed.run("resolvectl", "dns", "tap0")
    assert "192.168.127.254" in installed.run("getent", "ahosts", "host.containers.internal")
    assert installed.run("readlink", "/etc/resolv.conf").strip() == stub
    installed.run("systemctl", "stop", "vsock-tap")
    assert "tap0" not in installed.run("resolvectl", "dns")
    installed.run("mv", "/root/test.conf", f"{_SYSTEM}/vsock-tap.service.d/")


def test_removal_leaves_nothing_running(installed: Machine) -> None:
    dnf(installed, "remove", "vsock-tap", "gvproxy-host", "python3-taplink")
    for unit in ("vsock-tap", "gvproxy@test"):
        assert installed.try_run("systemctl", "is-active", unit).stdout == "inactive\n"
    assert installed.run("find", "/usr", "-name", "*vsock*tap*", "-not", "-path", "*/share/*") == ""
