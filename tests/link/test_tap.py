"""A real tap in a network namespace: made, taken over, refused."""

import errno
import fcntl
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from taplink import tap, vnet
from taplink.tap import Tap, TapError, adopt_tap, check_name, open_tap
from taplink.vnet import Offload
from tests.lab.namespace import Namespace

TSO = Offload.CSUM | Offload.TSO4 | Offload.TSO6


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    with Namespace("machine", tmp_path_factory.mktemp("machine")) as namespace:
        yield namespace


def open_inside(machine: Namespace, name: str, *, preexisting: bool = False) -> Tap:
    with machine.entered():
        return open_tap(name, preexisting=preexisting)


@pytest.mark.root
def test_made_with_offloads_and_gone_when_closed(machine: Namespace) -> None:
    with open_inside(machine, "tap0") as opened:
        assert opened.vnet_hdr
        assert opened.offload & TSO == TSO
        assert not os.get_blocking(opened.fd)
        assert not os.get_inheritable(opened.fd)
        with pytest.raises(BlockingIOError):
            os.read(opened.fd, 1)
        assert "vnet_hdr on" in machine.run("ip", "-details", "link", "show", "tap0")
    with pytest.raises(Exception, match="does not exist"):
        machine.run("ip", "link", "show", "tap0")


@pytest.mark.root
def test_frames_have_the_header_both_ways(machine: Namespace) -> None:
    with open_inside(machine, "tap1") as opened:
        opened.set_offload(Offload.NONE)
        machine.set("net/ipv6/conf/tap1/disable_ipv6", "1")
        machine.run("ip", "address", "add", "10.0.0.1/24", "dev", "tap1")
        machine.run("ip", "link", "set", "tap1", "up")
        neighbour = ("lladdr", "02:00:00:00:00:02", "dev", "tap1")
        machine.run("ip", "neighbour", "add", "10.0.0.2", *neighbour)
        with machine.open_socket(socket.SOCK_DGRAM) as sock:
            sock.bind(("10.0.0.1", 7))
            sock.sendto(b"out", ("10.0.0.2", 9))
            assert select.select([opened.fd], [], [], 5)[0]
            read = os.read(opened.fd, 2048)
            assert read[0] & vnet.F_NEEDS_CSUM == 0
            assert read[vnet.SIZE : vnet.SIZE + 6].hex(":") == "02:00:00:00:00:02"
            assert read.endswith(b"out")
            # Its answer, ports and addresses swapped; the checksum covers them in either order.
            frame = bytearray(read[vnet.SIZE :])
            frame[0:6], frame[6:12] = frame[6:12], frame[0:6]
            frame[26:30], frame[30:34] = frame[30:34], frame[26:30]
            frame[34:36], frame[36:38] = frame[36:38], frame[34:36]
            os.write(opened.fd, vnet.PLAIN + frame)
            assert sock.recv(10) == b"out"
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                os.write(opened.fd, vnet.PLAIN)


@pytest.mark.root
def test_offloads_are_what_was_set(machine: Namespace) -> None:
    with open_inside(machine, "tap2") as opened:
        for offload in (Offload.NONE, Offload.CSUM, TSO):
            opened.set_offload(offload)
            assert opened.offload == offload
        opened.set_offload(TSO | Offload.USO4)
        assert opened.offload == TSO
        opened.set_offload(Offload.CSUM | Offload.TSO_ECN)
        assert opened.offload == Offload.CSUM
        opened.set_offload(TSO)
        with pytest.raises(TapError, match="tap2: Invalid argument"):
            opened.set_offload(Offload.TSO4)  # without CSUM
        assert opened.offload == TSO


@pytest.mark.root
@pytest.mark.parametrize("kind", [(), ("vnet_hdr",), ("multi_queue",), ("vnet_hdr", "multi_queue")])
def test_preexisting(machine: Namespace, kind: tuple[str, ...]) -> None:
    machine.run("ip", "tuntap", "add", "tap3", "mode", "tap", *kind)
    try:
        with open_inside(machine, "tap3", preexisting=True) as opened:
            assert opened.vnet_hdr
            assert opened.offload & TSO == TSO
        machine.run("ip", "link", "show", "tap3")
    finally:
        machine.run("ip", "link", "del", "tap3")


@pytest.mark.root
def test_a_further_queue_keeps_the_first_openers_choice(
    machine: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.run("ip", "tuntap", "add", "tap4", "mode", "tap", "multi_queue")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(tap, "IFF_VNET_HDR", 0)
            first = open_inside(machine, "tap4", preexisting=True)
        with first, open_inside(machine, "tap4", preexisting=True) as second:
            assert not second.vnet_hdr
            assert second.offload is Offload.NONE
            second.set_offload(Offload.NONE)
            with pytest.raises(TapError, match="no virtio-net header"):
                second.set_offload(TSO)
    finally:
        machine.run("ip", "link", "del", "tap4")


@pytest.mark.root
@pytest.mark.parametrize(
    ("lacks", "takes"),
    [
        (Offload.USO4, TSO | Offload.TSO_ECN),
        (Offload.TSO_ECN, TSO),
        (Offload.TSO6, Offload.CSUM),
        (Offload.CSUM, Offload.NONE),
    ],
)
def test_an_older_kernel_takes_less(
    machine: Namespace, monkeypatch: pytest.MonkeyPatch, lacks: Offload, takes: Offload
) -> None:
    ioctl = fcntl.ioctl

    def older(fd: int, request: int, argument: int | bytes) -> int | bytes:
        if request == tap.TUNSETOFFLOAD and isinstance(argument, int) and argument & lacks:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return ioctl(fd, request, argument)

    monkeypatch.setattr(fcntl, "ioctl", older)
    with open_inside(machine, "tap5") as opened:
        assert opened.offload == takes


@pytest.mark.root
def test_refusals_name_the_interface(machine: Namespace) -> None:
    machine.run("ip", "tuntap", "add", "tun6", "mode", "tun")
    machine.run("ip", "tuntap", "add", "tap6", "mode", "tap")
    try:
        with (
            open_inside(machine, "tap6", preexisting=True),
            pytest.raises(TapError, match="tap6: in use"),
        ):
            open_inside(machine, "tap6", preexisting=True)
        with pytest.raises(TapError, match="tap6: the interface exists"):
            open_inside(machine, "tap6")
        for name, reason in (
            ("tun6", "not a tap"),
            ("lo", "not a tap"),
            ("tap99", "no such interface"),
        ):
            with pytest.raises(TapError, match=f"{name}: .*{reason}"):
                open_inside(machine, name, preexisting=True)
    finally:
        machine.run("ip", "link", "del", "tun6")
        machine.run("ip", "link", "del", "tap6")


@pytest.mark.root
@pytest.mark.parametrize("vnet_hdr", [0, tap.IFF_VNET_HDR])
def test_packet_information_is_refused(
    machine: Namespace, monkeypatch: pytest.MonkeyPatch, vnet_hdr: int
) -> None:
    monkeypatch.setattr(tap, "IFF_NO_PI", 0)
    monkeypatch.setattr(tap, "IFF_VNET_HDR", vnet_hdr)
    with open_inside(machine, "tap7") as opened:
        monkeypatch.undo()
        with pytest.raises(TapError, match="tap7: the tap was opened without IFF_NO_PI"):
            adopt_tap(opened.fd)


@pytest.mark.root
def test_what_is_adopted_has_every_frame(machine: Namespace) -> None:
    with open_inside(machine, "tap8") as opened:
        adopted = adopt_tap(opened.fd)
        assert (adopted.name, adopted.vnet_hdr, adopted.offload) == ("tap8", True, opened.offload)
        machine.run("ip", "link", "set", "tap8", "up")
        assert select.select([opened.fd], [], [], 5)[0]


@pytest.mark.root
def test_a_deleted_tap_is_refused(machine: Namespace) -> None:
    with open_inside(machine, "tap9") as opened:
        machine.run("ip", "link", "delete", "tap9")
        with pytest.raises(TapError, match="the tap has no interface, or no longer"):
            adopt_tap(opened.fd)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "a:b", "tap%d", "x" * 16, "ä" * 8])
def test_names_the_kernel_does_not_take(name: str) -> None:
    with pytest.raises(TapError):
        check_name(name)
    with pytest.raises(TapError):
        open_tap(name)


def test_longest_name() -> None:
    check_name("x" * 15)
    check_name("ä" * 7)


def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tap, "DEVICE", str(tmp_path / "tun"))
    with pytest.raises(TapError, match="tun is not there: the module tun is not loaded"):
        open_tap("tap0")


def test_a_device_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "DEVICE", "/dev/null")
    with pytest.raises(TapError, match="tap0: "):
        open_tap("tap0")
