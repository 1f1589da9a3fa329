"""Segments out: headers against dpkt, super-frames, and what a port without offloads gets."""

import socket

import dpkt
import pytest

from gvproxy.stack.path import TcpPath
from gvproxy.stack.port import Station
from gvproxy.wire import ethernet
from taplink import vnet
from taplink.vnet import Offload

from .bench import ALL, GATEWAY_MAC, GUEST, MAC, OTHER_MAC, OUTSIDE, Port, read

KEY = GUEST + OUTSIDE + (5000).to_bytes(2, "big") + (80).to_bytes(2, "big")
OPTIONS = b"\1\1\x08\x0a" + bytes(range(8))


def make(offload: Offload = Offload.NONE) -> tuple[TcpPath, Port]:
    port = Port(offload)
    station = Station(MAC, port, 0.0)
    return TcpPath(GATEWAY_MAC, KEY, station, lambda path: pytest.fail("asked for")), port


@pytest.mark.parametrize("offload", [ALL, Offload.CSUM, Offload.NONE])
@pytest.mark.parametrize("options", [b"", OPTIONS])
@pytest.mark.parametrize("size", [0, 1, 1447, 1448])
def test_a_segment_says_what_it_was_told_to(offload: Offload, options: bytes, size: int) -> None:
    path, port = make(offload)
    payload = bytes(n & 0xFF for n in range(size))
    path.send(0xFFFFFFFF, 0x80000001, 0x18, 0xFFFF, options, payload, 1448)
    (frame,) = map(read, port.take())
    packet, segment = frame.data, frame.data.data
    assert (frame.dst, frame.src) == (MAC, GATEWAY_MAC)
    assert (packet.src, packet.dst, packet.ttl) == (OUTSIDE, GUEST, 64)
    assert packet.df
    assert packet.id == 0
    assert (segment.sport, segment.dport) == (80, 5000)
    assert (segment.seq, segment.ack) == (0xFFFFFFFF, 0x80000001)
    assert (segment.flags, segment.win) == (0x18, 0xFFFF)
    assert (segment.opts, segment.data) == (options, payload)


def test_every_checksum_comes_out_right() -> None:
    """Sums that are about to wrap: each value of the last word, and both parities."""
    path, port = make()
    for word in range(0, 65536, 251):
        for size in (2, 3):
            path.send(word << 16, 0, 0x10, word, b"", bytes(size), 1460)
    assert len([read(frame) for frame in port.take()]) == 2 * 262


@pytest.mark.parametrize("mss", [1448, 536])
def test_a_large_payload_leaves_as_one_super_frame(mss: int) -> None:
    path, port = make(ALL)
    payload = bytes(40_000)
    path.send(1, 2, 0x18, 100, OPTIONS, payload, mss)
    ((meta, frame),) = port.sent
    flags, kind, header, size, start, offset, _ = vnet.HEADER.unpack(meta)
    assert (flags, kind, size) == (vnet.F_NEEDS_CSUM, vnet.GSO_TCPV4, mss)
    assert header == len(frame) - len(payload)
    assert frame[start : start + 2] == (80).to_bytes(2, "big")
    assert start + offset == 14 + 20 + 16
    assert int.from_bytes(frame[16:18], "big") == len(frame) - 14


@pytest.mark.parametrize("offload", [Offload.NONE, Offload.CSUM, Offload.CSUM | Offload.TSO6])
@pytest.mark.parametrize("mss", [1448, 537])
def test_it_is_cut_for_a_guest_that_takes_none(offload: Offload, mss: int) -> None:
    path, port = make(offload)
    payload = bytes(n * 5 & 0xFF for n in range(40_000))
    path.send(2**32 - 500, 2, 0x19, 100, OPTIONS, payload, mss)
    packets = [read(frame).data for frame in port.take()]
    segments = [packet.data for packet in packets]
    assert b"".join(segment.data for segment in segments) == payload
    assert {len(segment.data) for segment in segments[:-1]} == {mss}
    assert segments[1].seq == mss - 500
    assert [segment.flags for segment in segments[-2:]] == [0x10, 0x19]
    assert [packet.id for packet in packets] == list(range(len(packets)))
    assert {segment.opts for segment in segments} == {OPTIONS}


def test_what_fits_one_segment_keeps_its_flags() -> None:
    path, port = make()
    for size in (0, 1, 1448):
        path.send(7, 2, 0x19, 100, OPTIONS, bytes(size), 1448)
    assert [read(frame).data.data.flags for frame in port.take()] == [0x19] * 3


def test_a_change_of_mss_changes_the_super_frame() -> None:
    path, port = make(ALL)
    for mss in (1448, 1000, 1448):
        path.send(1, 2, 0x10, 100, OPTIONS, bytes(5000), mss)
    assert [vnet.HEADER.unpack(meta)[3] for meta, _ in port.sent] == [1448, 1000, 1448]


def test_without_a_station_it_is_asked_for() -> None:
    asked: list[TcpPath] = []
    path = TcpPath(GATEWAY_MAC, KEY, None, asked.append)
    path.send(1, 0, 2, 100, b"", b"", 1460)
    assert asked == [path]
    assert not path.congested
    port = Port()
    path.attach(Station(MAC, port, 0.0))
    path.send(1, 0, 2, 100, b"", b"", 1460)
    assert len(port.take()) == 1


def test_a_station_is_followed_to_its_port_and_another_can_be_attached() -> None:
    path, old = make()
    assert path.station is not None
    path.station.port = new = Port(ALL)
    path.send(1, 0, 0x10, 100, b"", bytes(5000), 1460)
    assert (len(old.sent), len(new.sent)) == (0, 1)
    path.attach(Station(OTHER_MAC, old, 0.0))
    path.send(1, 0, 0x10, 100, b"", b"", 1460)
    (frame,) = map(read, old.take())
    assert frame.dst == OTHER_MAC
    assert path.eth_in == ethernet.HEADER.pack(GATEWAY_MAC, OTHER_MAC, ethernet.TYPE_IPV4)


def test_congestion_is_the_ports() -> None:
    path, port = make()
    assert not path.congested
    port.congested = True
    assert path.congested


@pytest.mark.parametrize("size", [0, 1, 2, 1448])
def test_verify_tells_a_good_checksum_from_a_bad_one(size: int) -> None:
    path, _ = make()
    body = bytes(n * 11 & 0xFF for n in range(size))
    segment = dpkt.tcp.TCP(sport=5000, dport=80, seq=1, flags=16, data=body)
    packet = dpkt.ip.IP(src=GUEST, dst=OUTSIDE, p=socket.IPPROTO_TCP, data=segment)
    packet.len = len(packet)
    frame = bytes(14) + bytes(packet) + b"behind it"
    end = len(frame) - 9
    assert path.verify(memoryview(frame), 34, end)
    for position in range(34, end, 7):
        bad = frame[:position] + bytes((frame[position] ^ 1,)) + frame[position + 1 :]
        assert not path.verify(memoryview(bad), 34, end)
