"""Which modules a machine needs, and what is said of those that cannot be loaded."""

import os
from pathlib import Path

import pytest

from taplink.endpoint import parse
from vsock_tap import modules, run

VSOCK, LOCAL, UNIX = map(parse, ("vsock://2:1024/connect", "vsock://1:1024", "unix:///x"))


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
    monkeypatch.setattr(modules, "has_capability", lambda number: True)
    return programs / "modprobe"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_what_is_missing_is_loaded(modprobe: Path, tmp_path: Path) -> None:
    script(modprobe, f'echo "$@" >{tmp_path}/said')
    assert modules.load(VSOCK) == []
    assert (tmp_path / "said").read_text() == "hv_sock\n"


def test_nothing_is_tried_without_the_right_to(
    modprobe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "has_capability", lambda number: False)
    script(modprobe, "exit 1")
    assert modules.load(VSOCK) == []


def test_what_cannot_be_loaded_is_told(modprobe: Path) -> None:
    said = "the module hv_sock is not loaded: "
    assert modules.load(VSOCK) == [f"{said}there is no modprobe"]
    script(modprobe, "echo first >&2; echo 'FATAL: no such thing' >&2; exit 1")
    assert modules.load(VSOCK) == [f"{said}FATAL: no such thing"]
    script(modprobe, "exit 3")
    assert modules.load(VSOCK) == [f"{said}status 3"]


def test_of_tun_the_tap_says_enough(modprobe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "missing", lambda endpoint: ["tun", "vsock"])
    script(modprobe, "echo no $1 >&2; exit 1")
    assert modules.load(VSOCK) == ["the module vsock is not loaded: no vsock"]


def test_a_modprobe_that_hangs(modprobe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TIMEOUT", 0.05)
    script(modprobe, "read forever <$0.fifo")
    os.mkfifo(f"{modprobe}.fifo")
    (said,) = modules.load(VSOCK)
    assert said.startswith("the module hv_sock is not loaded: ")
    assert said.endswith("modprobe hv_sock in 0 s")


def test_bytes_that_are_no_text(modprobe: Path) -> None:
    script(modprobe, "printf 'no \\377 such thing' >&2; exit 1")
    (said,) = modules.load(VSOCK)
    assert said.endswith(": no \N{REPLACEMENT CHARACTER} such thing")
