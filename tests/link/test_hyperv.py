"""Hyper-V's services: GUIDs for ports, URLs of both, and a listener with stand-ins for Windows.

No test has ever run on Windows.
"""

import errno
import os
import socket

import pytest

from taplink import hyperv
from taplink.endpoint import Endpoint, EndpointError, Scheme, listen, parse_listener, parse_peer

ANY_VM = "00000000-0000-0000-0000-000000000000"
OTHER = "3049197c-9a4e-4fbf-9367-97f792f16994"
AF_HYPERV, HV_PROTOCOL_RAW = 34, 1

PORTS = [
    (0, "00000000-facb-11e6-bd58-64006a7986d3"),
    (1024, "00000400-facb-11e6-bd58-64006a7986d3"),
    (0x22223333, "22223333-facb-11e6-bd58-64006a7986d3"),
    (0x7FFFFFFF, "7fffffff-facb-11e6-bd58-64006a7986d3"),
]


@pytest.mark.parametrize(("port", "guid"), PORTS)
def test_a_port_is_a_service(port: int, guid: str) -> None:
    assert hyperv.service_of(port) == guid
    assert hyperv.port_of(guid) == hyperv.port_of(guid.upper()) == port


@pytest.mark.parametrize("port", [0x80000000, 0xFFFFFFFF])
def test_a_port_no_guest_connects_to(port: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 2147483647, not {port}$"):
        hyperv.service_of(port)


@pytest.mark.parametrize(
    "guid",
    [
        OTHER,
        ANY_VM,
        "00000400-facb-11e6-bd58-64006a7986d4",
        "00000400-facc-11e6-bd58-64006a7986d3",
        "80000000-facb-11e6-bd58-64006a7986d3",
        "ffffffff-facb-11e6-bd58-64006a7986d3",  # not vsock's "any free port"
    ],
)
def test_a_service_that_is_no_port(guid: str) -> None:
    assert hyperv.port_of(guid) is None
    for written in (guid, guid.upper()):
        assert parse_listener(f"vsock://{written}") == Endpoint(Scheme.VSOCK, service=guid)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("vsock://00000400-FACB-11E6-BD58-64006A7986D3", "vsock://:1024"),
        ("VSOCK://00000400-facb-11e6-bd58-64006a7986d3/", "vsock://:1024"),
        ("vsock://00000400-facb-11e6-bd58-64006a7986d3/connect", "vsock://:1024/connect"),
        ("vsock://7fffffff-facb-11e6-bd58-64006a7986d3/x", "vsock://:2147483647/x"),
        ("vsock://00000000-facb-11e6-bd58-64006a7986d3", "vsock://:0"),
    ],
)
def test_the_guid_of_a_port_is_that_port(url: str, same: str) -> None:
    assert parse_listener(url) == parse_listener(same)
    assert str(parse_listener(url)) == url


@pytest.mark.parametrize(
    "guid",
    [
        "00000400-FACB-11E6-BD58-64006A7986D",
        "00000400-FACB-11E6-BD58-64006A7986D33",
        "0000040-0FACB-11E6-BD58-64006A7986D3",
        "00000400-FACB-11E6-BD5864006A7986D3",
        "00000400-FACB-11E6-BD58-64006A7986DG",
        "0000040\N{ARABIC-INDIC DIGIT ZERO}-FACB-11E6-BD58-64006A7986D3",
        "{00000400-FACB-11E6-BD58-64006A7986D3}",
        "-",
    ],
)
def test_what_is_no_guid(guid: str) -> None:
    said = "no GUID, which has 8-4-4-4-12 hexadecimal digits, and no port, such as vsock://:1024"
    with pytest.raises(EndpointError) as refusal:
        parse_listener(f"vsock://{guid}")
    assert str(refusal.value) == f"vsock://{guid}: {said}"


@pytest.mark.parametrize("url", [f"vsock://{OTHER}:1024", f"vsock://{OTHER}/ä"])
def test_what_does_not_go_with_a_guid(url: str) -> None:
    with pytest.raises(EndpointError, match=f"^{url}: .*$"):
        parse_listener(url)


@pytest.mark.parametrize("guid", [OTHER, hyperv.service_of(1024)])
def test_nobody_connects_to_a_service(guid: str) -> None:
    url = f"vsock://{guid}"
    with pytest.raises(EndpointError, match=f"^{url}: no CID to connect to; the host is vsock://2"):
        parse_peer(url)


class HypervSocket:
    """Stands for a socket of Windows'; opening any other fails."""

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        assert (family, kind, protocol) == (AF_HYPERV, socket.SOCK_STREAM, HV_PROTOCOL_RAW)
        self.calls: list[tuple[object, ...]] = []

    def bind(self, address: tuple[str, str]) -> None:
        self.calls.append(("bind", address))

    def listen(self, backlog: int) -> None:
        self.calls.append(("listen",))

    def setblocking(self, flag: bool) -> None:
        self.calls.append(("setblocking", flag))

    def close(self) -> None:
        self.calls.append(("close",))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `socket` what it has on Windows from Python 3.12 on, and take AF_VSOCK away."""
    monkeypatch.setattr(socket, "AF_HYPERV", AF_HYPERV, raising=False)
    monkeypatch.setattr(socket, "HV_PROTOCOL_RAW", HV_PROTOCOL_RAW, raising=False)
    monkeypatch.setattr(socket, "HV_GUID_WILDCARD", ANY_VM, raising=False)
    monkeypatch.delattr(socket, "AF_VSOCK")
    monkeypatch.setattr(socket, "socket", HypervSocket)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("vsock://:1024", "00000400-facb-11e6-bd58-64006a7986d3"),
        ("vsock://4294967295:1024", "00000400-facb-11e6-bd58-64006a7986d3"),
        ("vsock://00000400-FACB-11E6-BD58-64006A7986D3", "00000400-facb-11e6-bd58-64006a7986d3"),
        (f"vsock://{OTHER.upper()}", OTHER),
    ],
)
def test_listening_on_windows(url: str, service: str) -> None:
    sock = listen(parse_listener(url))
    assert isinstance(sock, HypervSocket)
    assert sock.calls == [("bind", (ANY_VM, service)), ("listen",), ("setblocking", False)]


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("vsock://2:1024", "Hyper-V's guests have no CIDs; take vsock://:1024"),
        ("vsock://:2147483648", "Hyper-V's guests connect to ports from 0 to .*, not 2147483648"),
    ],
)
def test_what_windows_does_not_have(url: str, why: str) -> None:
    with pytest.raises(EndpointError, match=f"^{url}: {why}$"):
        listen(parse_listener(url))


@pytest.mark.usefixtures("windows")
def test_a_service_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def bind(sock: HypervSocket, address: tuple[str, str]) -> None:
        opened.append(sock)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr(HypervSocket, "bind", bind)
    with pytest.raises(EndpointError, match=r"^vsock://:1024: Address already in use$"):
        listen(parse_listener("vsock://:1024"))
    assert opened[0].calls == [("close",)]


def test_a_service_is_refused_elsewhere() -> None:
    why = "a service of Hyper-V's needs Windows and Python 3.12 or newer; a port is such as "
    with pytest.raises(EndpointError, match=f"^vsock://{OTHER}: {why}vsock://:1024$"):
        listen(parse_listener(f"vsock://{OTHER}"))


def test_windows_before_python_3_12(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_VSOCK")
    why = r"this system has no vsock sockets \(on Windows they need Python 3.12 or newer\)"
    with pytest.raises(EndpointError, match=f"^vsock://:1024: {why}$"):
        listen(parse_listener("vsock://:1024"))
