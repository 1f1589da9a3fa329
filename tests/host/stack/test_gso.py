"""Super-frames cut in software, against dpkt and a naive checksum."""

import socket
import struct
from collections.abc import Iterator

import dpkt
import pytest

from gvproxy.stack import gso
from gvproxy.wire import ethernet, ipv4, tcp, udp
from gvproxy.wire.checksum import pseudo_header
from taplink import vnet

FOUR = (b"\x0a\x00\x00\x01", b"\xc0\xa8\x7f\x02")
SIX = (bytes(15) + b"\x01", b"\xfd" + bytes(14) + b"\x02")
START = {4: ethernet.SIZE + 20, 6: ethernet.SIZE + 40}
ETH = b"\x5a\x94\xef\xe4\x0c\xee" + b"\x02\x00\x00\x00\x00\x01"
TIMESTAMPS = tcp.TIMESTAMPS.pack(tcp.TIMESTAMPS_WORD, 0xFFFFFFFF, 1)


def super_frame(
    family: int,
    size: int,
    *,
    flags: int = tcp.ACK,
    seq: int = 1000,
    ident: int = 0,
    options: bytes = TIMESTAMPS,
    ip_options: bytes = b"",
) -> tuple[bytes, bytes]:
    """Return header and payload as a guest's kernel, or our own path, hands them over."""
    source, destination = FOUR if family == 4 else SIX
    length = tcp.SIZE + len(options) + size
    field = min(length, 0xFFFF)  # as wrong as it can be where the packet is too long
    partial = (pseudo_header(source + destination, ipv4.PROTOCOL_TCP) + length) % 0xFFFF
    bits = (tcp.SIZE + len(options)) << 10 | flags
    transport = tcp.HEADER.pack(80, 4000, seq, 77, bits, 512, partial, 0) + options
    if family == 4:
        total = min(20 + len(ip_options) + length, 0xFFFF)
        ip = ipv4.HEADER.pack(
            0x45 + len(ip_options) // 4, 0, total, ident, 0x4000, 64, 6, 0xBAD, source, destination
        )
        header = ETH + b"\x08\x00" + ip + ip_options + transport
    else:
        ip = struct.pack("!IHBB", 0x60000000, field, ipv4.PROTOCOL_TCP, 64) + source + destination
        header = ETH + b"\x86\xdd" + ip + transport
    return header, bytes(i * 7 % 256 for i in range(size))


def meta(family: int, size: int, *, start: int = 0, ecn: bool = False) -> bytes:
    kind = vnet.GSO_TCPV4 if family == 4 else vnet.GSO_TCPV6
    return vnet.HEADER.pack(
        vnet.F_NEEDS_CSUM,
        kind | (vnet.GSO_ECN if ecn else 0),
        0,
        size,
        start or START[family],
        tcp.CHECKSUM_OFFSET,
        0,
    )


def naive_sum(data: bytes) -> int:
    """RFC 1071, as it is written there."""
    total = 0
    for position in range(0, len(data), 2):
        total += int.from_bytes(data[position : position + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def cut(
    frames: Iterator[tuple[bytes, bytes | memoryview]], protocol: int = socket.IPPROTO_TCP
) -> list[dpkt.ethernet.Ethernet]:
    """Check every checksum and return the frames as dpkt reads them."""
    packets = []
    for header, payload in frames:
        frame = dpkt.ethernet.Ethernet(header + payload)
        ip = frame.data
        if isinstance(ip, dpkt.ip.IP):
            assert naive_sum(bytes(header[14 : 14 + ip.hl * 4])) == 0xFFFF
            assert ip.len == len(header) + len(payload) - 14
            transport = (header + bytes(payload))[14 + ip.hl * 4 :]
        else:
            assert ip.plen == len(header) + len(payload) - 54
            transport = (header + bytes(payload))[54:]
        pseudo = ip.src + ip.dst + struct.pack("!II", len(transport), protocol)
        assert naive_sum(pseudo + transport) == 0xFFFF
        packets.append(frame)
    return packets


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [1449, 2895, 2896, 2897, 10_001, 65_000])
def test_pieces_make_the_payload(family: int, size: int) -> None:
    header, payload = super_frame(family, size, seq=2**32 - 2000)
    packets = cut(gso.complete(meta(family, 1448), header, memoryview(payload)))
    pieces = [packet.data.data for packet in packets]
    assert b"".join(piece.data for piece in pieces) == payload
    assert [len(piece.data) for piece in pieces[:-1]] == [1448] * (len(pieces) - 1)
    seq = 2**32 - 2000
    for piece in pieces:
        assert piece.seq == seq & 0xFFFFFFFF
        assert (piece.ack, piece.win, piece.sport, piece.dport) == (77, 512, 80, 4000)
        assert piece.opts == TIMESTAMPS
        seq += len(piece.data)


@pytest.mark.parametrize("family", [4, 6])
def test_flags_stay_where_they_belong(family: int) -> None:
    """FIN and PSH on the last piece, CWR (RFC 3168) on the first, ECE on each."""
    everything = tcp.ACK | tcp.PSH | tcp.FIN | 0x80 | 0x40
    header, payload = super_frame(family, 4000, flags=everything)
    packets = cut(gso.complete(meta(family, 1448, ecn=True), header, payload))
    assert [packet.data.data.flags for packet in packets] == [
        tcp.ACK | 0xC0,
        tcp.ACK | 0x40,
        tcp.ACK | 0x40 | tcp.PSH | tcp.FIN,
    ]


def test_identification_counts_and_wraps() -> None:
    header, payload = super_frame(4, 4000, ident=0xFFFF)
    packets = cut(gso.complete(meta(4, 1448), header, payload))
    assert [packet.data.id for packet in packets] == [0xFFFF, 0, 1]


def test_ip_options_are_kept() -> None:
    header, payload = super_frame(4, 4000, ip_options=b"\x94\x04\x00\x00")  # router alert
    packets = cut(gso.complete(meta(4, 1448, start=START[4] + 4), header, payload))
    assert [packet.data.opts for packet in packets] == [b"\x94\x04\x00\x00"] * 3


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 1447, 1448])
def test_small_frame_is_only_checksummed(family: int, size: int) -> None:
    header, payload = super_frame(family, size)
    ((head, piece),) = gso.complete(meta(family, 1448), header, payload)
    transport = head[START[family] :] + piece
    addresses = b"".join(FOUR if family == 4 else SIX)
    pseudo = addresses + struct.pack("!II", len(transport), socket.IPPROTO_TCP)
    assert naive_sum(pseudo + transport) == 0xFFFF
    assert len(head) == len(header)


def test_datagram_is_checksummed() -> None:
    """The whole frame as header, as the switch has it."""
    body = struct.pack("!HHHH", 53, 5353, 8 + 5, 0) + b"hello"
    partial = (pseudo_header(b"".join(FOUR), ipv4.PROTOCOL_UDP) + len(body)) % 0xFFFF
    body = body[:6] + partial.to_bytes(2, "big") + body[8:]
    header = ETH + b"\x08\x00" + ipv4.build_header(*FOUR, ipv4.PROTOCOL_UDP, len(body)) + body
    words = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_NONE, 0, 0, 34, 6, 0)
    ((head, rest),) = gso.complete(words, header, b"")
    pseudo = b"".join(FOUR) + struct.pack("!HH", ipv4.PROTOCOL_UDP, len(body))
    assert naive_sum(pseudo + head[34:]) == 0xFFFF
    assert rest == b""


def test_finished_frame_is_left_alone() -> None:
    header, payload = super_frame(4, 4000)
    assert list(gso.complete(vnet.PLAIN, header, payload)) == [(header, payload)]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (4, meta(4, 47)),  # a thousand frames and more
        (4, meta(4, 1448, start=START[4] + 1)),
        (4, meta(4, 1448, start=60000)),
        (4, meta(4, 1448, start=START[4] + 13)),
        (4, meta(6, 1448, start=START[4])),
        (6, meta(4, 1448, start=START[6])),
        (6, meta(6, 1448, start=START[4])),
    ],
)
def test_super_frame_that_is_not_what_it_says_is_dropped(family: int, words: bytes) -> None:
    header, payload = super_frame(family, 4000)
    assert list(gso.complete(words, header, payload)) == []


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", [b"\x81\0", b"\x08\6"])
def test_what_only_looks_like_ip_is_not_cut(kind: bytes, family: int) -> None:
    """A tag's bits can be those of a version: what a piece gets would stand in another header."""
    header, payload = super_frame(family, 4000)
    header = header[:12] + kind + header[14:]
    assert list(gso.complete(meta(family, 1448), header, payload)) == []


def test_too_many_pieces_are_refused() -> None:
    header, payload = super_frame(4, 200 * gso.MAX_PIECES)
    assert len(list(gso.complete(meta(4, 200), header, payload))) == gso.MAX_PIECES
    header, payload = super_frame(4, 200 * gso.MAX_PIECES + 1)
    assert list(gso.complete(meta(4, 200), header, payload)) == []


def test_any_words_of_a_guest_are_survived() -> None:
    """The virtio-net header comes from the guest."""
    header, payload = super_frame(4, 4000)
    for start in range(120):
        for kind in range(8):
            for cut_at in (20, 34, 40, len(header)):
                words = vnet.HEADER.pack(1, kind, 0, 100, start, 16, 0)
                for head, piece in gso.complete(words, header[:cut_at], payload):
                    assert len(head) + len(piece) < 65536


@pytest.mark.parametrize("family", [4, 6])
def test_piece_that_is_no_packet_is_dropped(family: int) -> None:
    """Headers and a piece together must not exceed what the length field can say."""
    header, payload = super_frame(family, 65_540, options=b"")
    assert list(gso.complete(meta(family, 65_530), header, payload)) == []


# UDP


def super_datagram(family: int, size: int, ident: int = 0) -> tuple[bytes, bytes]:
    source, destination = FOUR if family == 4 else SIX
    length = udp.SIZE + size
    partial = (pseudo_header(source + destination, ipv4.PROTOCOL_UDP) + length) % 0xFFFF
    transport = udp.HEADER.pack(4000, 53, length, partial)
    if family == 4:
        ip = ipv4.HEADER.pack(0x45, 0, 20 + length, ident, 0, 64, 17, 0xBAD, source, destination)
        header = ETH + b"\x08\x00" + ip + transport
    else:
        ip = struct.pack("!IHBB", 0x60000000, length, ipv4.PROTOCOL_UDP, 64) + source + destination
        header = ETH + b"\x86\xdd" + ip + transport
    return header, bytes(i * 7 % 256 for i in range(size))


def udp_meta(family: int, size: int, *, start: int = 0) -> bytes:
    place = start or START[family]
    kind, offset = vnet.GSO_UDP_L4, udp.CHECKSUM_OFFSET
    return vnet.HEADER.pack(vnet.F_NEEDS_CSUM, kind, 0, size, place, offset, 0)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [1401, 2799, 2800, 2801, 65_000])
def test_datagrams_make_the_payload(family: int, size: int) -> None:
    header, payload = super_datagram(family, size, ident=0xFFFF)
    packets = cut(gso.complete(udp_meta(family, 1400), header, payload), socket.IPPROTO_UDP)
    datagrams = [packet.data.data for packet in packets]
    assert b"".join(datagram.data for datagram in datagrams) == payload
    assert [len(datagram.data) for datagram in datagrams[:-1]] == [1400] * (len(packets) - 1)
    assert [datagram.ulen for datagram in datagrams] == [len(one.data) + 8 for one in datagrams]
    if family == 4:
        assert [packet.data.id for packet in packets[:3]] == [0xFFFF, 0, 1][: len(packets)]


@pytest.mark.parametrize(
    ("family", "count", "meta"),
    [
        (4, 4000, udp_meta(4, 31)),  # 129 of them
        (4, 4000, udp_meta(4, 1400, start=35)),
        (4, 4000, udp_meta(6, 1400)),
        (6, 4000, udp_meta(4, 1400)),
    ],
)
def test_super_datagrams_that_make_no_sense(family: int, count: int, meta: bytes) -> None:
    header, payload = super_datagram(family, count)
    assert list(gso.complete(meta, header, payload)) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_datagram_that_is_no_packet_is_dropped(family: int) -> None:
    header, payload = super_datagram(family, 65_000)
    assert list(gso.complete(udp_meta(family, 65_510), header, payload + bytes(600))) == []
