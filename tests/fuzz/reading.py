"""A second reading of frames, by the RFCs alone: nothing of the stack's is used for it.

Plain and slow on purpose.  `judge` compares it with what the stack makes of the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dpkt import in_cksum

IPV4, ARP = 0x0800, 0x0806
_IPV6 = 0x86DD
ICMP, TCP, UDP = 1, 6, 17
_TAGS = {0x8100, 0x88A8, 0x9100}
_SNAP = bytes.fromhex("aaaa03000000")
_TCPV4, _TCPV6, _UDP_L4 = 1, 4, 5  # VIRTIO_NET_HDR_GSO_*
_VOUCHED = 3  # VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_DATA_VALID


def number(data: bytes, at: int, size: int = 2) -> int:
    """Return the number that stands at a place."""
    return int.from_bytes(data[at : at + size], "big")


@dataclass(slots=True)
class Packet:
    """An IPv4 packet; `whole` tells that it is no fragment."""

    mac: bytes
    to: bytes
    meta: bytes
    header: bytes
    payload: bytes

    @property
    def ends(self) -> bytes:
        return self.header[12:20]

    @property
    def protocol(self) -> int:
        return self.header[9]

    @property
    def key(self) -> bytes:
        """What the fragments of one packet have in common."""
        return self.ends + self.header[9:10] + self.header[4:6]

    @property
    def offset(self) -> int:
        return (number(self.header, 6) & 0x1FFF) * 8

    @property
    def more(self) -> bool:
        return bool(self.header[6] & 0x20)

    @property
    def whole(self) -> bool:
        return not (self.more or self.offset)

    @property
    def sound(self) -> bool:
        """The header's checksum is right."""
        return bool(in_cksum(self.header) == 0)

    @property
    def vouched(self) -> bool:
        """Its link vouches for the transport's checksum."""
        return bool(self.meta and self.meta[0] & _VOUCHED)

    def sums_up(self, body: bytes) -> bool:
        """Tell whether the checksum of a transport's message is right, with the pseudo-header."""
        pseudo = self.ends + bytes((0, self.protocol)) + len(body).to_bytes(2, "big")
        return self.vouched or bool(in_cksum(pseudo + body) == 0)


@dataclass(slots=True)
class Segment:
    """A TCP segment."""

    seq: int
    flags: int
    data: bytes


def packet(meta: bytes, frame: bytes) -> Packet | None:
    """Read a frame's IPv4 packet; None where there is none."""
    if len(frame) < 34 or number(frame, 12) != IPV4 or frame[6] & 1:
        return None
    body = frame[14:]
    size, total = (body[0] & 15) * 4, number(body, 2)
    if body[0] >> 4 != 4 or size < 20 or not size <= total <= len(body):
        return None
    return Packet(frame[6:12], frame[:6], meta, body[:size], body[size:total])


def is_arp(frame: bytes) -> bool:
    """Tell whether a frame has an ARP packet (RFC 826) of its own sender's."""
    body = frame[14:]
    right = len(body) >= 28 and body[:6] == b"\0\1\x08\0\6\4" and body[8:14] == frame[6:12]
    return number(frame, 12) == ARP and not frame[6] & 1 and right


def segment(one: Packet) -> Segment | None:
    """Read a packet's TCP segment (RFC 9293 §3.1); None where there is none."""
    body = one.payload
    if one.protocol != TCP or len(body) < 20:
        return None
    size = (body[12] >> 4) * 4
    if not 20 <= size <= len(body) or not one.sums_up(body):
        return None
    return Segment(number(body, 4, 4), body[13], body[size:])


def datagram(one: Packet) -> bytes | None:
    """Return the payload of a packet's UDP datagram (RFC 768); None where there is none."""
    body = one.payload
    if one.protocol != UDP or len(body) < 8:
        return None
    size = number(body, 4)
    if not 8 <= size <= len(body):
        return None
    return body[8:size] if not any(body[6:8]) or one.sums_up(body[:size]) else None


def datagrams(one: Packet) -> list[bytes]:
    """Return the payloads of the datagrams that a packet stands for, which may be several."""
    data = datagram(one)
    if data is None:
        return []
    if not one.meta or not one.meta[1]:
        return [data]
    size = int.from_bytes(one.meta[4:6], "little")
    if one.meta[1] != _UDP_L4 or not one.vouched or not size or not data:
        return []
    cut = [data[at : at + size] for at in range(0, len(data), size)]
    return cut if len(cut) <= 128 else []


def message(one: Packet) -> bytes | None:
    """Return a packet's ICMP message (RFC 792); None where there is none."""
    body = one.payload
    return body if one.protocol == ICMP and len(body) >= 8 and in_cksum(body) == 0 else None


def inside(frame: bytes) -> tuple[int, bytes]:
    """Return type and body of a frame as a host takes it that removes tags and LLC's header."""
    kind, body = number(frame, 12), frame[14:]
    while True:
        if kind in _TAGS and len(body) >= 4:
            kind, body = number(body, 2), body[4:]
        elif kind <= 1500 and body[:6] == _SNAP and len(body) >= 8:
            kind, body = number(body, 6), body[8:]
        else:
            return kind, body


def check_cut(meta: bytes, frame: bytes, made: Sequence[bytes]) -> None:
    """Assert that frames are what a network card makes of one whose sender has left that undone."""
    kind, start = meta[1] & 0x7F, int.from_bytes(meta[6:8], "little")
    size, field = int.from_bytes(meta[4:6], "little"), start + int.from_bytes(meta[8:10], "little")
    if not meta[0] & 1:
        assert list(made) == [frame]
        return
    head = start + 8
    if kind in (_TCPV4, _TCPV6):
        head = start + (frame[start + 12] >> 4) * 4
    if kind not in (_TCPV4, _TCPV6, _UDP_L4) or not 0 < size < len(frame) - head:
        (one,) = made
        assert (one[:field], one[field + 2 :]) == (frame[:field], frame[field + 2 :])
        rest = one[start:] + bytes(len(one) - start & 1) + frame[field : field + 2]
        assert field - start & 1 or in_cksum(rest) == 0, "the pseudo-header's sum is gone"
        return
    assert b"".join(one[head:] for one in made) == frame[head:]
    assert {len(one) for one in made[:-1]} == {head + size}
    assert head < len(made[-1]) <= head + size
    assert size >= 48 or kind == _UDP_L4
    assert len(made) <= (128 if kind == _UDP_L4 else 256), "a guest's card is kept busy"
    version = frame[14] >> 4
    assert {IPV4: 4, _IPV6: 6}.get(number(frame, 12)) == version, "no packet is cut"
    assert version in {_TCPV4: (4,), _TCPV6: (6,)}.get(kind, (4, 6))
    whole = frame[26:34] + bytes((0, frame[23])) + (len(frame) - start & 0xFFFF).to_bytes(2, "big")
    right = in_cksum(whole) == in_cksum(frame[field : field + 2])  # the pseudo-header's sum
    for place, one in enumerate(made):
        assert one[:14] == frame[:14]
        assert kind == _UDP_L4 or number(one, start + 4, 4) == (
            number(frame, start + 4, 4) + place * size & 0xFFFFFFFF
        )
        assert kind != _UDP_L4 or number(one, start + 4) == len(one) - start
        if version == 6:
            assert number(one, 18) == len(one) - 54
            continue
        found = packet(b"", one)
        assert found is not None
        assert found.sound
        assert len(one) == 14 + len(found.header) + len(found.payload)
        assert start == 14 + len(found.header)
        assert number(one, 18) == number(frame, 18) + place & 0xFFFF
        assert not right or found.protocol not in (TCP, UDP) or found.sums_up(found.payload)
