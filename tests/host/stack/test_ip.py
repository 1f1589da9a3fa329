"""IPv4 and ICMP: what is taken, what is answered and from whom, fragments, errors and quotes."""

import dpkt
import pytest

from gvproxy.stack.ip import EchoRequest
from gvproxy.wire import ethernet, icmp

from .bench import (
    ALL,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    MAC,
    OTHER,
    OUTSIDE,
    VALID,
    VIRTUAL,
    Bench,
    break_at,
    echo,
    ip,
    tcp,
    udp,
)

IP = ethernet.SIZE
ICMP = dpkt.ip.IP_PROTO_ICMP


def pattern(size: int) -> bytes:
    return bytes(n * 7 & 0xFF for n in range(size))


def whole(frames: list[dpkt.ethernet.Ethernet]) -> bytes:
    """Put fragments together; none of them may be larger than the MTU or leave a hole."""
    body, last = b"", False
    for frame in frames:
        packet = frame.data
        assert len(packet) <= 1500
        assert not last
        assert packet.offset * 8 == len(body)
        assert packet.id == frames[0].data.id
        last = not packet.mf
        body += bytes(packet.data)
    assert last
    return body


@pytest.mark.parametrize("destination", [GATEWAY, VIRTUAL])
@pytest.mark.parametrize("size", [0, 1, 56, 57, 1471, 1472])
def test_a_ping_is_answered_from_the_address_it_was_for(destination: bytes, size: int) -> None:
    bench = Bench()
    (reply,) = bench.give(
        echo(pattern(size), identifier=0xFFFF, sequence=3, destination=destination)
    )
    packet = reply.data
    assert (reply.dst, reply.src) == (MAC, GATEWAY_MAC)
    assert (packet.src, packet.dst) == (destination, GUEST)
    assert packet.data.type == dpkt.icmp.ICMP_ECHOREPLY
    assert (packet.data.data.id, packet.data.data.seq) == (0xFFFF, 3)
    assert packet.data.data.data == pattern(size)
    assert bench.counters.echo_requests == 1


@pytest.mark.parametrize("size", [1473, 1480, 1481, 2953, 20_001, 65_507])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_large_ping_comes_in_fragments_and_goes_in_fragments(size: int, backwards: bool) -> None:
    bench = Bench()
    body = icmp.build(icmp.ECHO_REQUEST, 0, 7 << 16 | 1, pattern(size))
    frames = [
        ip(
            body[at : at + 1480],
            ICMP,
            id=77,
            _flags_offset=at >> 3 | (0x2000 if at + 1480 < len(body) else 0),
        )
        for at in range(0, len(body), 1480)
    ]
    answer = bench.give(*(reversed(frames) if backwards else frames))
    message = whole(answer)
    assert message[0] == icmp.ECHO_REPLY
    assert message[8:] == pattern(size)
    assert bench.counters.fragments_in == len(frames)
    assert bench.counters.reassembled == 1
    assert bench.counters.fragments_out == (len(answer) if len(answer) > 1 else 0)


def test_fragments_of_two_pings_do_not_mix() -> None:
    bench = Bench()
    one, two = (echo(bytes((n,)) * 2000)[IP + 20 :] for n in (1, 2))

    def piece(body: bytes, ident: int, part: int) -> bytes:
        at, more = (0, 0x2000) if not part else (1480, 0)
        return ip(body[at : at + 1480], ICMP, id=ident, _flags_offset=at >> 3 | more)

    frames = bench.give(piece(one, 1, 0), piece(two, 2, 0), piece(two, 2, 1), piece(one, 1, 1))
    assert whole(frames[:2])[8:] == b"\2" * 2000
    assert whole(frames[2:])[8:] == b"\1" * 2000
    assert frames[0].data.id != frames[2].data.id


def test_a_ping_outside_is_handed_on() -> None:
    bench, requests = Bench(), []

    def forward(request: EchoRequest, now: float) -> None:
        requests.append(request)

    bench.stack.ip.forward_echo = forward
    assert bench.give(echo(b"abc", identifier=9, sequence=2, destination=OUTSIDE)) == []
    (request,) = requests
    assert (request.identifier, request.sequence, request.payload) == (9, 2, b"abc")
    assert request.packet.destination == OUTSIDE


@pytest.mark.parametrize(
    "frame",
    [
        echo(to=ethernet.BROADCAST),
        echo(destination=b"\xff" * 4, to=ethernet.BROADCAST),
        ip(bytes(dpkt.icmp.ICMP(type=0, data=dpkt.icmp.ICMP.Echo())), ICMP),
        ip(icmp.build(icmp.UNREACHABLE, 3, 0, bytes(28)), ICMP),
    ],
)
def test_no_other_icmp_is_answered(frame: bytes) -> None:
    bench = Bench()
    bench.stack.ip.forward_echo = lambda request, now: pytest.fail("handed on")
    assert bench.give(frame) == []
    assert bench.counters.icmp_in == 1


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        (break_at(echo(), IP + 10), "ip_checksum_errors"),
        (break_at(echo(), IP + 30), "malformed"),
        (echo(source=OUTSIDE), "ip_invalid_source"),
        (echo(source=GATEWAY), "addresses_spoofed"),
        (echo(source=VIRTUAL), "addresses_spoofed"),
        (echo(source=bytes(4)), "ip_invalid_source"),
        (echo(source=GATEWAY[:3] + b"\xff"), "addresses_spoofed"),
        (tcp(source=bytes(4)), "ip_invalid_source"),
        (echo(v=6), "malformed"),
        (echo(hl=4), "malformed"),
        (echo(hl=15), "malformed"),
    ],
)
def test_what_is_wrong_is_counted_and_dropped(frame: bytes, counter: str) -> None:
    bench = Bench()
    assert bench.give(frame) == []
    assert getattr(bench.counters, counter) == 1
    assert bench.counters.echo_requests == 0


def test_a_length_beyond_the_frame_is_malformed() -> None:
    bench = Bench()
    frame = echo(bytes(100))
    assert bench.give(frame[:-1], frame[: IP + 19], frame[:IP]) == []
    assert bench.counters.malformed == 3


def test_padding_behind_a_packet_is_no_part_of_it() -> None:
    (reply,) = Bench().give(echo(b"abc") + bytes(20))
    assert reply.data.data.data.data == b"abc"


def test_options_are_skipped() -> None:
    (reply,) = Bench().give(echo(b"abc", opts=b"\x94\x04\0\0", hl=6))
    assert reply.data.data.data.data == b"abc"


# Errors


def test_an_unknown_protocol_is_unreachable_and_quoted() -> None:
    """RFC 1122 §3.2.2.1: the header with its options, and eight bytes."""
    bench = Bench()
    frame = ip(pattern(40), 132, destination=OUTSIDE, opts=b"\x94\x04\0\0", hl=6)
    (error,) = bench.give(frame)
    assert (error.data.src, error.data.dst) == (OUTSIDE, GUEST)
    message = error.data.data
    assert (message.type, message.code) == (3, dpkt.icmp.ICMP_UNREACH_PROTO)
    assert bytes(message)[8:] == frame[IP : IP + 24 + 8]
    assert bench.counters.unknown_protocol == 1


@pytest.mark.parametrize(
    "frame",
    [
        ip(bytes(8), 132, to=ethernet.BROADCAST),
        ip(bytes(8), 132, destination=b"\xff" * 4),
        ip(bytes(8), 132, destination=b"\xe0\0\0\1"),
        ip(bytes(8), 132, destination=GATEWAY[:3] + b"\xff"),
        ip(bytes(8), 132, destination=bytes(4)),
        ip(bytes(8), 132, destination=b"\0\0\0\5"),
    ],
)
def test_no_error_is_sent_about_a_broadcast(frame: bytes) -> None:
    """Not from a group address either, whatever MAC it came to, nor from one of "this network",
    which nobody sends from (RFC 1122 §3.2.2, §3.2.1.3)."""
    bench = Bench()
    assert bench.give(frame) == []
    assert bench.counters.unknown_protocol == 1


def test_an_error_about_fragments_quotes_the_transport_header() -> None:
    """Whichever fragment came last: a guest finds its socket by the ports."""
    bench = Bench()
    body = udp(pattern(2000), destination=GATEWAY)[IP + 20 :]
    first = ip(body[:1480], 17, id=5, _flags_offset=0x2000)
    last = ip(body[1480:], 17, id=5, _flags_offset=1480 >> 3)
    for frames in ((first, last), (last, first)):
        (error,) = bench.give(*frames)
        quote = bytes(error.data.data)[8:]
        assert quote[20:] == body[:8]
        assert quote[12:20] == GUEST + GATEWAY


def test_trust_in_checksums_covers_no_icmp() -> None:
    """What a link vouches for is TCP and UDP; a ping's checksum is always there."""
    bench = Bench(ALL)
    assert bench.give(break_at(echo(), IP + 30), meta=VALID) == []
    assert bench.counters.malformed == 1


def test_reassembled_packets_are_not_trusted() -> None:
    bench = Bench(ALL)
    body = break_at(udp(pattern(2000), dport=53), IP + 20 + 100)[IP + 20 :]
    frames = [
        ip(body[:1480], 17, id=5, _flags_offset=0x2000),
        ip(body[1480:], 17, id=5, _flags_offset=1480 >> 3),
    ]
    assert bench.give(*frames, meta=VALID) == []
    assert bench.counters.udp_checksum_errors == 1


def test_broken_fragments_are_counted() -> None:
    bench = Bench()
    bench.give(ip(bytes(9), 17, id=5, _flags_offset=0x2000))
    assert bench.counters.reassembly_failures == 1


def test_a_guest_reaches_another_address_of_the_subnet_only_by_itself() -> None:
    """The gateway routes nothing between guests: they are neighbours."""
    bench = Bench()
    seen = []
    bench.stack.ip.forward_echo = lambda request, now: seen.append(request.packet.destination)
    assert bench.give(echo(destination=OTHER)) == []
    assert seen == [OTHER], "for the flows, which close it"
