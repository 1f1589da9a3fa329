"""DHCP options as they come from servers."""

import struct
from ipaddress import IPv4Address

import pytest
from dpkt.dhcp import DHCP

from tests.guest.server import OFFER, answer, to_client
from vsock_tap.dhcp_message import MessageType, Option, Reply, parse_reply, request

ASKED = DHCP(xid=7, chaddr=bytes.fromhex("5a94efe40cee"))


@pytest.mark.parametrize(
    ("kind", "name", "sent"),
    [
        (MessageType.DISCOVER, "web", b"web"),
        (MessageType.REQUEST, "web.lan", b"web.lan"),
        (MessageType.RELEASE, "web", None),
        (MessageType.DISCOVER, "", None),
        (MessageType.DISCOVER, "x" * 255, b"x" * 255),
        (MessageType.DISCOVER, "x" * 256, None),
        (MessageType.DISCOVER, "w\xe4b", None),
    ],
)
def test_what_the_machine_is_called(kind: MessageType, name: str, sent: bytes | None) -> None:
    frame = request(kind, xid=7, mac=ASKED.chaddr, name=name)
    assert dict(DHCP(frame[42:]).opts).get(12) == sent


def reply(options: dict[int, bytes]) -> Reply:
    parsed = parse_reply(answer(ASKED, OFFER, "192.168.127.2", options))
    assert parsed is not None
    assert parsed.xid == 7
    return parsed


@pytest.mark.parametrize(
    ("mask", "length"),
    [
        ("ffffff00", 24),
        ("ffffffff", 32),
        ("00000000", 0),
        ("fffffffe", 31),
        ("ff00ff00", None),
        ("00ffffff", None),
        ("ffffff", None),
        ("", None),
    ],
)
def test_prefix_length(mask: str, length: int | None) -> None:
    assert reply({1: bytes.fromhex(mask)}).prefix_length() == length


def test_addresses() -> None:
    one, two = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    parsed = reply({6: one.packed + two.packed + b"xyz", 3: b""})
    assert parsed.addresses(Option.DOMAIN_NAME_SERVER) == (one, two)
    assert parsed.address(Option.ROUTER) is None


def test_number() -> None:
    parsed = reply({26: struct.pack(">H", 1400), 58: b"\x01"})
    assert parsed.number(Option.INTERFACE_MTU, 2) == 1400
    assert parsed.number(Option.RENEWAL_TIME, 4) is None
    assert parsed.number(Option.REBINDING_TIME, 4) is None


@pytest.mark.parametrize(
    ("options", "domains"),
    [
        ({}, ()),
        ({15: b"example.test"}, ("example.test",)),
        ({15: b"example.test."}, ("example.test",)),
        ({15: b"example.test\0"}, ()),
        ({15: b"a b"}, ()),
        ({15: b"a\nnameserver 6.6.6.6"}, ()),
        ({15: b"\xff"}, ()),
        ({119: b"\x01a\x04test\0"}, ("a.test",)),
        ({119: b"\x01a\x04test\0\x01b\xc0\x02"}, ("a.test", "b.test")),  # RFC 3397 §2
        ({119: b"\x01a\x04test\0", 15: b"other.test"}, ("a.test",)),
        ({119: b"\x01a\x04test\0\x05b"}, ("a.test",)),
        ({119: b"\xc0\x00"}, ()),
        ({119: b"\x03a\nb\0"}, ()),
        ({119: b"\0"}, ()),
        ({119: b"\x02_x\x04test\0"}, ("_x.test",)),
    ],
)
def test_search_domains(options: dict[int, bytes], domains: tuple[str, ...]) -> None:
    assert reply(options).search_domains() == domains


def test_an_option_in_pieces_is_joined() -> None:
    message = DHCP(op=2, xid=7, opts=[(53, b"\x02"), (15, b"exam"), (15, b"ple.test")])
    parsed = parse_reply(to_client(bytes(message)))
    assert parsed is not None
    assert parsed.search_domains() == ("example.test",)


@pytest.mark.parametrize("less", [300, 200, 60, 15])
def test_what_stands_behind_a_datagram_is_not_read(less: int) -> None:
    parsed = parse_reply(_lengthened(-less))
    assert parsed is None or Option.DOMAIN_NAME not in parsed.options


def test_a_datagram_that_ends_behind_its_frame() -> None:
    assert parse_reply(_lengthened(0)) is not None
    assert parse_reply(_lengthened(1)) is None


def _lengthened(count: int) -> bytes:
    """Return an offer whose datagram is said to be longer than it is."""
    frame = bytearray(answer(ASKED, OFFER, options={Option.DOMAIN_NAME: b"example.test"}))
    length = max(0, int.from_bytes(frame[38:40], "big") + count)
    frame[38:40] = length.to_bytes(2, "big")
    return bytes(frame)
