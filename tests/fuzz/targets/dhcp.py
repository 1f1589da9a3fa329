"""DHCP from both sides: guests' messages to the server, and a server's to the agent's client.

The first message says whose turn it is.  No address is leased twice, or one that is not to be, and
none is lost by what another says; a message is answered where it is one, as its type asks for.
What the client takes is an ACK of its own, a lease that a machine can have, and it never asks in a
tight loop.  Options are read once more here, by RFC 2132 alone.
"""

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from struct import Struct

from dpkt import dhcp

from gvproxy.config import Config, configure
from gvproxy.limits import Limit, Quota
from gvproxy.services.dhcp import _LABEL, _NO_NAMES, DhcpServer, Reply
from gvproxy.stack.port import Station
from tests.fuzz.budget import within
from tests.fuzz.cases import join, split
from tests.guest import server as lab
from tests.host.services.dhcpclient import message
from tests.host.stack.bench import Port
from vsock_tap.dhcp import Bound, Client, Ignored, Lost
from vsock_tap.lease import Lease
from vsock_tap.relay import MAX_DHCP_FRAME

_HEAD = Struct("!BB")  # what happens, or who sends, and the time that passes first
_ANOTHER, _GUESTS = 0x80, 0x03
"""Of a client's message: its frame is another's; and whose it is."""
_PASSES = (0, 0, 0, 1, 5, 20, 61, 400, 1800, 3601, 20_000)
_CONFIG = configure(subnet="192.168.127.0/28")
_OPEN = configure(subnet="192.168.127.0/28", source_checks=False)
_RESERVED = {_CONFIG.gateway_ip, _CONFIG.host_ip, *_CONFIG.virtual_ips}
_SEEN = {int(IPv4Address("192.168.127.7")): b"\2\0\0\0\0\7"}
"""An address that a guest has by hand."""
_LARGEST = 65507
_LIMIT = Limit(8, 8)
_COOKIE = bytes.fromhex("63825363")
_OPTIONS = 240
_ETHERNET, _NO_HOSTS = b"\1\6", tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))
_ANSWERS = {1: (2,), 3: (5, 6), 8: (5,)}
"""What a client's message may be answered with: RFC 2131 §3.1, §3.4."""


def target(data: bytes) -> None:
    """Say what an input says to the server, or to the client."""
    first, *messages = split(data) or [b""]
    if first[:1] == b"\1":
        _to_client(messages)
    else:
        _to_server(messages, there=first[1:2] != b"\1", config=_OPEN if first[2:] else _CONFIG)


def options(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Go through a message's options: code, and where their bytes begin and end."""
    at = _OPTIONS
    while at + 1 < len(message) and message[at] != 255:
        if not message[at]:
            at += 1
            continue
        end = at + 2 + message[at + 1]
        yield message[at], at + 2, end
        at = end


def _read(message: bytes) -> dict[int, bytes]:
    """Return what the options say, of which one may come in several parts (RFC 3396)."""
    found: dict[int, bytes] = {}
    for code, begin, end in options(message):
        found[code] = found.get(code, b"") + message[begin:end]
    return found


def repair(message: bytes, rng: random.Random) -> bytes:
    """Give an option, or the client's address, a value that means something, now and then."""
    found = message.find(_COOKIE)
    if found < _OPTIONS - 4 or rng.random() < 0.4:
        return message
    start = found - _OPTIONS + 4
    head, body = message[:start], bytearray(message[start:])
    places = [(0, at, at + 4) for at in (12, 16)]
    _, begin, end = rng.choice([*places, *options(bytes(body))])
    value = rng.choice(_VALUES)
    if end - begin == 1:
        value = bytes((rng.randint(0, 9),))
    elif begin >= _OPTIONS and rng.random() < 0.2:
        value = value[: rng.randint(0, 3)]
        body[begin - 1] = len(value)
    elif end - begin != len(value):
        return message
    body[begin:end] = value
    return head + bytes(body)


_VALUES = [
    IPv4Address(f"192.168.127.{last}").packed for last in (0, 1, 2, 3, 4, 7, 14, 15, 16, 254, 255)
]
_VALUES += [
    (0xFFFFFFFF << 32 - size & 0xFFFFFFFF).to_bytes(4, "big") for size in (0, 1, 24, 30, 31, 32)
]
_VALUES += [n.to_bytes(4, "big") for n in (1, 5, 11, 3600, 0x7F000001, 0xFF00FF00, 0xE0000001)]
"""Addresses at the edges of the network, masks, and times."""


def _to_server(messages: list[bytes], *, there: bool, config: Config) -> None:
    """Let clients speak; with `there` all guests are attached, and what each has is its own."""
    now = 1000.0
    server = DhcpServer(
        config, lambda now: ["example.org", "example.com"], _SEEN.get, Quota(_LIMIT)
    )
    server.is_there = lambda mac: there
    ports = [Port() for _ in range(_GUESTS + 1)]
    for port in ports:
        port.attached = True
    for one in messages:
        who, passes = _HEAD.unpack(one[:2].ljust(2, b"\0"))
        now += _PASSES[passes % len(_PASSES)]
        said = one[2 : 2 + _LARGEST]
        mac = said[28:34] if not who & _ANOTHER else b"\2another"[:6]
        held = {lease.address: lease.mac for lease in server.bound(now)}
        with within():
            reply = server.handle(said, now=now, sender=Station(mac, ports[who & _GUESTS], now))
        after = {lease.address: lease.mac for lease in server.bound(now)}
        if there and config.source_checks:
            lost = {address for address, owner in held.items() if after.get(address) != owner}
            assert all(held[address] == mac for address in lost), "another has taken an address"
        if (mac != said[28:34] and config.source_checks) or not _is_request(said):
            assert reply is None, "what is no message of the sender's is answered"
            assert after == held
        if reply is not None:
            _look_at_reply(said, reply)
        _look_at_leases(server, now)


def _is_request(said: bytes) -> bool:
    """Tell whether it is a message of a client's, whose options are as long as they have to be."""
    if not _OPTIONS <= len(said) <= 1472 or said[:1] != b"\1" or said[1:3] != _ETHERNET:
        return False
    kind = _read(said).get(53, b"")
    return said[236:240] == _COOKIE and not said[28] & 1 and len(kind) == 1


def _look_at_reply(said: bytes, reply: Reply) -> None:
    assert 300 <= len(reply.payload) <= 548
    assert len(reply.destination) == 4
    assert reply.mac in (said[28:34], b"\xff" * 6)
    asked, given = _read(said), _read(reply.payload)
    for code in (50, 54):
        assert len(asked.get(code, bytes(4))) == 4, "an address of another size"
    assert len(asked.get(61, bytes(2))) >= 2, "an identifier that is too short"
    assert asked.get(54, _CONFIG.gateway_ip.packed) in (_CONFIG.gateway_ip.packed, bytes(4)) or (
        asked[53][0] != 3
    ), "another server was chosen"
    assert given[53][0] in _ANSWERS[asked[53][0]]
    assert reply.payload[4:8] == said[4:8]
    assert reply.payload[28:34] == said[28:34]
    answer = dhcp.DHCP(reply.payload)
    assert answer.op == dhcp.DHCP_OP_REPLY
    if asked[53] == b"\x08":
        assert IPv4Address(said[12:16]) in _CONFIG.subnet, "settings of another's network"
    if answer.yiaddr:
        assert given[1] == _CONFIG.subnet.netmask.packed
        assert IPv4Address(answer.yiaddr) in _CONFIG.subnet
        assert IPv4Address(answer.yiaddr) not in _RESERVED
        assert answer.yiaddr not in _SEEN or answer.chaddr[:6] == _SEEN[answer.yiaddr]
        wanted = asked.get(50) or bytes(4)
        wanted = wanted if any(wanted) else said[12:16]
        assert asked[53][0] != 3 or reply.payload[16:20] == wanted


def _look_at_leases(server: DhcpServer, now: float) -> None:
    table = server._table
    assert len(table) == table._quota.used
    assert len(table) <= _LIMIT.total + len(_CONFIG.static_leases), "too many leases are kept"
    for number, lease in table._by_address.items():
        assert lease.address == number
        assert lease.key is None or table._by_key[lease.key] is lease
    assert all(table._by_address[one.address] is one for one in table._by_key.values())
    assert all(table._by_address[one.address] is one for one in table._by_name.values())
    bound = server.bound(now)
    assert len({lease.key for lease in bound}) == len(bound)
    for lease in bound:
        address = IPv4Address(lease.address)
        assert address in _CONFIG.subnet
        assert address not in _RESERVED
        assert not lease.mac[0] & 1
        if lease.name:
            assert _LABEL.fullmatch(lease.name)
            assert lease.name not in _NO_NAMES
        static = _CONFIG.static_leases.get(address)
        assert static is None or static == lease.mac, "another's own address"
    server.leases(now=now)


FRAME, ANSWER, DOWN, UP, RELEASE, REFUSE = range(6)


def _to_client(messages: list[bytes]) -> None:
    now = 1000.0
    client = Client(bytes.fromhex("5a94efe40cee"), random.Random(1), "guest")
    client.link_up(now=now)
    for one in messages:
        what, passes = _HEAD.unpack(one[:2].ljust(2, b"\0"))
        now = _pass_time(client, now, _PASSES[passes % len(_PASSES)])
        lease, answer = client.lease, b""
        with within():
            match what % 6:
                case 2:
                    client.link_down()
                case 3:
                    client.link_up(now=now)
                case 4:
                    client.release()
                case 5 if lease is not None:
                    client.refuse(lease, now=now)
                case kind:
                    frame = one[2 : 2 + MAX_DHCP_FRAME]
                    if kind == ANSWER:  # the transaction's number, which a server has seen
                        frame = frame[:46] + client._xid.to_bytes(4, "big") + frame[50:]
                    answer = frame if frame[46:50] == client._xid.to_bytes(4, "big") else b""
                    client.receive(frame, now=now)
        _look_at_client(client, now, answer)


def _pass_time(client: Client, now: float, seconds: float) -> float:
    end, fired = now + seconds, 0
    while (due := client.next_timer()) is not None and due <= end:
        now = max(now, due)
        with within():
            client.timer_fired(now=now)
        fired += 1
        assert fired <= 10 + seconds, "the client asks and asks"
        _look_at_client(client, now)
    return end


def _look_at_client(client: Client, now: float, answer: bytes = b"") -> None:
    """Look at what the client says and tells; `answer` is a frame of its transaction."""
    frames = client.frames_to_send()
    assert len(frames) <= 2
    for frame in frames:
        assert lab.dhcp_of(frame) is not None
    events = 0
    while (event := client.next_event()) is not None:
        events += 1
        if isinstance(event, Lost | Ignored):
            assert event.reason.isprintable()
        else:
            assert isinstance(event, Bound)
            _look_at_lease(event.lease)
            _is_granted(event.lease, answer)
    assert events <= 2


def _look_at_lease(lease: Lease) -> None:
    network = IPv4Interface((lease.address, lease.prefix_length)).network
    assert 1 <= lease.prefix_length <= 30
    for host in (lease.address, lease.router or lease.address):
        assert network.network_address < host < network.broadcast_address
        assert not any(host in none for none in _NO_HOSTS)
    assert lease.router != lease.address
    assert lease.duration >= 10
    assert str(lease).isprintable()
    for name in lease.search:
        assert name.isascii()
        assert not set(name) & set(" \t\n\r#;"), "a word of resolv.conf is more than one"


def _is_granted(lease: Lease, frame: bytes) -> None:
    """Assert that a server's ACK, in a frame, has what the lease says."""
    assert frame[12:14] == b"\x08\0"
    assert not any((frame[20] & 0x3F, frame[21])), "a fragment"
    assert frame[23] == 17
    start = 14 + (frame[14] & 15) * 4
    assert frame[start : start + 4] == b"\0\x43\0\x44"
    message = frame[start + 8 : start + int.from_bytes(frame[start + 4 : start + 6], "big")]
    assert message[0] == 2
    assert message[236:240] == _COOKIE
    found = _read(message)
    assert found[53][:1] == b"\5"
    assert lease.address.packed == message[16:20]
    assert found[54][:4] == lease.server.packed
    mask = int.from_bytes(found[1], "big")
    assert mask == 0xFFFFFFFF << 32 - lease.prefix_length & 0xFFFFFFFF
    assert lease.router is None or lease.router.packed in found[3]
    assert len(found[51]) == 4


# Valid traffic


def _said(*messages: bytes, passes: int = 0) -> list[bytes]:
    return [_HEAD.pack(0, passes) + one for one in messages]


def _odd() -> list[bytes]:
    """Return messages of clients that are amiss in one place, and some that ask for too much."""
    good = bytearray(message(3, 5, wanted="192.168.127.5", server="192.168.127.1"))
    said = []
    for place, value in ((0, 2), (1, 6), (2, 5), (28, 3), (236, 0), (241, 2), (242, 9)):
        one = bytearray(good)
        one[place] = value
        said.append(bytes(one))
    said += [message(3, 5, wanted=f"192.168.127.{last}") for last in (0, 1, 2, 7, 14, 15, 16, 254)]
    said += [message(1, 5, wanted=f"192.168.127.{last}") for last in (0, 1, 2, 7, 14, 15, 16, 254)]
    for kind in (b"\x35\0", b"\x35\2\3\0"):
        said.append(bytes(good).replace(b"\x35\1\3", kind))
    said.append(message(3, 5, wanted="192.168.127.5", server="192.168.127.9"))
    said += [message(1, number) for number in range(30, 42)]  # more than there is room for
    said.append(message(3, 5, wanted="192.168.127.5", identifier=b"1"))
    said += [message(8, 5, ciaddr=address) for address in ("0.0.0.0", "10.0.0.1")]
    said += [message(3, 5), bytes(good[:200]), bytes(good) + bytes(1500)]
    at = bytes(good).index(b"\x32\4")
    said += [bytes(good[:at]) + b"\x32\3\xc0\xa8\x7f" + bytes(good[at + 6 :])]
    return _said(*said)


def _theft() -> list[bytes]:
    """Return what may come to the mind of one who wants what another has."""
    ours, first = "192.168.127.1", "192.168.127.3"
    has = _said(message(3, 1, wanted=first, identifier=b"\1one", name=b"one"))
    tries = [
        message(3, 2, wanted=first),
        message(3, 2, wanted=first, identifier=b"\1one"),
        message(1, 2, wanted=first, identifier=b"\1one", name=b"one"),
        message(7, 2, ciaddr=first, server=ours, identifier=b"\1one"),
        message(4, 2, wanted=first, server=ours, identifier=b"\1one"),
        message(7, 1, ciaddr=first, identifier=b"\1one"),
        message(4, 1, wanted=first, identifier=b"\1one"),
    ]
    own = [message(7, 1, ciaddr=first, server=ours, identifier=b"\1one")]
    return [*has, *_said(*tries), *(b"\x80\0" + one for one in own + tries), *_said(*own)]


def _edges(asked: dhcp.DHCP) -> list[bytes]:
    """Return answers that grant what no machine can have, or to nobody."""
    ack = lab.ACK
    changes: list[dict[int, bytes]] = [{1: mask} for mask in _VALUES[11:]]
    changes += [{3: b"".join(_VALUES[:4])}, {3: _VALUES[0]}, {3: _VALUES[2]}, {3: _VALUES[10]}]
    changes += [{code: b""} for code in (1, 51, 53, 54)] + [{51: bytes(4)}]
    changes += [{3: b"\x7f\0\0\1"}, {3: b"\x0a\0\0\1"}]
    answers = [lab.answer(asked, ack, options=one) for one in changes]
    hosts = [f"192.168.127.{last}" for last in (0, 1, 255)] + ["0.0.0.5", "127.0.0.5", "224.0.0.5"]
    answers += [lab.answer(asked, ack, host) for host in hosts]
    good = lab.answer(asked, ack)
    places = ((12, 9), (20, 0x20), (21, 1), (23, 6), (35, 68), (37, 67), (42, 1), (278, 0))
    answers += [good[:place] + bytes((value,)) + good[place + 1 :] for place, value in places]
    return answers + [good[:size] for size in (41, 42, 200, 280)]


def seeds() -> dict[str, bytes]:
    """Return conversations with either."""
    ours = "192.168.127.1"
    first, second = "192.168.127.3", "192.168.127.4"
    lease = _said(
        message(1, name=b"guest"),
        message(3, wanted=first, server=ours, name=b"guest"),
        message(3, ciaddr=first, name=b"guest"),
        message(8, ciaddr=first),
    )
    others = [
        *_said(message(1, 2, identifier=b"\1two"), message(3, 2, wanted=second, name=b"guest")),
        *_said(message(3, 3, wanted=first, fqdn=b"\4\0\0\5three\0"), passes=3),
        *_said(message(4, 2, wanted=second, server=ours, identifier=b"\1two")),
        *_said(message(7, 1, ciaddr=first, server=ours), passes=4),
        *_said(message(1, bytes.fromhex("5a94efe40cee"), flags=0x8000)),
        *_said(message(1, b"\2\0\0\0\0\7", wanted="192.168.127.7")),
        *_said(*(message(1, number) for number in range(10, 24)), passes=6),
        *_said(
            *(message(3, number, wanted=f"192.168.127.{number - 5}") for number in range(10, 18))
        ),
    ]
    client = Client(bytes.fromhex("5a94efe40cee"), random.Random(1), "guest")
    client.link_up(now=1000.0)
    asked = lab.dhcp_of(client.frames_to_send()[0])
    assert asked is not None
    search = {119: b"\3one\7example\0\3two\xc0\4", 15: b"example.org", 26: b"\5\xdc"}
    offer, ack, nak = (
        lab.answer(asked, kind, options=search) for kind in (lab.OFFER, lab.ACK, lab.NAK)
    )
    answers = [_HEAD.pack(ANSWER, 0) + one for one in (offer, ack)]
    later = [_HEAD.pack(ANSWER, passes) + one for passes, one in ((8, ack), (8, nak), (9, ack))]
    calls = [_HEAD.pack(what, 3) for what in (DOWN, UP, REFUSE, RELEASE, UP)]
    infinite = lab.answer(
        asked, lab.ACK, options={51: b"\xff" * 4, 58: b"\0\0\0\5", 59: b"\0\0\0\7"}
    )
    begun = [_HEAD.pack(RELEASE, 0), _HEAD.pack(UP, 0), _HEAD.pack(ANSWER, 0) + offer]
    edges = [part for one in _edges(asked) for part in (*begun, _HEAD.pack(ANSWER, 0) + one)]
    return {
        "odd": join([b"\0", *_odd()]),
        "odd-unchecked": join([b"\0\1\1", *_odd()]),
        "theft": join([b"\0", *_theft()]),
        "theft-from-the-absent": join([b"\0\1", *_theft()]),
        "client-edges": join([b"\1", *edges]),
        "client-cut": join(
            [b"\1", *(_HEAD.pack(FRAME, 0) + offer[:n] for n in (0, 14, 20, 24, 41))]
        ),
        "lease": join([b"\0", *lease]),
        "leases": join([b"\0", *lease, *others]),
        "client": join([b"\1", *answers, *later]),
        "client-calls": join([b"\1", *answers, *calls, *answers]),
        "client-infinite": join([b"\1", answers[0], _HEAD.pack(ANSWER, 1) + infinite, later[1]]),
    }
