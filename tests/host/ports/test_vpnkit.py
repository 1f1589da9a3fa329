"""vpnkit's handshake, whole, byte by byte, and with frames behind it."""

import pytest

from gvproxy.ports.vpnkit import Handshake
from taplink.framing import LinkError

UUID = "c3d68012-0208-11ea-9fd7-f2189899ab08"
MAC = bytes.fromhex("5a94efe40cee")
HELLO = (b"VMN3T" + (22).to_bytes(4, "little")).ljust(49, b"x")


def request(uuid: str = UUID, command: int = 1) -> bytes:
    return (bytes((command,)) + uuid.encode()).ljust(41, b"\0")


def answer(mac: bytes = MAC, mtu: int = 1500) -> bytes:
    told = b"\1" + mtu.to_bytes(2, "little") + (mtu + 14).to_bytes(2, "little") + mac
    return told.ljust(258, b"\0")


@pytest.mark.parametrize("step", [1, 7, 49, 90, 1000])
@pytest.mark.parametrize("rest", [b"", b"\3\0abc"])
def test_however_it_comes(step: int, rest: bytes) -> None:
    handshake = Handshake(1500, {UUID: MAC})
    told, data = b"", HELLO + request() + rest
    while not handshake.done:
        assert data, "it is not over with its last byte"
        told += handshake.feed(data[:step])
        data = data[step:]
    assert told == HELLO + answer()
    assert handshake.rest + data == rest


def test_the_hello_is_given_back_before_the_request() -> None:
    handshake = Handshake(1500, {UUID: MAC})
    assert handshake.feed(HELLO[:48]) == b""
    assert handshake.feed(HELLO[48:]) == HELLO
    assert not handshake.done
    assert handshake.feed(request()[:40]) == b""
    assert not handshake.done


@pytest.mark.parametrize("sent", [b"POST /connect HTTP/1.1\r\n", b"VMN3X", b"V\0", b"\0"])
def test_who_is_not_vpnkit_is_refused_at_once(sent: bytes) -> None:
    with pytest.raises(LinkError, match="what arrived is not vpnkit's hello"):
        Handshake(1500, {}).feed(sent)


@pytest.mark.parametrize("uuid", [UUID.upper(), UUID])
def test_uuids_in_any_case(uuid: str) -> None:
    handshake = Handshake(9000, {UUID: MAC})
    assert handshake.feed(HELLO + request(uuid))[49:] == answer(mtu=9000)


def test_a_vm_without_an_address_gets_one_and_keeps_it() -> None:
    macs = []
    for uuid in ("a" * 36, "b" * 36, "a" * 36, "\xff" * 18):
        handshake = Handshake(1500, {UUID: MAC})
        macs.append(handshake.feed(HELLO + request(uuid))[49 + 5 : 49 + 11])
    assert macs[0] == macs[2] != macs[1]
    assert all(mac[0] == 0x5A and mac != MAC for mac in macs)
