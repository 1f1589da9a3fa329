"""Attacks over IPv6: who is taken for a router, or for a DHCPv6 server."""

import struct
from collections.abc import Callable

import pytest

from gvproxy.stack.raguard import MAX_EXTENSIONS
from gvproxy.wire import ethernet

from .attack import MALLORY_MAC, Scene, make, snap, tagged
from .bench import ALL, GATEWAY_MAC, MAC, Bench, ether

ALL_NODES = bytes.fromhex("333300000001")
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
TCP, UDP, ESP, ICMP, SCTP = 6, 17, 50, 58, 132
ECHO, SOLICITATION, ADVERTISEMENT, NEIGHBOUR, NEIGHBOUR_IS, REDIRECT = 128, 133, 134, 135, 136, 137

Hide = Callable[[int, bytes], tuple[int, bytes]]
"""Put something between the fixed header and what is of a protocol."""


@pytest.fixture
def scene() -> Scene:
    return make()


def ip6(kind: int, payload: bytes, *, to: bytes = ALL_NODES) -> bytes:
    source, destination = (bytes.fromhex("fe80") + bytes(13) + bytes((last,)) for last in (3, 2))
    fixed = struct.pack("!IHBB", 6 << 28, len(payload), kind, 255)
    body = fixed + source + destination + payload
    return ether(body, kind=ethernet.TYPE_IPV6, mac=MALLORY_MAC, to=to)


def icmp(kind: int) -> tuple[int, bytes]:
    return ICMP, struct.pack("!BBHI", kind, 0, 0, 0) + bytes(16)


def udp(sport: int, dport: int) -> tuple[int, bytes]:
    return UDP, struct.pack("!HHHH", sport, dport, 12, 0) + bytes(4)


def options(kind: int, size: int = 8) -> Hide:
    """Return an extension header of a kind."""
    return lambda inner, payload: (kind, bytes((inner, size // 8 - 1)).ljust(size, b"\0") + payload)


def authenticated(inner: int, payload: bytes) -> tuple[int, bytes]:
    return AUTHENTICATION, bytes((inner, 4)).ljust(24, b"\0") + payload


def fragment(offset: int = 0, *, more: bool = True) -> Hide:
    return lambda inner, payload: (
        FRAGMENT,
        struct.pack("!BBHI", inner, 0xFF, offset << 3 | more, 7) + payload,
    )


def hidden(inside: tuple[int, bytes], *how: Hide) -> tuple[int, bytes]:
    """Hide behind several headers, the innermost first."""
    for hide in how:
        inside = hide(*inside)
    return inside


LIES = {
    "advertisement": icmp(ADVERTISEMENT),
    "redirect": icmp(REDIRECT),
    "server": udp(547, 546),
    "server at another port": udp(5000, 546),
    "relay": udp(547, 547),
}
WAYS: dict[str, list[Hide]] = {
    "plain": [],
    "hop by hop": [options(HOP_BY_HOP)],
    "long options": [options(DESTINATION, 2048)],
    "routing": [options(ROUTING, 24)],
    "authentication": [authenticated],
    "mobility": [options(135)],
    "experiment": [options(253)],
    "atomic fragment": [fragment(more=False)],
    "first fragment": [fragment()],
    "options in a fragment": [options(DESTINATION), fragment()],
    "fragment behind options": [fragment(), options(DESTINATION, 512), options(HOP_BY_HOP)],
    "as many as there may be": [options(DESTINATION)] * MAX_EXTENSIONS,
}
COVERS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda frame: frame,
    "priority tag": lambda frame: tagged(frame, (0x8100, 0)),
    "two tags": lambda frame: tagged(frame, (0x88A8, 5), (0x8100, 6)),
    "LLC": snap,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lie", LIES)
def test_nobody_is_a_router_or_a_server(scene: Scene, lie: str, way: str) -> None:
    """What a victim would take its router or its resolver from."""
    frame = ip6(*hidden(LIES[lie], *WAYS[way]))
    assert scene.attack(frame) == []
    counters = scene.bench.counters
    routing = lie in ("advertisement", "redirect")
    assert (counters.routers_refused, counters.dhcp_servers_refused) == (routing, not routing)


@pytest.mark.parametrize("cover", COVERS)
@pytest.mark.parametrize("to", [ALL_NODES, MAC])
def test_it_is_found_in_tags_and_where_one_victim_is_meant(
    scene: Scene, to: bytes, cover: str
) -> None:
    for lie in LIES.values():
        assert scene.attack(COVERS[cover](ip6(*lie, to=to))) == []
    assert (scene.bench.counters.routers_refused, scene.bench.counters.malformed) == (2, 0)


def test_what_is_refused_is_told_once_a_minute(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.attack(*[ip6(*lie) for lie in LIES.values()] * 3)
    assert caplog.messages == [
        "guest 1 (5a:94:ef:e4:0c:ef) acts as an IPv6 router, and is refused: no guest is another's",
        "guest 1 (5a:94:ef:e4:0c:ef) answers DHCPv6 clients, and is refused: "
        "no guest is their server",
    ]


@pytest.mark.parametrize(
    "inside",
    [
        hidden(LIES["advertisement"], *[options(DESTINATION)] * (MAX_EXTENSIONS + 1)),
        hidden(LIES["server"], *[options(DESTINATION)] * (MAX_EXTENSIONS + 1)),
        fragment()(*options(DESTINATION, 16)(ICMP, b"")),  # the rest of the chain comes later
        fragment()(DESTINATION, bytes((ICMP, 5)) + bytes(6)),
        fragment()(DESTINATION, b""),
        fragment()(UDP, b"\x02\x23\x02"),
        (ICMP, b""),
        (HOP_BY_HOP, bytes(7)),
    ],
)
def test_what_cannot_be_seen_is_refused(scene: Scene, inside: tuple[int, bytes]) -> None:
    """RFC 7113 §3: hosts put together what they are sent in pieces."""
    assert scene.attack(ip6(*inside)) == []
    assert scene.bench.counters.malformed == 1


@pytest.mark.parametrize(
    "inside",
    [
        *(icmp(kind) for kind in (ECHO, SOLICITATION, NEIGHBOUR, NEIGHBOUR_IS)),
        (TCP, struct.pack("!HH", 547, 546) + bytes(16)),
        udp(546, 547),
        udp(5353, 5353),
        hidden(icmp(143), options(HOP_BY_HOP)),  # a multicast listener's report, RFC 3810
        hidden(icmp(ECHO), fragment()),
        fragment(181)(ICMP, bytes((ADVERTISEMENT,)) * 16),  # somewhere in a large ping
        fragment(181, more=False)(DESTINATION, bytes((ICMP,))),
        (ESP, bytes(40)),
        (SCTP, bytes(12)),
        (59, b""),
    ],
)
@pytest.mark.parametrize("to", [ALL_NODES, MAC])
def test_all_else_passes(scene: Scene, inside: tuple[int, bytes], to: bytes) -> None:
    frame = ip6(*inside, to=to)
    assert scene.attack(frame) == [frame]


def test_what_is_for_the_gateway_is_nobodys(scene: Scene) -> None:
    assert scene.attack(ip6(*LIES["advertisement"], to=GATEWAY_MAC)) == []
    assert scene.bench.counters.routers_refused == 0


@pytest.mark.parametrize("lie", LIES)
def test_it_can_be_allowed(lie: str) -> None:
    scene = make(source_checks=False)
    frame = ip6(*LIES[lie])
    assert scene.attack(frame) == [frame]


def test_it_looks_behind_the_virtio_header() -> None:
    bench = Bench(ALL)
    mallory = bench.attach(ALL)
    bench.give(ip6(*LIES["advertisement"]), ip6(*icmp(ECHO)), port=mallory)
    assert bench.port.take() == [ip6(*icmp(ECHO))]


@pytest.mark.parametrize("way", WAYS)
def test_a_frame_may_end_anywhere(scene: Scene, way: str) -> None:
    frame = ip6(*hidden(LIES["server"], *WAYS[way]))
    for size in range(ethernet.SIZE, len(frame)):
        scene.attack(frame[:size])
