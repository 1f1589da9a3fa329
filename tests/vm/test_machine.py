"""The machine itself: what other tests in here take for granted."""

import re
from pathlib import Path

import pytest

from tests.lab import machine as machine_module
from tests.lab.machine import Machine, MachineError, needs_machine
from tests.lab.network import temporary_folder

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300), needs_machine]

ECHO = """\
import socket, threading
listener = socket.socket(socket.AF_VSOCK)
listener.bind((socket.VMADDR_CID_ANY, 1024))
listener.listen()

def serve():
    served = listener.accept()[0]
    while data := served.recv(65536):
        served.sendall(data)

threading.Thread(target=serve, daemon=True).start()
with socket.socket(socket.AF_VSOCK) as client:
    client.settimeout(30)
    client.connect((1, 1024))
    client.sendall(b"there and back")
    print(client.recv(14, socket.MSG_WAITALL).decode())
"""


def test_it_is_up(machine: Machine) -> None:
    assert machine.run("systemctl", "is-system-running") == "running\n"
    assert machine.run("systemctl", "is-active", "multi-user.target") == "active\n"


def test_a_command_says_how_it_went(machine: Machine) -> None:
    done = machine.try_run("sh", "-c", "cat; echo wrong >&2; exit 3", input="right")
    assert (done.returncode, done.stdout, done.stderr) == (3, "right", "wrong\n")
    with pytest.raises(MachineError, match="status 3: wrong"):
        machine.run("sh", "-c", "echo wrong >&2; exit 3")
    with pytest.raises(MachineError, match="No such file or directory: 'nonsense'"):
        machine.run("nonsense")


def test_a_command_does_not_wait_for_what_it_leaves_behind(machine: Machine) -> None:
    pid = machine.run("sh", "-c", "sleep 1000 & echo $!", timeout=30)
    machine.run("kill", pid.strip())


def test_a_command_that_takes_too_long_is_ended(machine: Machine) -> None:
    with pytest.raises(MachineError, match="not done in 5 s: begun"):
        machine.run("sh", "-c", "echo begun; sleep 1234; true", timeout=5)
    assert machine.try_run("pgrep", "--full", "sleep 1234").stdout == ""


def test_files_come_in(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    program = tmp_path / "inner" / "program"
    program.write_text("#!/bin/sh\necho runs\n")
    program.chmod(0o755)
    machine.copy_in(tmp_path, "/srv/new/folder")
    assert machine.run("/srv/new/folder/inner/program") == "runs\n"
    machine.copy_in(program.parent, "/lib")  # a link that leads to /usr/lib
    assert machine.run("stat", "--format=%U %a", "/usr/lib/program") == "root 755\n"
    machine.copy_in(tmp_path, "/tmp")
    assert machine.run("stat", "--format=%a", "/tmp") == "1777\n"


def test_a_unit_of_ours_is_seen_in_the_journal(machine: Machine) -> None:
    unit = "[Service]\nExecStart=/bin/sh -c 'echo hello; echo more; exec sleep 1000'\n"
    machine.write("/etc/systemd/system/ours.service", unit)
    machine.write("/etc/systemd/system/ours.service.d/why.conf", "[Unit]\nDescription=Why not\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "ours")
    assert machine.wait_for("mor", unit="ours.service") == "more"
    said = {entry["MESSAGE"]: entry for entry in machine.journal(unit="ours.service")}
    assert said["hello"]["SYSLOG_IDENTIFIER"] == "sh"
    assert "Started ours.service - Why not." in said
    machine.run("systemctl", "stop", "ours")


def test_vsock_over_its_loopback(machine: Machine) -> None:
    machine.run("modprobe", "vsock_loopback")
    assert machine.run("python3", "-", input=ECHO) == "there and back\n"


def test_the_resolver_can_be_started(machine: Machine) -> None:
    machine.run("systemctl", "start", "systemd-resolved")
    assert "127.0.0.1" in machine.run("resolvectl", "query", "localhost")
    machine.run("systemctl", "stop", "systemd-resolved")


def test_packages_can_be_installed(machine: Machine) -> None:
    assert re.match(r"\d+\.\d+", machine.run("dnf", "--version"))
    assert machine.run("rpm", "--query", "--all") == ""


def test_a_reboot_keeps_what_was_written(machine: Machine) -> None:
    boot = machine.boot
    machine.write("/root/kept", "as it was")
    machine.reboot()
    assert machine.boot != boot
    assert machine.run("cat", "/root/kept") == "as it was"
    assert machine.run("systemctl", "is-system-running") == "running\n"


def test_it_powers_off(machine: Machine) -> None:
    machine.power_off()
    assert "Power down" in machine.console()
    with pytest.raises(MachineError, match="The machine's console ends with"):
        machine.run("true")


def test_a_machine_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_BOOT_TIMEOUT", 0.5)
    with (
        temporary_folder() as folder,
        pytest.raises(MachineError, match="it boots: timed out\nThe machine's console ends"),
    ):
        Machine(folder)
