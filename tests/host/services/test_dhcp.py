"""The DHCP server, with dpkt as the client: what is asked and what the answer says."""

import logging
import random
import struct
from ipaddress import IPv4Address

import pytest
from dnslib.label import DNSBuffer
from dpkt import dhcp

from gvproxy.complaint import INTERVAL
from gvproxy.config import DEVICE_MAC, GATEWAY_MAC, configure
from gvproxy.services.dhcp import (
    DECLINE_TIME,
    LEASE_TIME,
    OFFER_TIME,
    encode_search,
)

from .dhcpclient import (
    ACK,
    BROADCAST,
    BROADCAST_MAC,
    DECLINE,
    DISCOVER,
    FIRST,
    GATEWAY,
    INFORM,
    LEASES,
    MAX_DATAGRAM,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    Client,
    ip,
    mac,
    message,
)


@pytest.fixture
def client() -> Client:
    return Client()


def test_debug_shows_each_message(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")
    client.ask(DISCOVER)
    client.send(message(200))
    client.send(b"none")
    assert caplog.messages == [
        "DHCP DISCOVER from 02:00:00:00:00:01",
        f"DHCP OFFER for 02:00:00:00:00:01: {FIRST}",
        "DHCP 200 from 02:00:00:00:00:01",
        "a malformed DHCP message",
    ]


# The exchange


def test_a_guest_gets_an_address_and_all_it_needs() -> None:
    client = Client(configure(mtu=4000), search=("corp.example.com", "example.com"))
    for kind, expected in ((DISCOVER, OFFER), (REQUEST, ACK)):
        answer = client.send(message(kind, wanted=FIRST, server=GATEWAY))
        assert answer is not None
        assert (answer.op, answer.xid, answer.chaddr) == (2, 0x1234, mac(1))
        assert answer.yiaddr == int(IPv4Address(FIRST))
        options = dict(answer.opts)
        search = options.pop(119)
        assert options == {
            53: bytes((expected,)),
            54: ip(GATEWAY),
            51: struct.pack("!I", 3600),
            58: struct.pack("!I", 1800),
            59: struct.pack("!I", 3150),
            1: ip("255.255.255.0"),
            3: ip(GATEWAY),
            6: ip(GATEWAY),
            26: struct.pack("!H", 4000),
            28: ip("192.168.127.255"),
        }
        buffer = DNSBuffer(search)
        assert [str(buffer.decode_name()) for _ in range(2)] == [
            "corp.example.com.",
            "example.com.",
        ]
        assert client.reply is not None
        assert 300 <= len(client.reply.payload) <= MAX_DATAGRAM


def test_the_device_has_a_static_lease(client: Client) -> None:
    assert client.lease(DEVICE_MAC) == "192.168.127.2"
    assert client.lease(DEVICE_MAC, identifier=b"\xffanother system") == "192.168.127.2"
    assert client.ask(REQUEST, DEVICE_MAC, wanted="192.168.127.9") == "nak"


def test_nobody_else_gets_what_is_reserved() -> None:
    client = Client(configure(subnet="10.0.0.0/29"))
    for last in range(8):
        taken = client.ask(REQUEST, wanted=f"10.0.0.{last}")
        assert taken == (f"ack 10.0.0.{last}" if last in (3, 4, 5) else "nak"), last
    assert client.ask(REQUEST, wanted="10.0.0.9") == "nak"


def test_leases_as_the_api_shows_them(client: Client) -> None:
    device = {GATEWAY: GATEWAY_MAC.hex(":"), "192.168.127.2": DEVICE_MAC.hex(":")}
    assert client.server.leases(now=0) == device
    client.ask(DISCOVER, 7)
    assert client.server.leases(now=0) == device, "an offer is no lease"
    address = client.lease(7)
    assert client.server.leases(now=1) == device | {address: mac(7).hex(":")}
    assert client.server.leases(now=LEASE_TIME) == device


# Which address


def test_each_client_has_its_own_and_keeps_it(client: Client) -> None:
    addresses = [client.lease(number) for number in range(1, 6)]
    assert addresses == [f"192.168.127.{last}" for last in range(3, 8)]
    client.now = 10 * LEASE_TIME
    assert [client.lease(number) for number in (3, 1, 5)] == [addresses[n] for n in (2, 0, 4)]


def test_a_wish_is_granted_while_the_address_is_free(client: Client) -> None:
    assert client.ask(DISCOVER, 1, wanted="192.168.127.99") == "offer 192.168.127.99"
    assert client.ask(DISCOVER, 2, wanted="192.168.127.99") == f"offer {FIRST}"
    assert client.ask(DISCOVER, 3, wanted="192.168.127.1") == "offer 192.168.127.4"
    assert client.ask(DISCOVER, 4, wanted="8.8.8.8") == "offer 192.168.127.5"


def test_a_client_identifier_is_who_one_is(client: Client) -> None:
    first = client.lease(1, identifier=b"\xffone")
    assert client.lease(1, identifier=b"\xfftwo") != first
    assert client.lease(2, identifier=b"\xffone") == first
    assert client.lease(3) == client.lease(3, identifier=b"\x01" + mac(3))


def test_an_exhausted_pool_is_silent_and_says_so_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Client(configure(subnet="10.0.0.0/29"))
    for number in (1, 2, 3):
        client.lease(number)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert client.ask(DISCOVER, 4) is None
        assert len(caplog.records) == 1
        client.now += INTERVAL
        assert client.ask(DISCOVER, 4) is None
    assert [record.getMessage() for record in caplog.records] == [
        "no address left in 10.0.0.0/29 for 02:00:00:00:00:04"
    ] * 2
    assert client.server.counters.exhausted == 6


def test_an_address_that_its_client_has_left_is_offered_again() -> None:
    """A client that asks for one address after the other would keep all of them from others."""
    client = Client(configure(subnet="192.168.127.0/28"))
    for number in range(1, 12):
        client.lease(number)
    assert client.ask(DISCOVER, 99) is None
    for number in range(2, 12):
        client.send(
            message(RELEASE, number, server=client.gateway, ciaddr=f"192.168.127.{number + 2}")
        )
        assert client.ask(REQUEST, 1, wanted=f"192.168.127.{number + 2}") is not None
    offers = {client.ask(DISCOVER, number) for number in range(101, 111)}
    assert offers == {f"offer 192.168.127.{number}" for number in range(3, 13)}


def test_the_oldest_expired_lease_is_reused_first() -> None:
    client = Client(configure(subnet="10.0.0.0/29"))
    for number in (1, 2, 3):
        client.now = float(number)
        client.lease(number)
    client.now = 4.0
    assert client.ask(REQUEST, 1, ciaddr="10.0.0.3") == "ack 10.0.0.3"
    client.now = LEASE_TIME + 3.0  # 2 and 3 have run out, 1 has been renewed
    assert client.lease(4) == "10.0.0.4"
    assert client.lease(5) == "10.0.0.5"
    assert client.ask(DISCOVER, 6) is None


def test_an_offer_is_kept_for_a_while_only() -> None:
    client = Client(configure(subnet="10.0.0.0/29"))
    for number in (1, 2, 3):
        client.ask(DISCOVER, number)
    assert client.ask(DISCOVER, 4) is None
    client.now = OFFER_TIME
    assert client.ask(DISCOVER, 4) == "offer 10.0.0.3"
    assert client.ask(REQUEST, 1, wanted="10.0.0.3", server="10.0.0.1") == "nak"


def test_memory_is_bounded() -> None:
    client = Client(configure(subnet="10.0.0.0/8"))
    for number in range(LEASES + 10):
        client.ask(DISCOVER, number)
        client.ask(REQUEST, number + 100_000, wanted=f"10.9.{number >> 8}.{number & 255}")
    assert len(client.server._table) == LEASES
    client.now = LEASE_TIME
    assert client.ask(DISCOVER, 9) is not None
    assert len(client.server._table) == LEASES


# REQUEST (RFC 2131 §4.3.2)


def test_another_servers_request_is_ignored_and_the_offer_void() -> None:
    client = Client(configure(subnet="10.0.0.0/29"))
    for number in (1, 2, 3):
        client.ask(DISCOVER, number)
    assert client.ask(REQUEST, 2, wanted="10.0.0.4", server="10.0.0.6") is None
    assert client.server.counters.ignored == 1
    assert client.ask(DISCOVER, 4) == "offer 10.0.0.4"


def test_another_servers_request_takes_no_lease_away(client: Client) -> None:
    address = client.lease(1)
    assert client.ask(REQUEST, 1, wanted="10.1.1.1", server="10.1.1.2") is None
    assert address in client.server.leases(now=0)


@pytest.mark.parametrize("how", ["wanted", "ciaddr"])
def test_reboot_and_renewal(client: Client, how: str) -> None:
    address = client.lease(1)
    client.now = LEASE_TIME - 1
    assert client.ask(REQUEST, 1, **{how: address}) == f"ack {address}"
    assert address in client.server.leases(now=2 * LEASE_TIME - 2)
    assert client.ask(REQUEST, 2, **{how: address}) == "nak"
    assert client.ask(REQUEST, 1, **{how: "10.0.0.5"}) == "nak"


def test_a_client_from_before_a_restart_keeps_a_free_address(client: Client) -> None:
    assert client.ask(REQUEST, 1, ciaddr="192.168.127.77") == "ack 192.168.127.77"
    assert client.ask(REQUEST, 2, ciaddr="192.168.127.77") == "nak"


def test_an_address_in_use_is_its_users(client: Client) -> None:
    """Who has it from before a restart says nothing until it renews its lease."""
    client.users[int(IPv4Address(FIRST))] = mac(1)
    assert client.ask(DISCOVER, 2, wanted=FIRST) == "offer 192.168.127.4"
    assert client.ask(REQUEST, 2, wanted=FIRST) == "nak"
    assert client.ask(REQUEST, 1, ciaddr=FIRST) == f"ack {FIRST}"


def test_an_address_in_use_is_its_users_though_it_was_offered_before(client: Client) -> None:
    client.ask(DISCOVER, 1, wanted=FIRST)
    client.users[int(IPv4Address(FIRST))] = mac(3)
    client.now += OFFER_TIME
    assert client.ask(REQUEST, 2, wanted=FIRST) == "nak"
    assert client.ask(REQUEST, 3, ciaddr=FIRST) == f"ack {FIRST}"


@pytest.mark.parametrize(("user", "expected"), [(1, f"offer {FIRST}"), (2, None)])
def test_who_has_had_a_lease_keeps_nothing_by_going_on(user: int, expected: str | None) -> None:
    client = Client(configure(subnet="192.168.127.0/29"))
    assert client.lease(1) == FIRST
    client.now += LEASE_TIME
    for number in range(10, 12):
        client.lease(number)
    client.users[int(IPv4Address(FIRST))] = mac(user)
    assert client.ask(DISCOVER, 3) == expected


def test_an_address_is_leased_once_its_user_has_left() -> None:
    client = Client(configure(subnet="192.168.127.0/29"))
    for number in range(3, 7):
        client.users[int(IPv4Address(f"192.168.127.{number}"))] = mac(9)
    assert client.ask(DISCOVER) is None
    client.users.clear()
    assert client.ask(DISCOVER) == f"offer {FIRST}"


@pytest.mark.parametrize("rest", [b"\0", b"\x0c\0"], ids=["padding", "empty options"])
def test_a_message_of_any_length_is_read_at_once(client: Client, rest: bytes) -> None:
    longest = message(DISCOVER)[:-1].ljust(1472, rest[:1])
    assert client.send(longest) is not None
    assert client.send(longest + rest) is None
    assert client.server.counters.malformed == 1


def test_a_refusal_holds_nothing_but_the_refusal(client: Client) -> None:
    answer = client.send(message(REQUEST, wanted="10.0.0.5"))
    assert answer is not None
    assert answer.opts == [(53, bytes((NAK,))), (54, ip(GATEWAY))]
    assert (answer.yiaddr, answer.ciaddr) == (0, 0)


# RELEASE, DECLINE, INFORM


def test_release_frees_the_address_for_others_when_needed() -> None:
    client = Client(configure(subnet="10.0.0.0/29"))
    for number in (1, 2, 3):
        client.lease(number)
    assert client.ask(RELEASE, 1, ciaddr="10.0.0.3", server="10.0.0.9") is None
    assert client.ask(RELEASE, 3, ciaddr="10.0.0.3", server="10.0.0.1") is None
    assert client.server.counters.ignored == 2, "another server's, and another client's"
    assert "10.0.0.3" in client.server.leases(now=0)
    assert client.ask(RELEASE, 1, ciaddr="10.0.0.3", server="10.0.0.1") is None
    assert "10.0.0.3" not in client.server.leases(now=0)
    assert client.lease(1) == "10.0.0.3"


def test_a_declined_address_rests() -> None:
    client = Client(configure(subnet="10.0.0.0/29"))
    client.lease(1)
    decline = {"wanted": "10.0.0.3", "server": "10.0.0.1"}
    assert client.ask(DECLINE, 2, **decline) is None
    assert client.server.counters.declines == 0, "it was never client 2's"
    assert client.ask(DECLINE, 1, **decline) is None
    assert client.server.counters.declines == 1
    assert "10.0.0.3" not in client.server.leases(now=0)
    assert [client.lease(number) for number in (1, 2)] == ["10.0.0.4", "10.0.0.5"]
    assert client.ask(DISCOVER, 3) is None
    client.now = DECLINE_TIME
    assert client.ask(DISCOVER, 3) == "offer 10.0.0.3"


def test_inform_gives_settings_and_no_lease(client: Client) -> None:
    answer = client.send(message(INFORM, ciaddr="192.168.127.50"))
    assert answer is not None
    options = dict(answer.opts)
    assert options[53] == bytes((ACK,))
    assert options[3] == ip(GATEWAY)
    assert not options.keys() & {51, 58, 59}
    assert (answer.yiaddr, answer.ciaddr) == (0, int(IPv4Address("192.168.127.50")))
    assert client.ask(INFORM, ciaddr="8.8.8.8") is None
    assert client.ask(INFORM) is None
    assert client.server.counters.malformed == 2


# Where replies go (RFC 2131 §4.1)


@pytest.mark.parametrize(
    ("data", "destination", "to"),
    [
        (message(DISCOVER), BROADCAST, mac(1)),
        (message(DISCOVER, flags=0x8000), BROADCAST, BROADCAST_MAC),
        (message(REQUEST, wanted=FIRST), BROADCAST, mac(1)),
        (message(REQUEST, ciaddr=FIRST), ip(FIRST), mac(1)),
        (message(REQUEST, ciaddr="10.0.0.1"), BROADCAST, BROADCAST_MAC),  # refused
        (message(INFORM, ciaddr=FIRST), ip(FIRST), mac(1)),
    ],
)
def test_where_a_reply_goes(client: Client, data: bytes, destination: bytes, to: bytes) -> None:
    client.send(data)
    assert client.reply is not None
    assert (client.reply.destination, client.reply.mac) == (destination, to)


# The search list


def test_search_list_is_compressed_bounded_and_skips_what_is_no_name() -> None:
    assert encode_search([]) == b""
    assert encode_search(["a.example", "b.example"]) == b"\x01a\x07example\0\x01b\xc0\x02"
    assert encode_search(["x" * 64, "a..b", "a.example"]) == b"\x01a\x07example\0"
    many = [f"{number:03}-{'x' * 50}" for number in range(50)]
    assert 0 < len(encode_search(many)) <= 240


# Names of clients


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"name": b"web"}, "web"),
        ({"name": b"Web-1.lan"}, "web-1"),
        ({"name": b"9"}, "9"),
        ({"name": b"x" * 63}, "x" * 63),
        ({"fqdn": b"\0\0\0web.lan"}, "web"),
        ({"fqdn": b"\x04\0\0\3Web\3lan\0"}, "web"),
        ({"fqdn": b"\x05\xff\xff\3web"}, "web"),
        ({"name": b"web", "fqdn": b"\0\0\0other"}, "web"),
        ({"name": b"", "fqdn": b"\0\0\0other"}, "other"),
        ({}, ""),
        ({"name": b""}, ""),
        ({"name": b"."}, ""),
        ({"name": b"a b"}, ""),
        ({"name": b"_gateway"}, ""),
        ({"name": b"-a"}, ""),
        ({"name": b"a-"}, ""),
        ({"name": b"a\n"}, ""),
        ({"name": b"\xff\xfe"}, ""),
        ({"name": "ä".encode()}, ""),
        ({"name": b"x" * 64}, ""),
        ({"name": b"LocalHost"}, ""),
        ({"name": b"wpad"}, ""),
        ({"name": b"isatap.lan"}, ""),
        ({"fqdn": b""}, ""),
        ({"fqdn": b"\x04"}, ""),
        ({"fqdn": b"\x04\0\0"}, ""),
        ({"fqdn": b"\x04\0\0\0"}, ""),
        ({"fqdn": b"\x04\0\0\x3fweb"}, ""),
        ({"fqdn": b"\x04\0\0\4web"}, ""),
        ({"fqdn": b"\x04\0\0\xc0web"}, ""),
    ],
)
def test_what_a_client_calls_itself(client: Client, options: dict[str, bytes], name: str) -> None:
    address = IPv4Address(client.lease(**options))
    server = client.server
    assert server.name_of(address, now=0.0) == name
    assert server.address_of(name, now=0.0) == (address if name else None)


def test_a_name_is_that_of_a_lease_in_force(client: Client) -> None:
    server, first = client.server, IPv4Address(FIRST)
    assert client.ask(DISCOVER, name=b"web")
    assert server.address_of("web", now=0.0) is None
    client.lease(name=b"web")
    assert server.address_of("web", now=LEASE_TIME - 1.0) == first
    assert server.address_of("web", now=LEASE_TIME) is None
    assert server.name_of(first, now=LEASE_TIME) == ""
    client.now = 100.0
    client.send(message(REQUEST, ciaddr=FIRST, name=b"db"))
    assert server.address_of("web", now=100.0) is None
    assert server.address_of("db", now=100.0) == first
    client.send(message(RELEASE, ciaddr=FIRST, server=GATEWAY))
    assert server.address_of("db", now=100.0) is None


def test_who_has_a_name_keeps_it(client: Client) -> None:
    server = client.server
    first, second = (IPv4Address(client.lease(number, name=b"web")) for number in (1, 2))
    assert server.address_of("web", now=0.0) == first
    assert server.name_of(second, now=0.0) == ""
    client.now = 1000.0
    for number, address in ((2, second), (1, first)):
        client.send(message(REQUEST, number, ciaddr=str(address), name=b"web"))
    assert server.address_of("web", now=1000.0) == first
    client.send(message(RELEASE, 1, ciaddr=str(first), server=GATEWAY))
    assert server.address_of("web", now=1000.0) is None
    client.send(message(REQUEST, 2, ciaddr=str(second), name=b"web"))
    assert server.address_of("web", now=1000.0) == second
    assert client.lease(1, name=b"web") == str(first)
    assert server.address_of("web", now=1000.0) == second


# Malformed input


def test_every_truncation_is_survived(client: Client) -> None:
    whole = message(REQUEST, wanted=FIRST, server=GATEWAY, identifier=b"\x01" + mac(1))
    for length in range(len(whole) - 1):
        answer = client.send(whole[:length])
        # Behind the message type, what is there is a message of its own.
        assert answer is None or length > 240 + 3, length
    assert client.server.counters.malformed > 240


def test_random_bytes_are_survived(client: Client) -> None:
    rng = random.Random(4711)
    valid = message(DISCOVER, wanted=FIRST, identifier=b"\xffid", name=b"web", fqdn=b"\4\0\0\1a")
    for _ in range(3000):
        client.send(rng.randbytes(rng.randrange(600)))
        data = bytearray(valid)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        client.send(bytes(data))
    assert client.server.counters.malformed > 3000


@pytest.mark.parametrize(
    "field",
    [
        {"op": 2},
        {"magic": 0},
        {"hrd": 6},
        {"hln": 16},
        {"hln": 0},
        {"chaddr": b"\xff" * 6},
        {"opts": [(50, ip(FIRST))]},
        {"opts": [(53, b"")]},
        {"opts": [(53, b"\x01\x01")]},
        {"opts": [(53, b"\x03"), (50, b"\x0a")]},
        {"opts": [(53, b"\x03"), (54, ip(GATEWAY) * 2)]},
        {"opts": [(53, b"\x03"), (61, b"\x01")]},
        {"opts": [(53, b"\x03")]},
    ],
)
def test_malformed_messages_are_counted(client: Client, field: dict[str, object]) -> None:
    valid = {"op": 1, "chaddr": mac(1), "opts": [(53, b"\x01")]}
    assert client.send(bytes(dhcp.DHCP(**(valid | field)))) is None
    assert client.server.counters.malformed == 1


@pytest.mark.parametrize("kind", [0, OFFER, ACK, NAK, 9, 255])
def test_what_no_client_sends_is_ignored(client: Client, kind: int) -> None:
    assert client.ask(kind) is None
    assert client.server.counters.ignored == 1


def test_an_option_in_parts_is_joined(client: Client) -> None:
    """RFC 3396 §5: also where that makes it something that it must not be."""
    whole = message(REQUEST, wanted="192.168.127.9")
    part = bytes((50, 4)) + ip("192.168.127.9")
    assert whole.count(part) == 1
    halves = bytes((50, 2)) + part[2:4] + bytes((50, 2)) + part[4:]
    expected = client.send(whole)
    assert expected is not None
    assert client.server.counters.malformed == 0
    answer = client.send(whole.replace(part, halves))
    assert (client.server.counters.malformed, answer and answer.yiaddr) == (0, expected.yiaddr)
    assert client.send(whole.replace(part, part * 2)) is None
    assert client.server.counters.malformed == 1
