"""From guest to guest: who is where, what goes to whom, and what is made of unfinished frames."""

import random
import struct

import dpkt
import pytest

from gvproxy.limits import Limit, Limits
from gvproxy.stack import switch
from gvproxy.wire import ethernet
from gvproxy.wire.checksum import pseudo_header
from taplink import vnet
from taplink.vnet import Offload

from .bench import (
    ALL,
    GATEWAY_MAC,
    GUEST,
    MAC,
    OTHER,
    OTHER_MAC,
    OUTSIDE,
    Bench,
    Port,
    arp,
    echo,
    ether,
    read,
    tcp,
    udp,
)

TRANSPORT = ethernet.SIZE + 20


def pair(
    here: Offload = Offload.NONE, there: Offload = Offload.NONE, *, source_checks: bool = True
) -> tuple[Bench, Port]:
    """Return two guests who know of each other."""
    bench = Bench(here, source_checks=source_checks)
    other = bench.attach(there)
    bench.give(arp(OTHER))
    bench.give(arp(GUEST, sender=OTHER, mac=OTHER_MAC), port=other)
    bench.port.take()
    other.take()
    return bench, other


def between(frame_of, body: bytes = b"", **fields: object) -> bytes:  # type: ignore[no-untyped-def]
    return frame_of(body, destination=OTHER, to=OTHER_MAC, **fields)  # type: ignore[no-any-return]


def unfinished(frame: bytes) -> bytes:
    """Leave only the pseudo-header's sum in the transport's checksum field."""
    protocol = frame[23]
    place = TRANSPORT + (16 if protocol == 6 else 6)
    length = len(frame) - TRANSPORT
    partial = (pseudo_header(frame[26:34], protocol) + length) % 0xFFFF
    return frame[:place] + partial.to_bytes(2, "big") + frame[place + 2 :]


def needs_csum(protocol: int = 6, kind: int = vnet.GSO_NONE, size: int = 0) -> bytes:
    place = 16 if protocol == 6 else 6
    return vnet.HEADER.pack(vnet.F_NEEDS_CSUM, kind, 0, size, TRANSPORT, place, 0)


# Who is where


def test_a_frame_goes_to_its_station_alone() -> None:
    bench, other = pair()
    third = bench.attach()
    frame = between(udp, b"x")
    assert bench.give(frame) == []
    assert other.take() == [frame]
    assert third.take() == []
    assert bench.counters.ip_in == 0, "it is none of the gateway's business"


def test_a_frame_for_an_unknown_station_goes_to_all_others() -> None:
    bench, other = pair()
    third = bench.attach()
    frame = udp(to=b"\x02\0\0\0\0\x09")
    assert bench.give(frame) == []
    assert other.take() == third.take() == [frame]


@pytest.mark.parametrize("to", [ethernet.BROADCAST, b"\x01\0\x5e\0\0\xfb", b"\x33\x33\0\0\0\1"])
def test_groups_are_flooded_and_never_reach_a_flow(to: bytes) -> None:
    bench, other = pair()
    stack = bench.stack
    stack.udp.forward = lambda datagram, now: pytest.fail("forwarded")
    stack.connections.forward = lambda c, path, now: pytest.fail("forwarded")
    stack.ip.forward_echo = lambda request, now: pytest.fail("forwarded")
    outside = b"\x09\x09\x09\x09"
    frames = [
        make(to=to, destination=outside)  # type: ignore[operator]
        for make in (udp, echo, lambda **w: tcp(flags=2, **w))
    ]
    assert bench.give(*frames) == []
    assert other.take() == frames
    assert stack.connections.tcp_counters.invalid == 1


def test_a_frame_for_its_own_port_goes_nowhere() -> None:
    """Two MACs behind one port: their frames to each other pass by us, and an echo is a loop."""
    bench, other = pair()
    bench.give(udp(mac=b"\x02\0\0\0\0\1"))
    assert bench.give(udp(to=b"\x02\0\0\0\0\1"), udp(to=MAC)) == []
    assert other.take() == []


def test_the_gateway_and_groups_send_nothing() -> None:
    """As a source they would be learned, and take the gateway's frames away."""
    bench, other = pair()
    for mac in (GATEWAY_MAC, ethernet.BROADCAST, b"\x01\0\x5e\0\0\1"):
        bench.give(udp(mac=mac, to=OTHER_MAC))
    assert (bench.counters.macs_spoofed, bench.counters.malformed) == (1, 2)
    assert other.take() == []
    assert set(bench.stack.switch.stations) == {MAC, OTHER_MAC}


@pytest.mark.parametrize("source_checks", [True, False])
def test_a_station_moves_with_its_guest(source_checks: bool) -> None:
    bench, other = pair(source_checks=source_checks)
    third = bench.attach()
    if source_checks:
        bench.stack.detach(other, bench.now)
    bench.give(arp(GUEST, sender=OTHER, mac=OTHER_MAC), port=third)
    other.take()
    bench.port.take()
    frame = between(udp)
    bench.give(frame)
    assert (other.take(), third.take()) == ([], [frame])
    assert bench.stack.switch.table() == {MAC: 0, OTHER_MAC: 2}


def test_whoever_appears_behind_a_port_is_told_of() -> None:
    bench = Bench()
    other = bench.attach()
    told: list[tuple[bytes, int]] = []
    bench.stack.switch.appeared = lambda mac, port: told.append((mac, port.number))
    bench.give(arp(GUEST), arp(GUEST))
    bench.stack.detach(bench.port, bench.now)
    bench.give(arp(GUEST), port=other)
    assert told == [(MAC, 0), (MAC, 1)]


def test_the_table_shows_only_ports_that_are_there() -> None:
    bench, other = pair()
    bench.stack.detach(other, bench.now)
    assert bench.stack.switch.table() == {MAC: 0}
    assert OTHER_MAC in bench.stack.switch.stations


def macs(count: int) -> list[bytes]:
    return [b"\x02\0\0\0" + struct.pack("!H", n) for n in range(count)]


PART = Limits().macs.guest


def test_a_guest_with_its_part_of_the_table_gets_no_more_until_stations_age() -> None:
    bench = Bench()
    known = macs(PART)
    for mac in known:
        bench.give(arp(OTHER, mac=mac))
    assert bench.give(echo()) == []
    assert bench.counters.stations_refused == 1
    assert bench.give(echo(mac=known[0])) != [], "whoever is in it goes on"
    bench.now += switch.AGEING
    bench.give(arp(OTHER, mac=known[1]))
    bench.now += 1
    assert bench.give(echo()) != []
    assert set(bench.stack.switch.stations) == {known[1], MAC}


def test_a_full_table_forgets_the_stations_of_ports_that_went() -> None:
    bench = Bench(limits=Limits(macs=Limit(10, 10)))
    gone = bench.attach()
    for mac in macs(8):
        bench.give(arp(OTHER, mac=mac), port=gone)
    bench.stack.detach(gone, bench.now)
    for mac in macs(12)[8:]:
        bench.give(arp(OTHER, mac=mac))
    assert bench.give(echo()) != []
    assert set(bench.stack.switch.stations) == {*macs(12)[8:], MAC}


def test_a_guest_with_its_part_of_the_table_lets_its_own_stations_age_alone() -> None:
    """Else whoever was silent for a while lost its MAC address to it."""
    bench = Bench()
    flooding = bench.attach()
    bench.meet()
    for mac in macs(PART):
        bench.give(arp(OTHER, mac=mac), port=flooding)
    bench.now += switch.AGEING + 1
    bench.give(echo(mac=OTHER_MAC, source=OTHER), port=flooding)
    assert bench.stack.switch.table() == {MAC: 0, OTHER_MAC: 1}
    bench.give(echo(source=OTHER), port=flooding)
    assert bench.stack.switch.table() == {MAC: 0, OTHER_MAC: 1}
    assert bench.give(echo()) != [], "and was no longer heard"


def test_a_full_table_is_searched_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search takes a tenth of a millisecond, and a guest has a new MAC in every frame."""
    monkeypatch.setattr(switch, "AGEING", 0.5)
    bench = Bench()
    for mac in macs(PART):
        bench.give(arp(OTHER, mac=mac))
    assert bench.give(echo()) == []
    bench.now += 0.9
    assert bench.give(echo()) == []
    bench.now += 0.1
    assert bench.give(echo()) != []


def test_a_guest_with_very_many_addresses_keeps_nobody_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    other, third = bench.attach(), bench.attach()
    flood = macs(PART + 5)
    for mac in flood:
        bench.give(arp(OTHER, mac=mac), port=other)
    mac = ethernet.format_mac(flood[PART])
    assert caplog.messages == [f"no place for {mac} of port 1, which has {PART} MAC addresses"]
    assert bench.give(echo()) != []
    bench.give(arp(OTHER, mac=OTHER_MAC), port=third)
    known = bench.stack.switch.stations
    assert {MAC, OTHER_MAC} < set(known)
    assert len(known) == PART + 2


def test_who_moves_is_counted_where_it_is() -> None:
    bench = Bench()
    other = bench.attach()
    bench.give(arp(OTHER, mac=MAC))
    bench.stack.detach(bench.port, bench.now)
    bench.give(arp(OTHER, mac=MAC), port=other)
    quota = bench.quotas.macs
    assert (quota.used, quota.held(bench.port), quota.held(other)) == (1, 0, 1)


def test_who_comes_back_through_another_port_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench, other = pair(source_checks=False)
    third = bench.attach()
    bench.give(arp(GUEST, sender=OTHER, mac=OTHER_MAC), port=third)
    assert caplog.messages == ["5a:94:ef:e4:0c:ef moved to port 2"]
    caplog.clear()
    bench.now += 100
    bench.stack.detach(third, bench.now)
    bench.give(arp(GUEST, sender=OTHER, mac=OTHER_MAC), port=other)
    assert caplog.messages == []


# What they get


@pytest.mark.parametrize("there", [ALL, Offload.NONE])
@pytest.mark.parametrize("here", [ALL, Offload.NONE])
@pytest.mark.parametrize("size", [0, 1, 5, 11, 12, 1400])
@pytest.mark.parametrize("make", [udp, tcp])
def test_every_datagram_and_segment_arrives_whole(
    here: Offload, there: Offload, size: int, make: object
) -> None:
    bench, other = pair(here, there)
    frame = between(make, random.Random(size).randbytes(size))
    given, meta = frame, vnet.PLAIN
    if here:
        given, meta = unfinished(frame), needs_csum(frame[23])
    assert bench.give(given, meta=meta) == []
    assert other.take() == [frame]


@pytest.mark.parametrize("there", [ALL, Offload.NONE])
@pytest.mark.parametrize("tags", [1, 2])
def test_a_checksum_is_completed_behind_tags(tags: int, there: Offload) -> None:
    """As the VLAN interfaces of a guest's kernel leave it."""
    bench, other = pair(ALL, there)
    frame, inside = between(udp, b"hello"), b"\x81\0\0\5" * tags
    meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, 0, 0, 0, TRANSPORT + 4 * tags, 6, 0)
    given = unfinished(frame)
    assert bench.give(given[:12] + inside + given[12:], meta=meta) == []
    assert other.take() == [frame[:12] + inside + frame[12:]]


def test_finished_frames_keep_their_header_on_a_port_with_offloads() -> None:
    bench, other = pair(ALL, ALL)
    valid = vnet.HEADER.pack(vnet.F_DATA_VALID, 0, 0, 0, 0, 0, 0)
    frame = between(udp)
    bench.give(frame, meta=valid)
    assert other.sent == [(valid, frame)]


def test_a_frame_for_one_whose_link_has_ended_goes_to_all() -> None:
    bench, other = pair()
    third = bench.attach()
    bench.stack.detach(other, bench.now)
    frame = between(udp, b"x")
    bench.give(frame)
    assert third.take() == [frame]
    assert other.take() == []


def test_floods_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """To everyone, and to MAC addresses that nobody has; what is for one guest is not counted."""
    bench, other = pair()
    third = bench.attach()
    flood = [arp(OUTSIDE)] * 700 + [udp(b"x", destination=OTHER, to=b"\x02" + bytes(5))] * 700
    bench.give(*flood, between(udp, b"for one"))
    assert len(third.take()) == switch.FLOOD_BURST - 1  # of which `pair` has used one
    assert len(other.take()) == switch.FLOOD_BURST
    assert bench.counters.floods_refused == 401
    bench.now += 0.1
    bench.give(*flood)
    assert len(third.take()) == switch.FLOOD_RATE / 10
    assert caplog.messages == ["port 0 sends more than 1000 frames a second to everyone"]
    bench.give(arp(OUTSIDE, sender=OTHER, mac=OTHER_MAC), port=other)
    assert len(third.take()) == 1, "nobody pays for another"


def test_a_super_frame_to_everyone_counts_as_what_is_made_of_it() -> None:
    bench, _ = pair(ALL)
    third = bench.attach()
    frame = unfinished(tcp(bytes(48 * 100), to=b"\xff" * 6, destination=OTHER))
    meta = needs_csum(kind=vnet.GSO_TCPV4, size=48)
    bench.give(*[frame] * 50, meta=meta)
    assert 800 <= len(third.take()) <= switch.FLOOD_BURST
    assert bench.counters.floods_refused == 41
    bench.give(*[frame] * 50, meta=needs_csum(kind=vnet.GSO_TCPV4, size=0))
    assert third.take() == []


def test_who_leaves_and_comes_back_begins_anew() -> None:
    bench, other = pair()
    bench.give(*[arp(OUTSIDE)] * 2000)
    other.take()
    bench.stack.detach(bench.port, bench.now)
    bench.stack.attach(bench.port)
    bench.give(arp(OUTSIDE))
    assert len(other.take()) == 1
    assert len(bench.stack.switch._floods) == 2


def super_frame(size: int) -> tuple[bytes, bytes]:
    """Return a super-frame of TCP and its payload."""
    payload = random.Random(1).randbytes(size)
    return unfinished(between(tcp, payload, seq=5, options=b"\1\1\x08\x0a" + bytes(8))), payload


def test_a_super_frame_stays_one_where_the_other_takes_it() -> None:
    bench, other = pair(ALL, ALL)
    frame, _ = super_frame(40_000)
    meta = needs_csum(6, vnet.GSO_TCPV4, 1448)
    bench.give(frame, meta=meta)
    assert other.sent == [(meta, frame)]


@pytest.mark.parametrize("there", [Offload.NONE, Offload.CSUM, Offload.CSUM | Offload.TSO6])
def test_a_super_frame_is_cut_where_it_does_not(there: Offload) -> None:
    bench, other = pair(ALL, there)
    frame, payload = super_frame(40_000)
    bench.give(frame, meta=needs_csum(6, vnet.GSO_TCPV4, 1448))
    packets = [read(piece).data for piece in other.take()]
    assert max(len(packet) for packet in packets) == 1500
    assert b"".join(packet.data.data for packet in packets) == payload
    assert [packet.data.seq for packet in packets] == list(range(5, 40_005, 1448))


@pytest.mark.parametrize("mtu", [576, 1500])
def test_a_frame_above_the_mtu_does_not_reach_a_plain_port(mtu: int) -> None:
    """Its length may be more than the link's framing can say, and no guest could take it."""
    bench = Bench(ALL, mtu=mtu)
    other = bench.attach()
    sizes = (mtu, mtu + 4, mtu + 5, 65_535, 65_539)  # 4: a VLAN tag
    bench.give(*(ether(bytes(size), kind=0x1234, to=ethernet.BROADCAST) for size in sizes))
    assert [len(frame) - ethernet.SIZE for frame in other.take()] == [mtu, mtu + 4]
    assert bench.counters.oversized == 3


USO = Offload.USO4 | Offload.USO6


@pytest.mark.parametrize("there", [Offload.NONE, ALL, ALL | Offload.USO4])
def test_a_super_datagram_is_cut_where_the_other_does_not_take_it(there: Offload) -> None:
    bench, other = pair(ALL | USO, there)
    payload = random.Random(1).randbytes(4000)
    bench.give(unfinished(between(udp, payload)), meta=needs_csum(17, vnet.GSO_UDP_L4, 1400))
    datagrams = [read(piece).data.data for piece in other.take()]
    assert [datagram.data for datagram in datagrams] == [
        payload[:1400],
        payload[1400:2800],
        payload[2800:],
    ]
    assert [datagram.ulen for datagram in datagrams] == [1408, 1408, 1208]


def test_a_super_datagram_stays_one_where_the_other_takes_it() -> None:
    bench, other = pair(ALL | USO, ALL | USO)
    frame, meta = unfinished(between(udp, bytes(4000))), needs_csum(17, vnet.GSO_UDP_L4, 1400)
    bench.give(frame, meta=meta)
    assert other.sent == [(meta, frame)]


@pytest.mark.parametrize("there", [ALL, Offload.NONE])
@pytest.mark.parametrize("seed", range(20))
def test_lies_in_the_virtio_header_hurt_nobody(seed: int, there: Offload) -> None:
    bench, other = pair(ALL, there)
    rng = random.Random(seed)
    frames = [super_frame(3000)[0], between(udp, b"x"), between(tcp), between(echo)]
    numbers = (0, 1, 13, 14, 33, 34, 35, 47, 48, 54, 1448, 3000, 65535)
    for _ in range(200):
        frame = rng.choice(frames)
        frame = frame[: rng.choice((14, 15, 20, 34, 42, 54, len(frame)))]
        meta = vnet.HEADER.pack(
            rng.choice((0, 1, 1, 1, 2, 3, 255)),
            rng.choice((0, 1, 4, 5, 6, 0x81, 255)),
            *(rng.choice(numbers) for _ in range(4)),
            rng.choice((0, 1, 65535)),
        )
        bench.give(frame, meta=meta)
        sent = other.sent
        other.sent = []
        if not there:
            assert all(len(piece) <= 1518 for _, piece in sent)
        assert len(sent) <= 65  # of 48 bytes, from 3000
    good = between(udp, b"still here")
    bench.give(good)
    assert other.take() == [good]


@pytest.mark.parametrize(
    ("start", "place"), [(0, 16), (33, 16), (34, 65_535), (65_535, 0), (34, 19), (52, 0)]
)
@pytest.mark.parametrize("kind", [vnet.GSO_NONE, vnet.GSO_TCPV4])
def test_a_checksum_outside_the_headers_is_malformed(kind: int, start: int, place: int) -> None:
    """Written there, it would change a packet behind the guest's back, or make it longer."""
    bench, other = pair(ALL, Offload.NONE)
    frame = between(tcp)[:53]
    bench.give(frame, meta=vnet.HEADER.pack(vnet.F_NEEDS_CSUM, kind, 0, 1448, start, place, 0))
    assert other.take() == []
    assert bench.counters.malformed == 1


def test_an_empty_frame_is_counted() -> None:
    for header in (True, False):
        bench = Bench(header=header)
        bench.give(b"", bytes(13), meta=vnet.PLAIN)
        assert bench.counters.malformed == 2


def test_unknown_protocols_are_counted_and_ipv6_is_not() -> None:
    bench = Bench()
    body = bytes(dpkt.ip6.IP6(src=bytes(16), dst=bytes(16)))
    kinds = (0x86DD, 0x8100, 0x0000, 0x05DC, 0x88CC)
    bench.give(*(ether(body, kind=kind, to=GATEWAY_MAC) for kind in kinds))
    assert bench.counters.unknown_protocol == 4
