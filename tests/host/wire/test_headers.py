"""Headers written and read, with dpkt as the oracle."""

import struct

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvproxy.wire import arp, ethernet, icmp, ipv4, tcp, udp
from gvproxy.wire.checksum import ones_sum, valid

GATEWAY, GUEST = b"\xc0\xa8\x7f\x01", b"\xc0\xa8\x7f\x02"
OURS, THEIRS = b"\x5a\x94\xef\xe4\x0c\xdd", b"\x5a\x94\xef\xe4\x0c\xee"


def test_ethernet() -> None:
    frame = dpkt.ethernet.Ethernet(dst=THEIRS, src=OURS, type=ethernet.TYPE_IPV4, data=b"")
    assert ethernet.HEADER.pack(THEIRS, OURS, ethernet.TYPE_IPV4) == bytes(frame)
    assert ethernet.SIZE == 14
    assert (ethernet.TYPE_IPV4, ethernet.TYPE_ARP, ethernet.TYPE_IPV6) == (
        dpkt.ethernet.ETH_TYPE_IP,
        dpkt.ethernet.ETH_TYPE_ARP,
        dpkt.ethernet.ETH_TYPE_IP6,
    )


@pytest.mark.parametrize(
    ("mac", "group"),
    [(ethernet.BROADCAST, True), (b"\x01\x00\x5e\x00\x00\xfb", True), (OURS, False)],
)
def test_group_addresses(mac: bytes, group: bool) -> None:
    assert ethernet.is_multicast(mac) is group


def test_mac_as_text() -> None:
    assert ethernet.format_mac(OURS) == "5a:94:ef:e4:0c:dd"


@pytest.mark.parametrize("operation", [arp.REQUEST, arp.REPLY])
def test_arp(operation: int) -> None:
    packet = dpkt.arp.ARP(op=operation, sha=OURS, spa=GATEWAY, tha=THEIRS, tpa=GUEST)
    assert arp.build(operation, OURS, GATEWAY, THEIRS, GUEST) == bytes(packet)
    assert arp.PACKET.unpack(bytes(packet))[:4] == arp.PREFIX


@settings(derandomize=True, database=None)
@given(
    length=st.integers(0, 65515),
    identification=st.integers(0, 0xFFFF),
    fragment=st.integers(0, 0xFFFF),
    ttl=st.integers(0, 255),
)
def test_ipv4(length: int, identification: int, fragment: int, ttl: int) -> None:
    header = ipv4.build_header(
        GATEWAY,
        GUEST,
        ipv4.PROTOCOL_UDP,
        length,
        identification=identification,
        fragment=fragment,
        ttl=ttl,
    )
    packet = dpkt.ip.IP(header)
    assert (packet.v, packet.hl, packet.tos, packet.len) == (4, 5, 0, 20 + length)
    assert (packet.id, packet.ttl, packet.p) == (identification, ttl, 17)
    assert (packet.src, packet.dst) == (GATEWAY, GUEST)
    assert struct.unpack_from("!H", header, 6) == (fragment,)
    assert valid(ones_sum(header, 20))


def test_ipv4_packet_is_atomic_unless_told() -> None:
    """RFC 6864 §4.1: no identification with DF."""
    packet = dpkt.ip.IP(ipv4.build_header(GATEWAY, GUEST, ipv4.PROTOCOL_TCP, 0))
    assert (packet.id, packet.df, packet.mf, packet.offset) == (0, 1, 0, 0)


@settings(derandomize=True, database=None)
@given(
    kind=st.integers(0, 255),
    code=st.integers(0, 255),
    rest=st.integers(0, 0xFFFFFFFF),
    body=st.binary(max_size=65),
)
def test_icmp(kind: int, code: int, rest: int, body: bytes) -> None:
    message = icmp.build(kind, code, rest, body)
    assert icmp.HEADER.unpack_from(message)[:2] == (kind, code)
    assert icmp.HEADER.unpack_from(message)[3] == rest
    assert message[icmp.SIZE :] == body
    assert valid(ones_sum(message, len(message)))


def test_echo_as_dpkt_reads_it() -> None:
    message = dpkt.icmp.ICMP(icmp.build(icmp.ECHO_REPLY, 0, 7 << 16 | 9, b"payload"))
    assert (message.type, message.data.id, message.data.seq) == (dpkt.icmp.ICMP_ECHOREPLY, 7, 9)
    assert message.data.data == b"payload"


def test_udp() -> None:
    datagram = dpkt.udp.UDP(sport=53, dport=40000, data=b"hello")
    datagram.ulen = 13
    source, destination, length, total = udp.HEADER.unpack_from(bytes(datagram))
    assert (source, destination, length, total) == (53, 40000, 13, 0)
    assert udp.CHECKSUM_OFFSET == 6


def test_tcp() -> None:
    segment = dpkt.tcp.TCP(
        sport=80, dport=40000, seq=1, ack=2, flags=tcp.SYN | tcp.ACK, win=512, sum=77, urp=3
    )
    assert tcp.HEADER.unpack_from(bytes(segment)) == (80, 40000, 1, 2, 5 << 12 | 0x12, 512, 77, 3)
    assert (tcp.FIN, tcp.SYN, tcp.RST, tcp.PSH, tcp.ACK, tcp.URG) == (
        dpkt.tcp.TH_FIN,
        dpkt.tcp.TH_SYN,
        dpkt.tcp.TH_RST,
        dpkt.tcp.TH_PUSH,
        dpkt.tcp.TH_ACK,
        dpkt.tcp.TH_URG,
    )
    assert struct.unpack_from("!H", bytes(segment), tcp.CHECKSUM_OFFSET) == (77,)
