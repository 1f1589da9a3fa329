"""What a guest may think of to harm another, or the gateway: seeds for the frames target."""

from collections.abc import Iterator
from typing import Any

from gvproxy.stack.path import TcpPath
from gvproxy.wire import icmp, ipv4, tcp
from gvproxy.wire.checksum import ones_sum
from taplink import vnet
from tests.fuzz import honest
from tests.fuzz.cases import join
from tests.fuzz.network import HEAD, MORE, OFFLOADS, PLAIN
from tests.fuzz.recorder import Recorder, text, with_checksums
from tests.host.stack import bench as lab
from tests.host.stack.bench import GATEWAY, GUEST, MAC, OTHER, OTHER_MAC, OUTSIDE
from tests.host.stack.peer import ACK, FIN, PSH, RST
from tests.host.stack.test_sourceguard import snap, tagged


def seeds() -> dict[str, bytes]:
    """Return attacks by name."""
    return {
        "fragments": _fragments(),
        "fragments-small": _small_fragments(),
        "fragments-many": _many_fragments(),
        "robbery": _robbery(),
        "forgery": _forgery(),
        "crowd": _crowd(),
        "odd-offloads": _odd_offloads(),
        "amiss": _amiss(PLAIN),
        "amiss-offloads": _amiss(OFFLOADS),
        "unreachables": _unreachables(),
    }


def _fragments() -> bytes:
    recorder = Recorder()
    packet = lab.udp(text(3000), destination=OUTSIDE)
    body = packet[34:]
    for start in (0, 1480, 2960):
        recorder.note(PLAIN, _fragment(body[start : start + 1480], start, start < 2960))
    recorder.note(PLAIN, lab.ip(body[:1480], 17, destination=OUTSIDE, _flags_offset=0x2000, id=8))
    return join(recorder.case)


def _small_fragments() -> bytes:
    """Of one packet, without a checksum: in order, backwards, amiss; and answered pings."""
    recorder = Recorder()
    ports = bytes.fromhex("1388 1770")  # 5000 to 6000
    body = ports + (37).to_bytes(2, "big") + bytes(2) + text(29)
    places = (0, 8, 24, 32)
    pieces = [(body[a:b], a) for a, b in zip(places, (*places[1:], 37), strict=True)]
    orders = pieces, pieces[::-1], [*pieces[:2], *pieces[:1], *pieces[2:]]
    for ident, order in enumerate(orders):
        for piece, start in order:
            recorder.note(PLAIN, _fragment(piece, start, start < 32, id=ident))
    amiss = (
        ((8, 16, False), (16, 24, True)),  # something behind the end, nothing before
        ((0, 16, True), (8, 16, True), (24, 40, False)),  # an overlap
        ((0, 13, True), (16, 40, False)),  # not of whole words
        ((0, 16, True), (0, 0, True), (16, 40, False)),  # an empty one
        ((0, 16, False), (16, 40, False)),  # two ends
        ((0, 40000, True), (40000, 65544, False)),  # more than a packet has room for
    )
    for ident, some in enumerate(amiss, 100):
        for start, end, more in some:
            piece = (body * 2000)[start:end]
            recorder.note(PLAIN, _fragment(piece, start, more, id=ident))
    for number in range(10):  # never complete
        recorder.note(PLAIN, _fragment(body[:16], 0, True, id=200 + number), passes=number % 3 * 4)
    recorder.note(PLAIN, _fragment(body[16:], 16, False, id=209), passes=13)  # 31 s
    for number, size in enumerate((40, 65520)):
        whole = icmp.build(icmp.ECHO_REQUEST, 0, 1, text(size))
        half = size // 16 * 8
        for start, end in ((0, half), (half, size + 8)):
            piece = whole[start:end]
            recorder.note(PLAIN, _fragment(piece, start, not start, protocol=1, id=300 + number))
    valid = len(orders) + 2  # one of those amiss is whole without its empty fragment
    assert recorder.stack.counters.reassembled == valid
    return join(recorder.case)


def _many_fragments() -> bytes:
    """More of one packet than are kept of one."""
    recorder = Recorder()
    frames = [_fragment(bytes(8), 8 * number, True) for number in range(130)]
    for frame in frames[:-1]:
        recorder.note(PLAIN | MORE, frame)
    recorder.note(PLAIN, frames[-1])
    return join(recorder.case)


def _fragment(piece: bytes, start: int, more: bool, *, protocol: int = 17, id: int = 7) -> bytes:
    fields: dict[str, Any] = {"_flags_offset": start >> 3 | (0x2000 if more else 0), "id": id}
    return lab.ip(piece, protocol, destination=OUTSIDE, **fields)


def _robbery() -> bytes:
    """Use the honest guest's addresses, the gateway's, and those of nobody."""
    recorder = Recorder()
    where: dict[str, Any] = {"mac": OTHER_MAC, "to": honest.MAC}
    victim = {"destination": honest.ADDRESS, "to": honest.MAC}
    names = (
        honest.ADDRESS,
        honest.LEASED,
        GATEWAY,
        b"\xff" * 4,
        bytes((*GATEWAY[:3], 0)),
        bytes(4),
        OTHER,
    )
    for name in names:
        for frame in (
            lab.arp(honest.ADDRESS, sender=name, mac=OTHER_MAC, operation=2, to=honest.MAC),
            lab.arp(GATEWAY, sender=name, mac=OTHER_MAC),
            lab.udp(source=name, destination=honest.ADDRESS, **where),
            lab.echo(source=name, mac=OTHER_MAC),
        ):
            recorder.note(OFFLOADS, frame, meta=lab.VALID)
    asked = lab.arp(honest.ADDRESS, sender=OTHER, mac=OTHER_MAC, to=honest.MAC)
    recorder.note(OFFLOADS, lab.arp(OTHER, sender=OTHER, mac=OTHER_MAC, to=honest.MAC, hrd=6))
    recorder.note(OFFLOADS, lab.arp(OTHER, sender=OTHER, mac=OTHER_MAC, to=honest.MAC, sha=MAC))
    short = lab.udp(text(8), source=OTHER, **(where | victim))
    for frame, sizes in (
        (asked, (14, 20, 41)),
        (tagged(asked, (0x8100, 0)), (14, 15, 17, 18, 45)),
        (snap(asked), (14, 19, 20, 21, 22, 49)),
        (short, (33, 34, 35, 37, 38, 41)),
    ):
        for size in sizes:
            recorder.note(OFFLOADS, frame[:size])
    lies: dict[str, Any] = {"mac": OTHER_MAC, "sha": honest.MAC, "sender": honest.ADDRESS}
    recorder.note(OFFLOADS, lab.arp(GATEWAY, **lies))
    own: dict[str, Any] = {"source": OTHER, "mac": OTHER_MAC} | victim
    for sport, dport in ((67, 68), (67, 5000), (5000, 68), (5000, 5000)):
        answer = lab.udp(text(60), sport=sport, dport=dport, **own)
        for frame in (answer, tagged(answer, (0x8100, 0)), snap(answer)):
            recorder.note(OFFLOADS, frame)
    stolen = lab.arp(GATEWAY, sender=honest.ADDRESS, mac=OTHER_MAC)
    for frame in (stolen, snap(stolen), *(tagged(stolen, *[(0x8100, 0)] * n) for n in (1, 4, 5))):
        recorder.note(OFFLOADS, frame)
    for mac in (honest.MAC, lab.GATEWAY_MAC, b"\1\0\x5e\0\0\1"):
        recorder.note(OFFLOADS, lab.echo(mac=mac, source=OTHER))
        recorder.note(OFFLOADS, lab.arp(GATEWAY, sender=OTHER, mac=mac))
    return join(recorder.case)


def _forgery() -> bytes:
    """Speak on the honest guest's connections."""
    recorder = Recorder()
    victim = recorder.network.honest
    recorder.note(PLAIN, lab.arp(GATEWAY))
    recorder.note(PLAIN, honest.DATAGRAM)
    recorder.note(PLAIN, honest.DATAGRAM.replace(honest.MAC, MAC))
    opened = (service.connection for service in recorder.network.services)
    for connection in (*victim.connections, *opened):
        assert connection is not None
        path = connection.path
        assert isinstance(path, TcpPath)
        seq = connection.snd_una & 0xFFFFFFFF
        quote = ipv4.build_header(path.address, path.guest, 6, 20)
        quote += path.key[10:12] + path.key[8:10] + seq.to_bytes(4, "big")
        for code in (icmp.PORT_UNREACHABLE, icmp.FRAGMENTATION_NEEDED):
            recorder.note(PLAIN, lab.ip(icmp.build(3, code, 1000, quote), 1))
        numbers: dict[str, Any] = {
            "sport": path.guest_port,
            "dport": path.port,
            "seq": connection.rcv_nxt & 0xFFFFFFFF,
            "ack": connection.snd_nxt & 0xFFFFFFFF,
            "options": tcp.TIMESTAMPS.pack(tcp.TIMESTAMPS_WORD, 1000, 0),
        }
        for flags in (ACK | PSH, RST | ACK, FIN | ACK, 2):
            for mac in (MAC, honest.MAC):
                where: dict[str, Any] = {
                    "source": honest.ADDRESS,
                    "destination": path.address,
                    "mac": mac,
                }
                recorder.note(PLAIN, lab.tcp(b"evil", flags=flags, **numbers, **where))
    return join(recorder.case)


def _crowd() -> bytes:
    """Fill the tables, and wait until what was silent may be forgotten."""
    recorder = Recorder()
    for number in range(10):
        mac, source = b"\2\0\0\0\0" + bytes((number,)), bytes((*GATEWAY[:3], 100 + number))
        recorder.note(PLAIN, lab.arp(GATEWAY, sender=source, mac=mac))
        recorder.note(PLAIN, lab.udp(text(9), mac=mac, source=source, destination=OUTSIDE))
    recorder.note(PLAIN, lab.arp(GATEWAY, sender=honest.ADDRESS), passes=15)
    recorder.note(PLAIN, lab.arp(GATEWAY, sender=honest.ADDRESS), passes=12)
    for number in range(10, 12):
        mac = b"\2\0\0\0\0" + bytes((number,))
        recorder.note(
            PLAIN, lab.arp(GATEWAY, sender=bytes((*GATEWAY[:3], 100)), mac=mac), passes=11
        )
    recorder.note(PLAIN, lab.arp(GATEWAY, mac=honest.MAC), passes=11)
    recorder.note(PLAIN, lab.echo(mac=honest.MAC, source=honest.ADDRESS))
    return join(recorder.case)


def _odd_offloads() -> bytes:
    """Leave work undone for other guests, in ways that no kernel does."""
    recorder = Recorder()
    recorder.note(PLAIN, lab.arp(GATEWAY))
    where: dict[str, Any] = {"mac": OTHER_MAC, "source": OTHER, "destination": GUEST, "to": MAC}
    segment, datagram = lab.tcp(text(900), **where), lab.udp(text(900), **where)
    lengths = [segment[:46] + bytes((value,)) + segment[47:] for value in (0, 0x40, 0x60, 0xF0)]
    frames = (segment, segment[:34], segment[:40], segment[:54], *lengths, datagram, datagram[:40])
    places = ((0, 0), (13, 16), (33, 16), (34, 6), (34, 16), (34, 60), (35, 6), (34, 2000))
    for frame in frames:
        for kind in (vnet.GSO_NONE, vnet.GSO_TCPV4, vnet.GSO_TCPV6, vnet.GSO_UDP_L4, 0x81, 3):
            for start, offset in places:
                meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, kind, 0, 100, start, offset, 0)
                recorder.note(OFFLOADS, frame, meta=meta)
    for kind, offset, frame in ((vnet.GSO_TCPV4, 16, segment), (vnet.GSO_UDP_L4, 6, datagram)):
        for size in (0, 1, 2, 47, 48, 899, 900, 1600, 65535):
            for first in (0x45, 0x44, 0x46, 0x65, 0x55):
                meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, kind, 0, size, 34, offset, 0)
                changed = frame[:14] + bytes((first,)) + frame[15:]
                recorder.note(OFFLOADS, changed, meta=meta)
    large = lab.tcp(text(60000), **where)
    for size in (48, 100, 234, 235):
        meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_TCPV4, 0, size, 34, 16, 0)
        recorder.note(OFFLOADS, large, meta=meta, passes=10)
    for frame, kind, offset in ((datagram, vnet.GSO_UDP_L4, 6), (segment, vnet.GSO_TCPV4, 16)):
        for size in (100, 449, 450, 899):
            meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, kind, 0, size, 34, offset, 0)
            recorder.note(OFFLOADS, _with_pseudo_sum(frame, 34 + offset), meta=meta)
    recorder.note(OFFLOADS, b"\2\0\0\0\0\x77" + segment[6:])  # to nobody
    for frame, field in overwriting():
        meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, 0, 0, 0, field, 0, 0)
        recorder.note(OFFLOADS, frame, meta=meta)
    for inside in (b"\x81\0\x60\0", b"\x81\0\x4a\0", b"\x81\0\x45\0"):
        for start in (34, 38, 54, 58):
            meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_UDP_L4, 0, 100, start, 6, 0)
            recorder.note(OFFLOADS, datagram[:12] + inside + datagram[12:], meta=meta)
    return join(recorder.case)


def overwriting() -> Iterator[tuple[bytes, int]]:
    """Give frames for the honest guest whose checksum, at a place, would say another sender."""
    own: dict[str, Any] = {"mac": OTHER_MAC, "to": honest.MAC}
    reply = lab.arp(honest.ADDRESS, sender=OTHER, operation=2, **own)
    packet = lab.udp(source=OTHER, destination=honest.ADDRESS, **own)
    tag = 0x8100, 0
    for frame, field, value in (
        (tagged(reply, tag), 34, GATEWAY[2:]),
        (snap(packet), 36, GATEWAY[2:]),
        (tagged(packet, tag, tag), 36, GATEWAY[2:]),
        (packet, 28, GATEWAY[2:]),
        (packet, 10, honest.MAC[4:]),
        (packet[:12] + b"\0\x24\x66\x66\3\0\0\0" + reply[12:], 14, b"\xaa\xaa"),
    ):
        even = frame + bytes(len(frame) & 1)
        rest = 0xFFFF - int.from_bytes(value, "big") - ones_sum(even[field:], len(even) - field)
        yield even + (rest % 0xFFFF).to_bytes(2, "big"), field


def _with_pseudo_sum(frame: bytes, field: int) -> bytes:
    """Leave a frame's checksum to others: only the pseudo-header's sum is there."""
    pseudo = frame[26:34] + bytes((0, frame[23])) + (len(frame) - 34).to_bytes(2, "big")
    total = ones_sum(pseudo, len(pseudo))
    return frame[:field] + total.to_bytes(2, "big") + frame[field + 2 :]


def _amiss(who: int) -> bytes:
    """What is wrong in one place, by its checksums or by its lengths; no link vouches for it."""
    recorder = Recorder()
    own: dict[str, Any] = {"mac": OTHER_MAC, "source": OTHER} if who else {}
    peer = recorder.peer(who, 80)
    peer.give(peer.make(ACK))
    good = peer.make(ACK | PSH, b"sixteen bytes ...")
    stray = lab.tcp(flags=2, dport=88, destination=OUTSIDE, **own)
    ping = lab.echo(text(20), destination=OUTSIDE, **own)
    small = lab.udp(text(40), destination=OUTSIDE, **own)
    recorder.note(who, small)
    for frame in (small, good):
        recorder.note(who, honest.MAC + frame[6:])
        recorder.note(who, b"\xff" * 6 + frame[6:])
        for place, value in ((20, 0x20), (21, 1), (23, 47)):
            recorder.note(who, _mended(frame, place, value))
    for frame, protocol in ((good, 6), (stray, 6), (small, 17), (ping, 1)):
        at = {6: 16, 17: 6, 1: 2}[protocol] + 34
        for place in (at, 24):  # the transport's checksum, and IP's
            recorder.note(who, lab.break_at(frame, place))
        for place, value in ((14, 0x65), (14, 0x44), (14, 0x4F), (16, 0xFF), (17, 19)):
            recorder.note(who, _mended(frame, place, value))
    for value in (0x40, 0x00, 0xF0):  # TCP's data offset
        for frame in (good, stray):
            recorder.note(who, _mended(frame, 46, value))
    for length in (0, 7, 8, 47, 49, 255):  # UDP's
        recorder.note(who, _mended(small, 39, length))
        recorder.note(who, small[:39] + bytes((length, 0, 0)) + small[42:])
    empty = _mended(small[:39] + b"\x08" + small[40:], 17, 28)
    recorder.note(who, empty + bytes(40))
    if who:  # where the link vouches for the checksum, lengths have to be right all the same
        for total, length in (
            (68, 28),
            (68, 47),
            (68, 49),
            (68, 90),
            (200, 180),
            (69, 49),
            (67, 47),
        ):
            changed = _mended(small[:39] + bytes((length,)) + small[40:], 17, total)
            recorder.note(who, changed, meta=lab.VALID)
    mac, sender = (OTHER_MAC, OTHER) if who else (MAC, GUEST)
    request = lab.arp(GATEWAY, mac=mac, sender=sender)
    for end in (0, 13, 14, 20, 33, 41):
        recorder.note(who, good[:end])
        recorder.note(who, request[:end])
    for frame in (good, small):
        for size in (20, 28, 39, 40, 51):
            recorder.note(who, _mended(frame, 17, size))
    for size in (19, 20, 21, 24, 27, 28, 39, 67, 69):
        for frame in (good, stray, small, ping, lab.ip(b"whatever", 47, **own)):
            recorder.note(who, _mended(frame[: 14 + max(size, 20)], 17, size))
    recorder.note(who, lab.tcp(flags=2, dport=88, destination=OUTSIDE, to=b"\xff" * 6, **own))
    recorder.note(who, lab.echo(destination=OUTSIDE, to=b"\xff" * 6, **own))
    for destination in (GATEWAY, OUTSIDE):
        recorder.note(who, lab.udp(destination=destination, to=b"\xff" * 6, dport=10, **own))
        recorder.note(who, lab.udp(**own | {"source": bytes(4)}, destination=destination, dport=10))
    recorder.note(who, lab.ip(b"whatever", 47, to=b"\xff" * 6, **own))
    for send in (lab.udp, lab.echo, lab.tcp):
        recorder.note(who, send(**own | {"source": b"\x0a\0\0\1"}, destination=OUTSIDE))
    for group in (b"\xff" * 4, b"\xe0\0\0\1", bytes((*GATEWAY[:3], 255)), bytes(4)):
        recorder.note(who, lab.tcp(flags=2, dport=88, destination=group, **own))
        recorder.note(who, lab.ip(b"whatever", 47, destination=group, **own))
    for flags in (2, ACK, RST, FIN | ACK):
        recorder.note(who, lab.tcp(flags=flags, dport=9, **own))
    return join(recorder.case)


def _mended(frame: bytes, place: int, value: int) -> bytes:
    """Put a byte into a frame, and make its checksums right."""
    changed = frame[:place] + bytes((value,)) + frame[place + 1 :]
    if place == 17:  # the length's low byte; what is cut off is short
        changed = frame[:16] + bytes((0, value)) + frame[18:]
    message = HEAD.pack(0, 0, vnet.PLAIN) + changed
    return with_checksums(message)[HEAD.size :]


def _unreachables() -> bytes:
    """Quote segments of one's own connection: on its way or not, whole or cut off."""
    recorder = Recorder()
    peer = recorder.peer(PLAIN, 85)  # which sends as much as it may
    peer.give(peer.make(ACK))
    connection = recorder.network.services[-1].connection
    assert connection is not None
    path = connection.path
    assert isinstance(path, TcpPath)
    header = ipv4.build_header(path.address, path.guest, 6, 20) + path.key[10:12] + path.key[8:10]
    places = connection.snd_una - 1, connection.snd_nxt, connection.iss, connection.snd_una
    for seq in places:
        quote = header + (seq & 0xFFFFFFFF).to_bytes(4, "big")
        for size in (0, 1, 9, 10, 19, 20, 23, 24, 27, 28):
            message = icmp.build(3, icmp.FRAGMENTATION_NEEDED, 1400, quote[:size])
            recorder.note(PLAIN, lab.ip(message, 1))
    for first in (b"\x65", b"\x44", b"\x4f"):
        message = icmp.build(3, icmp.FRAGMENTATION_NEEDED, 1000, first + quote[1:])
        recorder.note(PLAIN, lab.ip(message, 1))
    return join(recorder.case)
