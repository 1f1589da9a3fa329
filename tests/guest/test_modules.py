"""Which modules a machine needs, and what is said of those that cannot be loaded."""

import os
from pathlib import Path

import pytest

from taplink.endpoint import parse
from vsock_tap import cli, modules, run
from vsock_tap.config import Config

VSOCK, LOCAL, UNIX = map(parse, ("vsock://2:1024/connect", "vsock://1:1024", "unix:///x"))
BOTH = ["tun", "vsock"]


class Machine:
    """A machine's /sys and /dev."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.have("dev/net/tun")

    def have(self, path: str, text: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("path", "text", "module"),
    [
        ("sys/bus/vmbus", "", "hv_sock"),
        ("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n", "vmw_vsock_vmci_transport"),
        ("sys/class/dmi/id/sys_vendor", "QEMU\n", "vmw_vsock_virtio_transport"),
        ("sys/nothing", "", "vmw_vsock_virtio_transport"),
    ],
)
def test_the_transport_is_the_machines(machine: Machine, path: str, text: str, module: str) -> None:
    machine.have(path, text)
    assert modules.transport(2, machine.root)[1] == module
    assert modules.transport(1, machine.root)[1] == "vsock_loopback"
    assert modules.missing(VSOCK, machine.root) == ["vsock", module]


def test_what_is_there_is_not_missing(machine: Machine) -> None:
    machine.have("sys/module/vsock/x")
    assert modules.missing(LOCAL, machine.root) == ["vsock_loopback"]
    machine.have("sys/module/vsock_loopback/x")
    assert modules.missing(LOCAL, machine.root) == []


def test_a_machine_without_a_device_for_vsock(machine: Machine) -> None:
    assert modules.lacks_device(VSOCK, machine.root)
    machine.have("sys/bus/virtio/devices/virtio0/device", "0x0001\n")
    assert modules.lacks_device(VSOCK, machine.root)
    assert not modules.lacks_device(LOCAL, machine.root)
    assert not modules.lacks_device(UNIX, machine.root)
    machine.have("sys/bus/virtio/devices/virtio1/device", "0x0013\n")
    assert not modules.lacks_device(VSOCK, machine.root)


def test_of_another_hypervisor_s_nothing_is_known(machine: Machine) -> None:
    machine.have("sys/bus/vmbus")
    assert not modules.lacks_device(VSOCK, machine.root)


def test_other_links_need_a_tap_only(machine: Machine) -> None:
    assert modules.missing(UNIX, machine.root) == []
    (machine.root / "dev/net/tun").unlink()
    assert modules.missing(UNIX, machine.root) == ["tun"]


@pytest.fixture
def modprobe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, of which modprobe is one; it is not written yet."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(modules, "_PROGRAMS", "")
    monkeypatch.setattr(modules, "missing", lambda endpoint: ["hv_sock"])
    return programs / "modprobe"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_what_is_missing_is_loaded(modprobe: Path, tmp_path: Path) -> None:
    script(modprobe, f'echo "$@" >{tmp_path}/said')
    assert modules.load(VSOCK) == {}
    assert (tmp_path / "said").read_text() == "hv_sock\n"


def test_what_cannot_be_loaded_is_told(modprobe: Path) -> None:
    assert modules.load(VSOCK) == {"hv_sock": "there is no modprobe"}
    script(modprobe, "echo first >&2; echo 'FATAL: no such thing' >&2; exit 1")
    assert modules.load(VSOCK) == {"hv_sock": "FATAL: no such thing"}
    script(modprobe, "exit 3")
    assert modules.load(VSOCK) == {"hv_sock": "status 3"}


@pytest.mark.parametrize(
    ("capable", "alone", "said", "all_there"),
    [
        (True, False, ["the module vsock is not loaded: no vsock"], False),
        (False, False, [], True),
        (False, True, [f"the module {name} is not loaded: no {name}" for name in BOTH], False),
    ],
    ids=["agent", "service", "load-modules"],
)
def test_what_is_told(
    modprobe: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capable: bool,
    alone: bool,
    said: list[str],
    all_there: bool,
) -> None:
    """Of tun the tap says enough, where there is one; the service may not load anything."""
    monkeypatch.setattr(cli, "has_capability", lambda number: capable)
    monkeypatch.setattr(modules, "missing", lambda endpoint: BOTH)
    script(modprobe, "echo no $1 >&2; exit 1")
    assert cli._load_modules(Config(VSOCK, load_modules=alone)) is all_there
    assert caplog.messages == said


def test_whether_one_could_be_loaded(
    modprobe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "has_capability", lambda number: False)
    assert modules.obstacle("tun") == "CAP_SYS_MODULE is missing"
    monkeypatch.setattr(modules, "has_capability", lambda number: True)
    assert modules.obstacle("tun") == "there is no modprobe"
    script(modprobe, f'echo "$@" >{tmp_path}/said')
    assert modules.obstacle("tun") == ""
    assert (tmp_path / "said").read_text() == "-D tun\n", "it is not loaded"
    script(modprobe, "echo 'FATAL: no such thing' >&2; exit 1")
    assert modules.obstacle("tun") == "FATAL: no such thing"


def test_a_modprobe_that_hangs(modprobe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TIMEOUT", 0.05)
    script(modprobe, "read forever <$0.fifo")
    os.mkfifo(f"{modprobe}.fifo")
    said = modules.load(VSOCK)["hv_sock"]
    assert said.startswith("no end of ")
    assert said.endswith("modprobe hv_sock in 0 s")


def test_bytes_that_are_no_text(modprobe: Path) -> None:
    script(modprobe, "printf 'no \\377 such thing' >&2; exit 1")
    assert modules.load(VSOCK)["hv_sock"] == "no \N{REPLACEMENT CHARACTER} such thing"
