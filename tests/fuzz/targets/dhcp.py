"""DHCP from both sides: guests' messages to the server, and a server's to the agent's client.

The first message says whose turn it is.  No address is leased twice, or one that is not to be; what
the client takes is a lease that a machine can have, and it never asks in a tight loop.
"""

import random
from ipaddress import IPv4Address, IPv4Interface
from struct import Struct

from dpkt import dhcp

from gvproxy.config import configure
from gvproxy.limits import Limit, Quota
from gvproxy.services.dhcp import _LABEL, _NO_NAMES, DhcpServer
from tests.fuzz.budget import within
from tests.fuzz.cases import join, split
from tests.fuzz.mutation import Repair
from tests.guest import server as lab
from tests.host.services.dhcpclient import message
from vsock_tap.dhcp import Client, Ignored, Lost
from vsock_tap.lease import Lease
from vsock_tap.relay import MAX_DHCP_FRAME

repair: Repair | None = None

_HEAD = Struct("!BB")  # what happens, and the time that passes first
_PASSES = (0, 0, 0, 1, 5, 20, 61, 400, 1800, 3601, 20_000)
_CONFIG = configure(subnet="192.168.127.0/28")
_RESERVED = {_CONFIG.gateway_ip, _CONFIG.host_ip, *_CONFIG.virtual_ips}
_SEEN = {int(IPv4Address("192.168.127.7")): b"\2\0\0\0\0\7"}
"""An address that a guest has by hand."""
_LARGEST = 65507
_LIMIT = Limit(8, 8)


def target(data: bytes) -> None:
    """Say what an input says to the server, or to the client."""
    first, *messages = split(data) or [b""]
    (_to_client if first[:1] == b"\1" else _to_server)(messages)


def _to_server(messages: list[bytes]) -> None:
    now = 1000.0
    server = DhcpServer(
        _CONFIG, lambda now: ["example.org", "example.com"], _SEEN.get, Quota(_LIMIT)
    )
    for one in messages:
        _, passes = _HEAD.unpack(one[:2].ljust(2, b"\0"))
        now += _PASSES[passes % len(_PASSES)]
        with within():
            reply = server.handle(one[2 : 2 + _LARGEST], now=now)
        if reply is not None:
            assert 300 <= len(reply.payload) <= 548
            assert len(reply.destination) == 4
            assert len(reply.mac) == 6
            answer = dhcp.DHCP(reply.payload)
            assert answer.op == dhcp.DHCP_OP_REPLY
            if answer.yiaddr:
                assert IPv4Address(answer.yiaddr) in _CONFIG.subnet
                assert IPv4Address(answer.yiaddr) not in _RESERVED
                assert answer.yiaddr not in _SEEN or answer.chaddr[:6] == _SEEN[answer.yiaddr]
        _look_at_leases(server, now)


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
        lease = client.lease
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
                    client.receive(frame, now=now)
        _look_at_client(client, now)


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


def _look_at_client(client: Client, now: float) -> None:
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
            _look_at_lease(event.lease)
    assert events <= 2


def _look_at_lease(lease: Lease) -> None:
    network = IPv4Interface((lease.address, lease.prefix_length)).network
    assert network.network_address < lease.address < network.broadcast_address
    assert lease.router is None or lease.router in network
    assert lease.duration >= 10
    assert str(lease).isprintable()
    for name in lease.search:
        assert name.isascii()
        assert not set(name) & set(" \t\n\r#;"), "a word of resolv.conf is more than one"


# Valid traffic


def _said(*messages: bytes, passes: int = 0) -> list[bytes]:
    return [_HEAD.pack(0, passes) + one for one in messages]


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
    return {
        "lease": join([b"\0", *lease]),
        "leases": join([b"\0", *lease, *others]),
        "client": join([b"\1", *answers, *later]),
        "client-calls": join([b"\1", *answers, *calls, *answers]),
        "client-infinite": join([b"\1", answers[0], _HEAD.pack(ANSWER, 1) + infinite, later[1]]),
    }
