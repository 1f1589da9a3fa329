"""ARP: for whom the gateway answers, whom it learns, whom it asks for."""

import dpkt
import pytest

from gvproxy.limits import Limit, Limits
from gvproxy.stack import neighbours
from gvproxy.stack.port import Station
from gvproxy.wire import ethernet

from .bench import (
    ALL,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    MAC,
    OTHER,
    OTHER_MAC,
    OUTSIDE,
    VIRTUAL,
    Bench,
    arp,
    echo,
    udp,
)

REPLY = dpkt.arp.ARP_OP_REPLY


@pytest.mark.parametrize("target", [GATEWAY, VIRTUAL])
@pytest.mark.parametrize("to", [ethernet.BROADCAST, GATEWAY_MAC])
def test_the_gateways_addresses_are_answered(target: bytes, to: bytes) -> None:
    (reply,) = Bench().give(arp(target, to=to))
    assert (reply.dst, reply.src) == (MAC, GATEWAY_MAC)
    body = reply.data
    assert (body.op, body.sha, body.spa, body.tha, body.tpa) == (
        REPLY,
        GATEWAY_MAC,
        target,
        MAC,
        GUEST,
    )


def test_a_port_with_offloads_is_answered_by_a_plain_frame() -> None:
    (reply,) = Bench(ALL).give(arp(GATEWAY))
    assert reply.data.op == REPLY


@pytest.mark.parametrize("target", [GUEST, OTHER, OUTSIDE, bytes(4), b"\xff" * 4])
def test_other_addresses_are_not(target: bytes) -> None:
    """A guest's own among them: its duplicate address detection must find nobody."""
    bench = Bench()
    assert bench.give(arp(target)) == []
    assert bench.give(arp(target, sender=bytes(4))) == []
    assert bench.counters.arp_requests == 2


def test_replies_are_not_answered() -> None:
    bench = Bench()
    assert bench.give(arp(GATEWAY, operation=REPLY)) == []
    assert (bench.counters.arp_replies, bench.counters.arp_requests) == (1, 0)


def test_whoever_asks_or_speaks_is_learned() -> None:
    bench = Bench()
    bench.give(arp(GATEWAY))
    bench.give(udp(source=OTHER, mac=OTHER_MAC))
    table = bench.stack.neighbours
    assert [table.get(address).mac for address in (GUEST, OTHER)] == [MAC, OTHER_MAC]


def test_an_address_is_used_as_long_as_its_guest_is_there() -> None:
    bench = Bench()
    user = bench.stack.neighbours.user
    assert user(GUEST) is None
    bench.give(arp(GATEWAY))
    assert user(GUEST) == MAC
    bench.stack.detach(bench.port, bench.now)
    assert user(GUEST) is None


def test_an_address_follows_its_latest_user() -> None:
    bench = Bench()
    bench.give(arp(GATEWAY))
    bench.give(arp(GUEST, mac=OTHER_MAC))
    assert bench.stack.neighbours.get(GUEST).mac == OTHER_MAC
    assert len(bench.stack.neighbours) == 1


@pytest.mark.parametrize(
    "sender",
    [
        GATEWAY,
        VIRTUAL,
        OUTSIDE,
        bytes(4),
        b"\xff" * 4,
        GATEWAY[:3] + b"\xff",
        GATEWAY[:3] + b"\0",
    ],
)
def test_what_is_no_guests_address_is_not_learned(sender: bytes) -> None:
    bench = Bench()
    bench.give(arp(OUTSIDE, sender=sender), udp(source=sender))
    assert len(bench.stack.neighbours) == 0
    assert bench.stack.neighbours.get(sender) is None


def test_broadcasts_teach_nothing_but_arp() -> None:
    bench = Bench()
    bench.give(udp(to=ethernet.BROADCAST))
    assert len(bench.stack.neighbours) == 0


@pytest.mark.parametrize(
    "fields", [{"hrd": 6}, {"pro": 0x86DD}, {"hln": 8}, {"pln": 16}, {"sha": OTHER_MAC}]
)
def test_what_is_no_arp_for_ipv4_on_ethernet_is_malformed(fields: dict[str, object]) -> None:
    bench = Bench(source_checks=False)
    assert bench.give(arp(GATEWAY, **fields)) == []  # type: ignore[arg-type]
    assert bench.counters.malformed == 1
    assert len(bench.stack.neighbours) == 0


class Asked:
    """Someone who wants to know where an address is."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, bytes]] = []

    def __call__(self, address: bytes, station: Station, now: float) -> None:
        self.told.append((address, station.mac))


def test_a_guest_is_asked_for_at_every_port_once_a_second() -> None:
    bench, asked = Bench(), Asked()
    other = bench.attach(ALL)
    for after in (0.0, 0.5, 0.999, 1.0):
        bench.stack.neighbours.resolve(GUEST, asked, bench.now + after)
    for port in (bench.port, other):
        requests = bench.sent(port)
        assert len(requests) == 2
        assert requests[0].dst == ethernet.BROADCAST
        body = requests[0].data
        assert (body.op, body.sha, body.spa, body.tpa) == (1, GATEWAY_MAC, GATEWAY, GUEST)
    assert bench.counters.unresolved == 4
    bench.give(arp(GATEWAY, operation=REPLY, to=GATEWAY_MAC), port=other)
    assert asked.told == [(GUEST, MAC)]
    bench.give(arp(GATEWAY), arp(GUEST, mac=OTHER_MAC))
    assert asked.told == [(GUEST, MAC)], "told once"


def test_one_that_is_known_already_is_told_of_at_once() -> None:
    bench, asked = Bench(), Asked()
    bench.meet()
    bench.stack.neighbours.resolve(GUEST, asked, bench.now)
    assert asked.told == [(GUEST, MAC)]
    assert bench.sent() == []


def test_one_whose_link_has_ended_is_asked_for() -> None:
    """Another had its MAC address meanwhile, and left: only an answer tells where it is."""
    bench, asked = Bench(source_checks=False), Asked()
    there = bench.attach()
    bench.meet()
    bench.meet(port=there)
    bench.stack.detach(there, bench.now)
    bench.port.take()
    assert bench.stack.neighbours.get(GUEST) is None
    bench.stack.neighbours.resolve(GUEST, asked, bench.now)
    (request,) = bench.sent()
    assert request.data.tpa == GUEST
    assert asked.told == []
    bench.give(arp(GATEWAY, operation=REPLY, to=GATEWAY_MAC))
    assert asked.told == [(GUEST, MAC)]
    station = bench.stack.neighbours.get(GUEST)
    assert station is not None
    assert station.port is bench.port


def test_any_packet_of_the_guest_answers_too() -> None:
    bench, asked = Bench(), Asked()
    bench.stack.neighbours.resolve(GUEST, asked, bench.now)
    bench.give(echo())
    assert asked.told == [(GUEST, MAC)]


def test_the_oldest_resolution_gives_way() -> None:
    bench, asked = Bench(mask=0xFFFF0000), Asked()
    first = b"\xc0\xa8\x10\x00"
    addresses = [
        (int.from_bytes(first, "big") + n).to_bytes(4, "big")
        for n in range(neighbours.MAX_RESOLUTIONS + 1)
    ]
    for address in addresses:
        bench.stack.neighbours.resolve(address, asked, bench.now)
    for address in addresses[:3]:
        bench.meet(address)
    assert [address for address, _ in asked.told] == addresses[1:3]


def fill(bench: Bench) -> list[bytes]:
    first = int.from_bytes(b"\xc0\xa8\x10\x00", "big")
    limit = bench.quotas.neighbours.limit.guest
    addresses = [(first + n).to_bytes(4, "big") for n in range(limit)]
    for address in addresses:
        bench.meet(address)
    return addresses


def test_the_table_is_bounded() -> None:
    bench = Bench(mask=0xFFFF0000)
    addresses = fill(bench)
    bench.meet(GUEST)
    table = bench.stack.neighbours
    assert len(table) == len(addresses)
    assert table.get(GUEST) is None
    assert bench.counters.neighbours_refused == 1
    bench.meet(addresses[5], OTHER_MAC)
    assert table.get(addresses[5]).mac == OTHER_MAC, "who is in it may move"


def test_whom_the_gateway_asks_for_has_a_place_in_a_full_table() -> None:
    """Or one guest with many addresses would hide all others from the host."""
    bench, asked = Bench(mask=0xFFFF0000), Asked()
    addresses = fill(bench)
    table = bench.stack.neighbours
    table.resolve(GUEST, asked, bench.now)
    bench.meet(GUEST, OTHER_MAC)
    assert asked.told == [(GUEST, OTHER_MAC)]
    assert table.get(GUEST).mac == OTHER_MAC
    assert table.get(addresses[0]) is None
    assert len(table) == len(addresses)


def test_a_guest_with_very_many_addresses_keeps_nobody_out() -> None:
    bench = Bench(mask=0xFFFF0000)
    fill(bench)
    bench.meet(GUEST, OTHER_MAC, bench.attach())
    assert bench.stack.neighbours.get(GUEST).mac == OTHER_MAC


def test_those_of_a_guest_that_went_make_room() -> None:
    bench = Bench(mask=0xFFFF0000, limits=Limits(neighbours=Limit(10, 10)))
    gone = bench.attach()
    for number in range(8):
        bench.meet(bytes((192, 168, 20, number)), OTHER_MAC, gone)
    assert bench.quotas.neighbours.used == 8
    bench.stack.detach(gone, bench.now)
    for number in range(8):
        bench.meet(bytes((192, 168, 21, number)))
    assert bench.quotas.neighbours.used == len(bench.stack.neighbours) == 8
