"""Attacks on another guest, or on the gateway: what a victim is sent, and who is believed."""

import struct
from dataclasses import replace

import dpkt
import pytest

from gvproxy.complaint import INTERVAL
from gvproxy.stack.sourceguard import ANSWER_TIME, ASK_INTERVAL, MAX_ADDRESSES, SourceGuard
from gvproxy.stack.switch import AGEING
from gvproxy.wire import ethernet
from gvproxy.wire.checksum import ones_sum
from taplink import vnet
from taplink.vnet import Offload

from .attack import BROADCAST, MALLORY, MALLORY_MAC, Scene, make, snap, tagged
from .bench import (
    ALL,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    MAC,
    OUTSIDE,
    VIRTUAL,
    Bench,
    arp,
    echo,
    ether,
    ip,
    read,
    tcp,
    udp,
)

REPLY = dpkt.arp.ARP_OP_REPLY
FREE = GATEWAY[:3] + b"\x50"


@pytest.fixture
def scene() -> Scene:
    return make()


# MAC addresses


def test_the_gateways_mac_address_is_nobodys(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    assert scene.attack(arp(GUEST, sender=FREE, mac=GATEWAY_MAC)) == []
    assert scene.bench.counters.macs_spoofed == 1
    assert caplog.messages == [
        "5a:94:ef:e4:0c:dd is the gateway's MAC address: frames of guest 1 with it are refused"
    ]


def test_a_mac_address_stays_with_its_port(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever had it got the victim's frames."""
    assert arp(GUEST, sender=FREE) not in scene.attack(arp(GUEST, sender=FREE), echo(), echo())
    assert scene.bench.counters.macs_spoofed == 3
    assert scene.bench.stack.switch.table() == {MAC: 0, MALLORY_MAC: 1}
    assert scene.bench.give(echo()) != [], "the victim's answers are its own"
    assert caplog.messages == [
        "5a:94:ef:e4:0c:ee of guest 1 is refused, because guest 0 has it: "
        "give each VM a MAC address of its own"
    ]


def test_who_has_a_claimed_mac_address_is_spoken_to(scene: Scene) -> None:
    """By which a link that is dead without a word is found to be so."""
    (frame,) = scene.attack(*[echo()] * 9)
    asked = read(frame)
    assert (asked.dst, asked.src, asked.data.spa) == (MAC, GATEWAY_MAC, GATEWAY)
    assert scene.attack(echo()) == []
    scene.bench.now += ASK_INTERVAL
    assert len(scene.attack(echo())) == 1


def test_a_guest_that_comes_back_has_its_mac_address_and_its_ip_address(scene: Scene) -> None:
    """The new link may be there before the end of the old one is."""
    bench, new = scene.bench, scene.bench.attach()
    assert bench.give(echo(), port=new) == []
    bench.stack.detach(scene.victim, bench.now)
    assert bench.give(echo(), port=new) != []
    assert bench.stack.switch.table()[MAC] == new.number


# Addresses of IP


SPOOFS = {
    "request": lambda address: arp(MALLORY, sender=address, mac=MALLORY_MAC),
    "announcement": lambda address: arp(address, sender=address, mac=MALLORY_MAC),
    "reply": lambda address: arp(FREE, sender=address, mac=MALLORY_MAC, operation=REPLY, to=MAC),
    "reply to all": lambda address: arp(FREE, sender=address, mac=MALLORY_MAC, operation=REPLY),
    "reply to us": lambda address: arp(
        GATEWAY, sender=address, mac=MALLORY_MAC, operation=REPLY, to=GATEWAY_MAC
    ),
    "odd reply": lambda address: arp(
        FREE, sender=address, mac=MALLORY_MAC, operation=REPLY, to=MAC, hrd=6
    ),
    "datagram": lambda address: udp(source=address, mac=MALLORY_MAC, destination=GUEST, to=MAC),
    "datagram to all": lambda address: udp(source=address, mac=MALLORY_MAC, to=BROADCAST),
    "datagram to us": lambda address: udp(source=address, mac=MALLORY_MAC),
    "segment": lambda address: tcp(source=address, mac=MALLORY_MAC, destination=GUEST, to=MAC),
    "multicast": lambda address: udp(source=address, mac=MALLORY_MAC, to=b"\x01\0\x5e\0\0\1"),
    "fragment": lambda address: ip(
        bytes(8), 17, source=address, mac=MALLORY_MAC, destination=GUEST, to=MAC, offset=100
    ),
    "priority tag": lambda address: tagged(
        arp(FREE, sender=address, mac=MALLORY_MAC, to=MAC), (0x8100, 0)
    ),
    "two tags": lambda address: tagged(
        udp(source=address, mac=MALLORY_MAC, to=MAC), (0x88A8, 5), (0x8100, 6)
    ),
    "LLC": lambda address: snap(arp(FREE, sender=address, mac=MALLORY_MAC, to=MAC)),
    "LLC in a tag": lambda address: tagged(
        snap(udp(source=address, mac=MALLORY_MAC, to=MAC)), (0x8100, 0)
    ),
}


@pytest.mark.parametrize("how", SPOOFS)
@pytest.mark.parametrize("address", [GUEST, GATEWAY, VIRTUAL])
def test_nobody_sends_as_another(scene: Scene, how: str, address: bytes) -> None:
    """Or the victim's neighbours, and the gateway, would send to Mallory."""
    assert scene.attack(SPOOFS[how](address)) == []
    counters = scene.bench.counters
    assert counters.addresses_spoofed + counters.malformed == 1
    assert scene.user() == MAC


@pytest.mark.parametrize("how", [how for how in SPOOFS if how not in ("odd reply",)])
def test_everybody_may_send_so_as_oneself(scene: Scene, how: str) -> None:
    """What the attacks hide in is not refused by itself."""
    frame = SPOOFS[how](MALLORY)
    assert scene.attack(frame) == ([] if how.endswith("to us") else [frame])
    assert scene.bench.counters.addresses_spoofed == 0


@pytest.mark.parametrize("how", SPOOFS)
def test_it_can_be_allowed(how: str) -> None:
    scene = make(source_checks=False)
    frame = SPOOFS[how](GUEST)
    assert scene.attack(frame) == ([] if how.endswith("to us") else [frame])
    if how in ("request", "reply to us", "datagram to us"):
        assert scene.user() == MALLORY_MAC, "the last one to speak"


def test_arp_in_anothers_name_is_refused(scene: Scene) -> None:
    """Its sender's MAC address is what a cache takes, not the frame's."""
    lie = arp(FREE, sender=FREE, mac=MALLORY_MAC, to=MAC, sha=b"\x02\0\0\0\0\x66")
    assert scene.attack(lie) == []
    assert scene.bench.counters.macs_spoofed == 1


def test_what_is_refused_is_told_once_a_minute(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.attack(*[SPOOFS["reply"](GUEST)] * 5, SPOOFS["reply"](GATEWAY))
    assert caplog.messages == [
        "guest 1 (5a:94:ef:e4:0c:ef) may not send as 192.168.127.2: guest 0 has it"
    ]
    scene.bench.now += INTERVAL
    scene.attack(SPOOFS["reply"](GATEWAY))
    assert caplog.messages[1:] == [
        "guest 1 (5a:94:ef:e4:0c:ef) may not send as 192.168.127.1: it is the gateway's"
    ]
    assert scene.bench.counters.addresses_spoofed == 7


@pytest.mark.parametrize("address", [b"\xff" * 4, GATEWAY[:3] + b"\xff", b"\xe0\0\0\1"])
def test_groups_send_nothing(scene: Scene, address: bytes) -> None:
    assert scene.attack(SPOOFS["datagram"](address)) == []
    assert scene.bench.counters.addresses_spoofed == 1


def test_the_subnets_own_address_sends_nothing(scene: Scene) -> None:
    assert scene.attack(SPOOFS["datagram"](GATEWAY[:3] + b"\0")) == []


def test_addresses_behind_nat_are_nobodys() -> None:
    """One in the subnet that the gateway does not answer for, and one outside."""
    bench = Bench()
    settings = replace(bench.stack.config, reserved=frozenset({FREE, OUTSIDE}))
    bench.stack.guard = SourceGuard(settings, bench.stack.switch, bench.counters)
    mallory = bench.attach()
    for address in (FREE, OUTSIDE):
        bench.give(SPOOFS["reply to all"](address), port=mallory)
    assert bench.port.take() == []
    assert bench.counters.addresses_spoofed == 2


@pytest.mark.parametrize(
    "frame",
    [
        arp(GUEST, sender=bytes(4), mac=MALLORY_MAC),  # a probe (RFC 5227)
        udp(source=bytes(4), mac=MALLORY_MAC, destination=b"\xff" * 4, to=BROADCAST),
        arp(GUEST, sender=b"\xa9\xfe\1\2", mac=MALLORY_MAC),  # link-local (RFC 3927)
        udp(source=OUTSIDE, mac=MALLORY_MAC, destination=GUEST, to=MAC),  # a router's
        ether(bytes(39), kind=ethernet.TYPE_IPV6, mac=MALLORY_MAC, to=MAC),
        ether(bytes(19), kind=ethernet.TYPE_IPV4, mac=MALLORY_MAC, to=MAC),
        ether(bytes(27), kind=ethernet.TYPE_ARP, mac=MALLORY_MAC, to=MAC),
        ether(bytes(40), kind=0x88CC, mac=MALLORY_MAC, to=MAC),
        ether(bytes(40), kind=40, mac=MALLORY_MAC, to=MAC),  # LLC, of a bridge
    ],
)
def test_what_is_nobodys_passes(scene: Scene, frame: bytes) -> None:
    assert scene.attack(frame) == [frame]


def test_tags_without_end_hide_nothing(scene: Scene) -> None:
    """Linux takes off as many of VLAN 0 as there are."""
    frame = arp(FREE, sender=MALLORY, mac=MALLORY_MAC, to=MAC)
    tags = [(0x8100, 0)] * ethernet.MAX_TAGS
    assert scene.attack(tagged(frame, *tags)) == [tagged(frame, *tags)]
    assert scene.attack(tagged(frame, *tags, (0x8100, 0))) == []
    assert scene.bench.counters.malformed == 1


@pytest.mark.parametrize("how", SPOOFS)
def test_a_frame_may_end_anywhere(scene: Scene, how: str) -> None:
    frame = SPOOFS[how](MALLORY)
    for size in range(ethernet.SIZE, len(frame)):
        scene.attack(frame[:size])


# Who has an address


def test_a_guest_may_have_several_addresses_and_several_macs(scene: Scene) -> None:
    """A bridge, containers: what is behind a port is one guest."""
    inner = b"\x02\0\0\0\0\x09"
    frames = [arp(GUEST, sender=address, mac=MALLORY_MAC) for address in (FREE, MALLORY)]
    frames += [arp(GUEST, sender=address, mac=inner) for address in (FREE, MALLORY)]
    assert scene.attack(*frames) == frames
    assert scene.bench.counters.addresses_spoofed == 0


def claim(address: bytes = GUEST) -> bytes:
    return arp(FREE, sender=address, mac=MALLORY_MAC)


def test_an_address_is_free_when_its_guest_has_gone(scene: Scene) -> None:
    assert scene.attack(claim()) == []
    scene.bench.stack.detach(scene.victim, scene.bench.now)
    third = scene.bench.attach()
    scene.bench.give(claim(), port=scene.mallory)
    assert third.take() == [claim()]
    assert scene.guard.user(GUEST) == MALLORY_MAC


def test_one_who_is_silent_is_asked_first(scene: Scene) -> None:
    """Its connections go the short way, which does not say that it uses the address."""
    bench = scene.bench
    bench.now += AGEING - 1
    assert scene.attack(claim()) == [], "not even asked"
    bench.now += 1
    (asked,) = map(read, scene.attack(claim()))
    assert (asked.dst, asked.data.tpa, asked.data.op) == (MAC, GUEST, 1)
    bench.give(arp(GATEWAY, operation=REPLY, to=GATEWAY_MAC))
    bench.now += ANSWER_TIME
    assert scene.attack(claim()) == []
    assert scene.guard.user(GUEST) == MAC


def test_one_who_does_not_answer_has_it_no_longer(scene: Scene) -> None:
    scene.bench.now += AGEING
    assert len(scene.attack(claim())) == 1
    scene.bench.now += ANSWER_TIME - 0.1
    assert scene.attack(claim()) == [], "asked once"
    scene.bench.now += 0.1
    assert scene.attack(claim()) == [claim()]
    assert scene.bench.give(echo()) == [], "and is another from now on"
    assert scene.guard.user(GUEST) == MALLORY_MAC


def test_whoever_uses_too_many_addresses_loses_its_own(scene: Scene) -> None:
    """Or one guest would keep all others from having any."""
    scene.bench.now += 1
    many = [GATEWAY[:3] + bytes((last,)) for last in range(4, 5 + MAX_ADDRESSES)]
    scene.attack(*map(claim, many))
    assert scene.guard.user(many[0]) is None
    assert scene.guard.user(GUEST) == MAC
    assert sum(scene.guard.user(address) == MALLORY_MAC for address in many) == MAX_ADDRESSES
    scene.bench.stack.detach(scene.mallory, scene.bench.now)
    assert list(scene.guard._holders) == [GUEST]


# Leases


def leased(scene: Scene, address: bytes, mac: bytes) -> None:
    scene.guard.binding = lambda asked, now: mac if asked == address else None


def test_a_leased_address_is_its_clients_even_unused(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    leased(scene, FREE, MAC)
    assert scene.attack(claim(FREE)) == []
    assert caplog.messages == [
        "guest 1 (5a:94:ef:e4:0c:ef) may not send as 192.168.127.80: "
        "it is leased to 5a:94:ef:e4:0c:ee"
    ]
    assert scene.bench.give(echo(source=FREE)) != []


def test_a_leased_address_is_kept_while_its_client_is_away(scene: Scene) -> None:
    leased(scene, GUEST, MAC)
    scene.bench.stack.detach(scene.victim, scene.bench.now)
    scene.bench.attach()
    scene.bench.give(claim(), port=scene.mallory)
    assert scene.guard.user(GUEST) is None
    assert scene.bench.counters.addresses_spoofed == 1


def test_a_lease_ends_anothers_use(scene: Scene) -> None:
    assert scene.attack(claim(FREE)) == [claim(FREE)]
    leased(scene, FREE, MAC)
    scene.guard.granted(FREE, MAC)
    assert scene.attack(claim(FREE)) == []
    assert scene.bench.give(echo(source=FREE)) != []
    scene.guard.granted(FREE, MAC)  # renewed
    assert scene.guard.user(FREE) == MAC


def test_another_mac_of_the_leases_guest_may_use_it(scene: Scene) -> None:
    leased(scene, FREE, MAC)
    assert scene.bench.give(echo(source=FREE, mac=b"\x02\0\0\0\0\x09")) != []


# DHCP


def dhcp(*, sport: int = 67, dport: int = 68, **fields: object) -> bytes:
    return udp(bytes(240), sport=sport, dport=dport, source=MALLORY, mac=MALLORY_MAC, **fields)


@pytest.mark.parametrize(
    "frame",
    [
        dhcp(to=BROADCAST, destination=b"\xff" * 4),
        dhcp(to=MAC, destination=GUEST),
        dhcp(to=MAC, destination=GUEST, sport=4011),
        dhcp(to=MAC, destination=GUEST, dport=67),
        dhcp(to=MAC, destination=GUEST, mf=1),
        tagged(dhcp(to=MAC, destination=GUEST), (0x8100, 0)),
        dhcp(to=MAC, destination=GUEST, opts=bytes(8), hl=7),
    ],
)
def test_nobody_is_a_dhcp_server(
    scene: Scene, frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert scene.attack(frame) == []
    assert scene.bench.counters.dhcp_servers_refused == 1
    assert caplog.messages == [
        "guest 1 (5a:94:ef:e4:0c:ef) answers DHCP clients, and is refused: gvproxy is their server"
    ]


def test_ports_that_cannot_be_seen_are_refused(scene: Scene) -> None:
    """A first fragment that ends before them (RFC 1858)."""
    frame = ip(bytes(7), 17, source=MALLORY, mac=MALLORY_MAC, destination=GUEST, to=MAC, mf=1)
    assert scene.attack(frame) == []
    assert scene.bench.counters.malformed == 1


@pytest.mark.parametrize(
    "frame",
    [
        dhcp(to=MAC, destination=GUEST, sport=5000, dport=69),
        dhcp(to=MAC, destination=GUEST, sport=68, dport=67),
        dhcp(to=BROADCAST, destination=b"\xff" * 4, sport=68, dport=67),
        tcp(source=MALLORY, mac=MALLORY_MAC, destination=GUEST, to=MAC, sport=67, dport=68),
        ip(struct.pack("!4H", 67, 68, 8, 0), 17, source=MALLORY, mac=MALLORY_MAC, to=MAC, offset=5),
    ],
)
def test_what_no_server_sends_passes(scene: Scene, frame: bytes) -> None:
    assert scene.attack(frame) == [frame]


# What is judged stays so

FIELDS = {
    "ARP in a tag": (tagged(arp(FREE, sender=MALLORY, mac=MALLORY_MAC, to=MAC), (0x8100, 0)), 34),
    "IP in LLC": (snap(udp(source=MALLORY, mac=MALLORY_MAC, destination=GUEST, to=MAC)), 36),
    "IP in two tags": (
        tagged(
            udp(source=MALLORY, mac=MALLORY_MAC, destination=GUEST, to=MAC),
            (0x8100, 0),
            (0x8100, 0),
        ),
        36,
    ),
    "IP": (udp(source=MALLORY, mac=MALLORY_MAC, destination=GUEST, to=MAC), 28),
    "MAC": (udp(source=MALLORY, mac=MALLORY_MAC, destination=GUEST, to=MAC), 10),
    "LLC": (ether(b"\x66\x66\3\0\0\0\x08\0" + bytes(28), kind=36, mac=MALLORY_MAC, to=MAC), 14),
}
"""Frames of Mallory's, and where a checksum would say who they are from, or what they are."""


@pytest.mark.parametrize("there", [ALL, Offload.NONE])
@pytest.mark.parametrize("how", FIELDS)
def test_no_checksum_is_written_over_an_address(how: str, there: Offload) -> None:
    """What is left undone is done once the frame has been judged, or by the victim."""
    bench = Bench(there)
    mallory = bench.attach(ALL)
    bench.meet()
    bench.meet(MALLORY, MALLORY_MAC, mallory)
    bench.port.take()
    frame, field = FIELDS[how]
    frame += bytes(len(frame) & 1)
    wanted = int.from_bytes(GATEWAY[2:], "big")
    rest = ones_sum(frame[field:], len(frame) - field)
    frame += ((0xFFFF - wanted - rest) % 0xFFFF).to_bytes(2, "big")
    assert 0xFFFF - ones_sum(frame[field:], len(frame) - field) == wanted
    meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, 0, 0, 0, field, 0, 0)
    bench.give(frame, port=mallory, meta=meta)
    assert bench.port.take() == []
    assert bench.counters.malformed == 1


# In the way of nobody


def test_it_looks_behind_the_virtio_header() -> None:
    bench = Bench(ALL)
    mallory = bench.attach(ALL)
    bench.meet()
    bench.port.take()
    bench.give(SPOOFS["datagram"](GUEST), port=mallory)
    assert bench.port.take() == []
    assert bench.counters.addresses_spoofed == 1
    bench.give(SPOOFS["datagram"](MALLORY), port=mallory)
    assert len(bench.port.take()) == 1
