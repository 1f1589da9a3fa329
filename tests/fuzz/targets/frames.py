"""Frames to the whole stack, of three guests who do as they like, beside one who is honest.

Nothing that they send changes what the honest guest has, or reaches it in another's name
(`tests.fuzz.honest`).  What the stack makes of a frame is what a second reading makes of it
(`tests.fuzz.judge`); all frames of the gateway's are well-formed, and what is kept is bounded
(`tests.fuzz.network`).
"""

import random

from gvproxy.stack.path import TcpPath
from gvproxy.wire import icmp, ipv4, tcp
from taplink import vnet
from tests.fuzz import attacks
from tests.fuzz.cases import join, split
from tests.fuzz.network import HOST, MORE, OFFLOADS, PLAIN, Network
from tests.fuzz.recorder import Recorder, text, with_checksums
from tests.host.services.dhcpclient import message as dhcp_message
from tests.host.stack import bench as lab
from tests.host.stack.bench import GATEWAY, GUEST, MAC, OTHER, OTHER_MAC, OUTSIDE
from tests.host.stack.peer import ACK, FIN, PSH, RST, Peer


def target(data: bytes) -> None:
    """Give the frames of an input to a stack."""
    network = Network()
    for message in split(data):
        network.feed(message)
    network.finish()


def repair(message: bytes, rng: random.Random) -> bytes:
    """Make lengths and checksums of an IPv4 packet right."""
    return with_checksums(message, rng)


# Valid traffic


def _conversation(who: int, dport: int) -> bytes:
    recorder = Recorder()
    peer = recorder.peer(who, dport)
    recorder.acknowledge(peer, peer.give(peer.make(ACK)))
    for body in (b"GET / HTTP/1.1\r\n\r\n", text(1448), text(3), text(1448)):
        recorder.acknowledge(peer, peer.give(peer.data(body)))
        recorder.acknowledge(peer, peer.give(peer.make(ACK)))
    recorder.note(HOST, bytes((0, 3)), passes=7)
    recorder.acknowledge(peer, peer.give(peer.data(b"one"), peer.data(b"two")))
    recorder.acknowledge(peer, peer.give(peer.make(FIN | ACK)))
    peer.seq += 1
    recorder.note(HOST, bytes((2, 3)), passes=9)
    peer.give(peer.make(ACK))
    recorder.note(HOST, bytes((3, 3)), passes=11)
    return join(recorder.case)


def _losses() -> bytes:
    recorder = Recorder()
    peer = recorder.peer(OFFLOADS, 80)
    peer.give(peer.make(ACK))
    one, two, three = (peer.data(text(1000)) for _ in range(3))
    peer.give(one, three)
    recorder.note(OFFLOADS, two, passes=8, meta=lab.VALID)
    for number in range(4):
        sack = tcp.build_sack([(peer.ack + 500, peer.ack + 900 + number)])
        stamps = _stamps(peer)
        recorder.give(_with_options(peer, ACK, stamps + sack), port=peer.port, meta=peer.meta)
    peer.give(peer.make(RST))
    return join(recorder.case)


def _stamps(peer: Peer) -> bytes:
    return tcp.TIMESTAMPS.pack(tcp.TIMESTAMPS_WORD, peer.clock, peer.echo)


def _with_options(peer: Peer, flags: int, options: bytes) -> bytes:
    numbers = {"seq": peer.seq, "ack": peer.ack, "options": options}
    return lab.tcp(flags=flags, **numbers, **peer.where)  # type: ignore[arg-type]


def _super_frames() -> bytes:
    recorder = Recorder()
    peer = recorder.peer(OFFLOADS, 81)
    peer.give(peer.make(ACK))
    size = 20 + 12 + 34
    peer.meta = vnet.HEADER.pack(1, vnet.GSO_TCPV4, size, 1448, 34, 16, 0)
    peer.give(peer.data(text(20000)), peer.data(text(6000)))
    to_plain = lab.tcp(text(8000), mac=OTHER_MAC, source=OTHER, destination=GUEST, to=MAC)
    recorder.note(PLAIN, lab.arp(GATEWAY))
    recorder.note(OFFLOADS, to_plain, meta=vnet.HEADER.pack(1, 1, 54, 1460, 34, 16, 0))
    many = lab.udp(text(5000), mac=OTHER_MAC, source=OTHER, destination=GUEST, to=MAC)
    recorder.note(OFFLOADS, many, meta=vnet.HEADER.pack(1, vnet.GSO_UDP_L4, 42, 1400, 34, 6, 0))
    return join(recorder.case)


def _datagrams(who: int) -> bytes:
    recorder = Recorder()
    where = {"destination": OUTSIDE} | ({"mac": OTHER_MAC, "source": OTHER} if who else {})
    meta = lab.VALID if who else vnet.PLAIN
    for dport in (6000, 6000, 6001):
        recorder.note(who, lab.udp(bytes(100), dport=dport, **where), meta=meta)  # type: ignore[arg-type]
    for size in (100, 100, 60, 1400):
        recorder.note(who | MORE, lab.udp(text(size), **where), meta=meta)  # type: ignore[arg-type]
    many = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_UDP_L4, 42, 1000, 34, 6, 0)
    recorder.note(who, lab.udp(text(9000), **where), meta=many if who else meta)  # type: ignore[arg-type]
    if who:
        first = lab.udp(text(9000), dport=6002, **where)  # type: ignore[arg-type]
        for change in (b"\1\5", b"\0\5", b"\1\1", b"\1\4", b"\2\5"):
            recorder.note(who, first[:37] + b"\x74" + first[38:], meta=change + many[2:])
            recorder.note(who, first, meta=change + many[2:])
        for size in (0, 1, 70, 71, 9000):
            recorder.note(who, first, meta=many[:4] + size.to_bytes(2, "little") + many[6:])
    query = (
        bytes.fromhex("000701000001000000000000")
        + b"\x07gateway\x0acontainers\x08internal\0\0\1\0\1"
    )
    recorder.note(who, lab.udp(query, dport=53, **where | {"destination": GATEWAY}), meta=meta)  # type: ignore[arg-type]
    assert recorder.network.dns.counters.queries == 1
    assert len(recorder.stack.udp.sessions._known) > 1
    recorder.note(who, lab.udp(b"x", dport=9, **where | {"destination": GATEWAY}), meta=meta)  # type: ignore[arg-type]
    return join(recorder.case)


def _control() -> bytes:
    recorder = Recorder()
    recorder.note(PLAIN, lab.arp(GATEWAY))
    recorder.note(PLAIN, lab.echo(bytes(56)))
    recorder.note(PLAIN, lab.echo(bytes(2000), destination=OUTSIDE))
    recorder.note(OFFLOADS, lab.arp(GATEWAY, sender=OTHER, mac=OTHER_MAC))
    recorder.note(OFFLOADS, lab.echo(mac=OTHER_MAC, source=OTHER, destination=GUEST, to=MAC))
    recorder.note(PLAIN, lab.ether(bytes(60), kind=0x86DD, to=b"\x33\x33\0\0\0\1"))
    recorder.note(PLAIN, lab.ip(b"what", 47))
    recorder.note(PLAIN, lab.tcp(flags=2, dport=84, destination=OUTSIDE))
    connection = recorder.network.services[0].connection
    assert connection is not None
    path = connection.path
    assert isinstance(path, TcpPath)
    quote = ipv4.build_header(path.address, path.guest, 6, 20) + path.key[10:12] + path.key[8:10]
    quote += (connection.iss & 0xFFFFFFFF).to_bytes(4, "big")
    for code in (icmp.PORT_UNREACHABLE, icmp.FRAGMENTATION_NEEDED):
        recorder.note(PLAIN, lab.ip(icmp.build(3, code, 1400, quote), 1))
    recorder.note(HOST, bytes((0x81, 0)))
    recorder.note(HOST, bytes((0x80, 1)), passes=12)
    recorder.note(HOST, bytes((0x81, 0)))
    return join(recorder.case)


def _from_the_host() -> bytes:
    """Answer the gateway's SYN, and go on from there."""
    recorder = Recorder()
    guest = recorder.network.guests[PLAIN]
    recorder.note(PLAIN, lab.arp(GATEWAY))
    syn = next(lab.read(frame).data.data for frame in guest.got if frame[23:24] == b"\6")
    where = {"sport": syn.dport, "dport": syn.sport, "window": 60000}
    ack = syn.seq + 1 & 0xFFFFFFFF
    options = b"\2\4\5\xb4\1\1\4\2\1\3\3\7"
    recorder.note(PLAIN, lab.tcp(flags=18, seq=9, ack=ack, options=options, **where))  # type: ignore[arg-type]
    for number in range(3):
        recorder.note(
            PLAIN, lab.tcp(b"login", flags=ACK | PSH, seq=10 + 5 * number, ack=ack, **where)
        )  # type: ignore[arg-type]
    recorder.note(HOST, bytes((1, 0)), passes=4)
    recorder.note(PLAIN, lab.tcp(flags=ACK | FIN, seq=25, ack=ack + 1000, **where))  # type: ignore[arg-type]
    recorder.note(HOST, bytes((4, 0)), passes=4)
    return join(recorder.case)


def _lease() -> bytes:
    recorder = Recorder()
    before = recorder.network.dhcp.counters.acks
    where = {"source": bytes(4), "destination": b"\xff" * 4, "to": b"\xff" * 6, "sport": 68}
    steps = (1, {}), (3, {"wanted": None}), (7, {"server": "192.168.127.1", "ciaddr": None})
    for who, mac, last in ((PLAIN, MAC, 2), (OFFLOADS, OTHER_MAC, 3), (OFFLOADS, OTHER_MAC, 9)):
        for kind, more in steps:
            fields = {key: value or f"192.168.127.{last}" for key, value in more.items()}
            body = dhcp_message(kind, mac, name=b"guest", **fields)  # type: ignore[arg-type]
            recorder.note(who, lab.udp(body, mac=mac, dport=67, **where))  # type: ignore[arg-type]
    assert recorder.network.dhcp.counters.acks == before + 2
    return join(recorder.case)


def seeds() -> dict[str, bytes]:
    """Return conversations of each kind."""
    found = {f"tcp-{dport}": _conversation(PLAIN, dport) for dport in (80, 81, 85, 86)}
    found |= {f"offloads-{dport}": _conversation(OFFLOADS, dport) for dport in (80, 85)}
    return (
        found
        | attacks.seeds()
        | {
            "losses": _losses(),
            "super-frames": _super_frames(),
            "datagrams": _datagrams(PLAIN),
            "datagrams-offloads": _datagrams(OFFLOADS),
            "control": _control(),
            "from-the-host": _from_the_host(),
            "lease": _lease(),
        }
    )
