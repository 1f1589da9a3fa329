"""UDP: who takes a datagram, checksums, closed ports, and datagrams to a guest."""

import dpkt
import pytest

from gvproxy.stack.udp import Datagram
from gvproxy.wire import ethernet
from taplink import vnet
from taplink.vnet import Offload

from .bench import (
    ALL,
    GATEWAY,
    GUEST,
    MAC,
    OUTSIDE,
    VALID,
    VIRTUAL,
    Bench,
    Port,
    break_at,
    ip,
    udp,
)

IP = ethernet.SIZE
BODY = IP + 20 + 8
BROADCAST = b"\xff" * 4


class Taker:
    """Takes datagrams, and copies what will not be there later."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, bytes, int, int, bytes]] = []

    def __call__(self, datagram: Datagram, now: float) -> None:
        packet = datagram.packet
        self.taken.append(
            (
                packet.source,
                packet.destination,
                datagram.source_port,
                datagram.port,
                bytes(datagram.payload),
            )
        )


@pytest.mark.parametrize("size", [0, 1, 2, 1471, 1472])
@pytest.mark.parametrize("destination", [OUTSIDE, VIRTUAL])
def test_datagrams_to_the_outside_are_forwarded(destination: bytes, size: int) -> None:
    bench, taker = Bench(), Taker()
    bench.stack.udp.forward = taker
    assert bench.give(udp(bytes(size), destination=destination)) == []
    assert taker.taken == [(GUEST, destination, 5000, 6000, bytes(size))]
    assert bench.counters.udp_in == 1


def test_services_of_the_gateway_come_first() -> None:
    bench, service = Bench(), Taker()
    bench.stack.udp.handlers[GATEWAY, 53] = service
    bench.stack.udp.forward = lambda datagram, now: pytest.fail("forwarded")
    assert bench.give(udp(b"q", dport=53)) == []
    assert [datagram[-1] for datagram in service.taken] == [b"q"]


def test_a_guest_without_address_reaches_services_only() -> None:
    bench, service = Bench(), Taker()
    bench.stack.udp.handlers[BROADCAST, 67] = service
    bench.stack.udp.forward = lambda datagram, now: pytest.fail("forwarded")
    where = {"source": bytes(4), "to": ethernet.BROADCAST}
    bench.give(
        udp(b"discover", dport=67, destination=BROADCAST, **where),
        udp(dport=68, destination=BROADCAST, **where),
        udp(source=bytes(4), destination=OUTSIDE),
        udp(source=bytes(4), destination=GATEWAY),
    )
    assert [datagram[-1] for datagram in service.taken] == [b"discover"]
    assert bench.port.take() == []


def test_a_closed_port_of_the_gateway_is_unreachable() -> None:
    bench = Bench()
    frame = udp(b"hello", dport=9)
    (error,) = bench.give(frame)
    message = error.data.data
    assert (error.dst, error.data.src, error.data.dst) == (MAC, GATEWAY, GUEST)
    assert (message.type, message.code) == (3, dpkt.icmp.ICMP_UNREACH_PORT)
    assert bytes(message)[8:] == frame[IP : IP + 28]
    assert bench.counters.udp_unreachable == 1


def test_without_anybody_to_forward_there_is_silence() -> None:
    assert Bench().give(udp(destination=OUTSIDE)) == []


def broken(size: int = 5) -> bytes:
    return break_at(udp(bytes(size), destination=OUTSIDE), IP + 26)


@pytest.mark.parametrize(
    ("bench", "meta"),
    [
        (Bench(), vnet.PLAIN),
        (Bench(ALL), vnet.PLAIN),
        (Bench(header=True), vnet.PLAIN),
    ],
    ids=["plain", "offloads", "header"],
)
def test_a_bad_checksum_is_refused_where_nobody_vouches(bench: Bench, meta: bytes) -> None:
    bench.stack.udp.forward = lambda datagram, now: pytest.fail("taken")
    bench.give(broken(), meta=meta)
    assert bench.counters.udp_checksum_errors == 1


@pytest.mark.parametrize("flags", [vnet.F_DATA_VALID, vnet.F_NEEDS_CSUM])
def test_a_checksum_still_to_be_made_is_no_error(flags: int) -> None:
    bench, taker = Bench(ALL), Taker()
    bench.stack.udp.forward = taker
    bench.give(broken(), meta=vnet.HEADER.pack(flags, 0, 0, 0, 34, 6, 0))
    assert len(taker.taken) == 1


def test_no_checksum_is_none() -> None:
    """RFC 768: all zero."""
    bench, taker = Bench(), Taker()
    bench.stack.udp.forward = taker
    frame = udp(destination=OUTSIDE)
    bench.give(frame[: IP + 26] + b"\0\0" + frame[IP + 28 :])
    assert len(taker.taken) == 1


def raw(length: int, body: bytes) -> bytes:
    header = b"\x13\x88\x17\x70" + length.to_bytes(2, "big") + b"\0\0"
    return ip((header + body)[: 8 + len(body)], 17, destination=OUTSIDE)


def test_lengths_that_are_wrong_are_malformed() -> None:
    bench, taker = Bench(), Taker()
    bench.stack.udp.forward = taker
    bench.give(raw(0, b""), raw(7, b"abc"), raw(12, b"abc"), raw(65535, b"abc"))
    bench.give(ip(b"\0\1\0\2\0\7\0", 17, destination=OUTSIDE))
    assert bench.counters.malformed == 5
    bench.give(raw(9, b"abc"))
    assert [datagram[-1] for datagram in taker.taken] == [b"a"], "what is behind is padding"


# To a guest


def sending(port_offload: Offload = Offload.NONE, mtu: int = 1500) -> tuple[Bench, Port]:
    bench = Bench(port_offload, mtu=mtu)
    bench.meet()
    bench.port.take()
    return bench, bench.port


def send(bench: Bench, payload: bytes, mac: bytes | None = None) -> list[dpkt.ethernet.Ethernet]:
    station = bench.stack.neighbours.get(GUEST)
    bench.stack.udp.send(station, OUTSIDE, 53, GUEST, 5000, payload, mac=mac)
    return bench.sent()


@pytest.mark.parametrize("offload", [Offload.NONE, ALL])
@pytest.mark.parametrize("size", [0, 1, 2, 547, 548, 1471, 1472])
def test_a_datagram_arrives_as_it_was_sent(offload: Offload, size: int) -> None:
    bench, _ = sending(offload)
    payload = bytes(n & 0xFF for n in range(size))
    (frame,) = send(bench, payload)
    datagram = frame.data.data
    assert (frame.data.src, frame.data.dst) == (OUTSIDE, GUEST)
    assert (datagram.sport, datagram.dport, datagram.data) == (53, 5000, payload)
    assert datagram.ulen == 8 + size
    assert datagram.sum != 0, "0 would say that there is none"


def test_a_checksum_of_zero_is_written_as_its_twin() -> None:
    bench, _ = sending()
    (frame,) = send(bench, b"\0\0")
    rest = 0xFFFF - frame.data.data.sum  # what the two bytes have to add
    (frame,) = send(bench, (0xFFFF - rest).to_bytes(2, "big"))
    assert frame.data.data.sum == 0xFFFF


@pytest.mark.parametrize("offload", [Offload.NONE, ALL])
@pytest.mark.parametrize(("size", "mtu"), [(1473, 1500), (9000, 1500), (65_507, 1500), (3000, 577)])
def test_a_large_datagram_goes_in_fragments(offload: Offload, size: int, mtu: int) -> None:
    bench, _ = sending(offload, mtu)
    payload = bytes(n * 3 & 0xFF for n in range(size))
    frames = send(bench, payload)
    assert all(len(frame.data) <= mtu for frame in frames)
    body = b""
    for frame in frames:
        assert frame.data.offset * 8 == len(body)
        body += bytes(frame.data.data)
    assert body[8:] == payload
    pseudo = OUTSIDE + GUEST + b"\0\x11" + len(body).to_bytes(2, "big")
    assert dpkt.in_cksum(pseudo + body) == 0


def test_a_broadcast_goes_to_the_mac_that_is_asked_for() -> None:
    for offload in (Offload.NONE, ALL):
        bench, _ = sending(offload)
        (frame,) = send(bench, b"offer", mac=ethernet.BROADCAST)
        assert frame.dst == ethernet.BROADCAST


def test_fragments_come_together() -> None:
    bench, taker = Bench(ALL), Taker()
    bench.stack.udp.forward = taker
    body = udp(bytes(3000), destination=OUTSIDE)[IP + 20 :]
    for at in (1480, 0, 2960):
        piece = body[at : at + 1480]
        offset = at >> 3 | (0x2000 if at < 2960 else 0)
        bench.give(ip(piece, 17, id=3, _flags_offset=offset, destination=OUTSIDE), meta=VALID)
    assert [datagram[-1] for datagram in taker.taken] == [bytes(3000)]
