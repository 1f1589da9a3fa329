"""What of a server's reply is a lease, and what is none."""

import struct
from ipaddress import IPv4Address

import pytest

from tests.guest.server import OPTIONS, SERVER_MAC
from vsock_tap.dhcp_message import MessageType, Reply
from vsock_tap.lease import LeaseError, read_lease

ADDRESS, ROUTER = "192.168.127.2", "192.168.127.1"


def offer(address: str = ADDRESS, options: dict[int, bytes] | None = None) -> Reply:
    chosen = OPTIONS | (options or {})
    return Reply(MessageType.OFFER, 1, IPv4Address(address), SERVER_MAC, chosen)


def mask(length: int) -> bytes:
    return struct.pack(">I", (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF)


def routers(*addresses: str) -> bytes:
    return b"".join(IPv4Address(address).packed for address in addresses)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({1: b""}, "no subnet mask"),
        ({1: bytes.fromhex("ff00ff00")}, "no subnet mask, or one with gaps"),
        ({1: bytes.fromhex("ffffff")}, "no subnet mask"),
        ({1: mask(0)}, "a subnet is a /1 to /30, not a /0"),
        ({1: mask(31)}, "not a /31"),
        ({1: mask(32)}, "not a /32"),
        ({51: b""}, "no lease time"),
        ({54: b""}, "no server identifier"),
        ({54: b"abc"}, "no server identifier"),
    ],
)
def test_what_is_missing(options: dict[int, bytes], reason: str) -> None:
    with pytest.raises(LeaseError, match=reason):
        read_lease(offer(options=options))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.0.0.5", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("192.168.127.0", "192.168.127.255"),
    ],
)
def test_an_address_no_host_can_have(address: str) -> None:
    with pytest.raises(LeaseError, match="no address of a host in"):
        read_lease(offer(address))


@pytest.mark.parametrize("length", [1, 8, 24, 30])
def test_subnets(length: int) -> None:
    lease = read_lease(offer(options={1: mask(length)}))
    assert (lease.prefix_length, lease.router) == (length, IPv4Address(ROUTER))


@pytest.mark.parametrize(
    "router",
    [
        *("0.0.0.0", "10.0.0.1", ADDRESS, "192.168.127.0", "192.168.127.255"),
        *("192.168.126.255", "255.255.255.255"),
    ],
)
def test_a_router_that_cannot_be_one_is_left_out(router: str) -> None:
    assert read_lease(offer(options={3: routers(router)})).router is None
    lease = read_lease(offer(options={3: routers(router, "192.168.127.9", ROUTER)}))
    assert lease.router == IPv4Address("192.168.127.9")


def test_no_router() -> None:
    assert read_lease(offer(options={3: b""})).router is None
