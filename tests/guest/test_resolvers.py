"""Who is told of name servers, and what systemd-resolved and resolvconf are told."""

import os
import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from vsock_tap import run
from vsock_tap.resolvconf import ResolvConf
from vsock_tap.resolvers import Resolvconf, Resolved, Resolver, choose

ONE, TWO = IPv4Address("192.168.127.1"), IPv4Address("10.0.0.1")
STUB = "run/systemd/resolve/stub-resolv.conf"
LISTENS = " 12: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000\n"


class Machine:
    """A machine's files, and the programs it has, which note how they were called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "bin"
        self.programs.mkdir()
        self.path = root / "etc/resolv.conf"
        self.write("etc/resolv.conf", "nameserver 1.1.1.1\n")
        self.write("proc/net/udp", LISTENS)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def program(self, name: str, end: str = "exit 0") -> None:
        path = self.programs / name
        path.write_text(f'#!/bin/sh\n{{ echo "$@"; /bin/cat; }} >>{self.root}/calls\n{end}\n')
        path.chmod(0o755)

    def link(self, target: str) -> None:
        self.write(target, "nameserver 127.0.0.53\n")
        self.path.unlink()
        self.path.symlink_to(self.root / target)

    def resolver(self) -> Resolver:
        return choose(self.path, "tap0", self.root / "state", self.root)

    @property
    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.programs))
    return machine


@pytest.mark.parametrize("target", [STUB, "usr/lib/systemd/resolv.conf"])
def test_resolved_is_told_where_programs_ask_it(
    machine: Machine, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.program("resolvectl")
    machine.link(target)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "tap0")])
    resolver = machine.resolver()
    assert isinstance(resolver, Resolved)
    assert resolver.claim()
    resolver.write([ONE, TWO], ["a.test", "b.test"])
    resolver.write([ONE], [])
    assert resolver.restore()
    assert not resolver.restore()
    resolver.release()
    assert machine.calls == [
        "dns tap0 192.168.127.1 10.0.0.1",
        "domain tap0 a.test b.test",
        "dns tap0 192.168.127.1",
        "domain tap0 ",
        "revert tap0",
    ]
    assert machine.path.read_text() == "nameserver 127.0.0.53\n"


def test_resolved_forgets_by_itself_about_an_interface_that_is_gone(machine: Machine) -> None:
    machine.program("resolvectl")
    machine.link(STUB)
    resolver = machine.resolver()
    resolver.write([ONE], [])
    assert resolver.restore()
    assert machine.calls == ["dns tap0 192.168.127.1", "domain tap0 "]


def test_the_file_is_written_where_resolved_is_not_asked(machine: Machine) -> None:
    machine.program("resolvectl")
    assert isinstance(machine.resolver(), ResolvConf)
    machine.link("run/systemd/resolve/resolv.conf")
    assert isinstance(machine.resolver(), ResolvConf)


def test_resolved_of_another_network_is_not_told(machine: Machine) -> None:
    machine.program("resolvectl")
    machine.link(STUB)
    machine.write("proc/net/udp", "")
    assert isinstance(machine.resolver(), ResolvConf)
    (machine.root / "proc/net/udp").unlink()
    assert isinstance(machine.resolver(), ResolvConf)


def test_resolved_without_its_program(machine: Machine) -> None:
    machine.link(STUB)
    assert isinstance(machine.resolver(), ResolvConf)


def test_resolvconf_is_told_where_it_is_installed(machine: Machine) -> None:
    machine.program("resolvconf")
    resolver = machine.resolver()
    assert isinstance(resolver, Resolvconf)
    assert resolver.claim()
    assert not resolver.restore()
    resolver.write([ONE, TWO], ["a.test"])
    assert resolver.restore()
    assert machine.calls == [
        "-d tap0.vsock-tap -f",
        "-a tap0.vsock-tap -m 0 -x",
        "nameserver 192.168.127.1",
        "nameserver 10.0.0.1",
        "search a.test",
        "-d tap0.vsock-tap -f",
    ]


def test_resolveds_own_resolvconf_is_not_taken_for_one(machine: Machine) -> None:
    machine.program("resolvectl")
    (machine.programs / "resolvconf").symlink_to("resolvectl")
    assert isinstance(machine.resolver(), ResolvConf)


def test_a_program_that_fails(machine: Machine) -> None:
    machine.program("resolvconf", "echo nonsense >&2; echo 'no such interface' >&2; exit 1")
    resolver = machine.resolver()
    with pytest.raises(OSError, match=r"^no such interface$"):
        resolver.write([ONE], [])
    machine.program("resolvconf", "exit 7")
    with pytest.raises(OSError, match=r"^status 7$"):
        resolver.write([ONE], [])


def test_a_program_that_hangs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(machine.root / "fifo")
    machine.program("resolvconf", f"read forever <{machine.root}/fifo")
    monkeypatch.setattr(run, "TIMEOUT", 0.1)
    with pytest.raises(OSError, match="no end of "):
        machine.resolver().write([ONE], [])


def test_bytes_that_are_no_text(machine: Machine) -> None:
    machine.program("resolvconf", "printf 'no \\377 such thing' >&2; exit 1")
    with pytest.raises(OSError, match="no \N{REPLACEMENT CHARACTER} such thing"):
        machine.resolver().write([ONE], [])


def test_a_program_that_leaves_a_child(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end counts, not that of the child, which has its descriptors."""
    fifo = machine.root / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr(run, "TIMEOUT", 5.0)
    machine.program("resolvconf", f"/bin/cat {fifo} &")
    machine.resolver().write([ONE], [])
    fifo.write_text("")  # waits for the child to be there, and lets it end
    os.wait()
