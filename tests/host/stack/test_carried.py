"""What of a guest's frames is of use to somebody, and what is not: `Port.carried`."""

import pytest

from gvproxy.stack.path import FIRST_QUESTION, QUESTION
from gvproxy.stack.stack import MAX_COSTLY
from taplink import vnet

from .bench import GATEWAY, OTHER, OTHER_MAC, OUTSIDE, Bench, Port, break_at, echo, ether, tcp, udp
from .peer import ACK, SYN, Peer, User
from .test_sessions import Outside, fragments

BODY = bytes(1000)


@pytest.fixture
def bench() -> Bench:
    """Return a stack with two guests."""
    bench = Bench()
    bench.meet()
    bench.meet(OTHER, OTHER_MAC, bench.attach())
    bench.sent()
    return bench


@pytest.fixture
def other(bench: Bench) -> Port:
    """Return the second guest's port."""
    port = bench.stack.switch.stations[OTHER_MAC].port
    assert isinstance(port, Port)
    return port


def carried(bench: Bench, *frames: bytes) -> int:
    before = bench.port.carried
    bench.give(*frames)
    return bench.port.carried - before


def test_what_a_connection_takes(bench: Bench) -> None:
    assert carried(bench, Peer(bench).syn()) == 0
    peer = Peer(bench, sport=6000).connect()
    size = len(BODY)
    assert carried(bench, peer.data(BODY)) == size + FIRST_QUESTION
    assert carried(bench, peer.data(BODY)) == size + QUESTION
    assert carried(bench, peer.data(BODY), peer.data(BODY)) == 2 * size + QUESTION
    assert carried(bench, peer.make(ACK), peer.make(ACK)) == 0
    peer.seq += 10
    assert carried(bench, peer.data(b"x")) == 1, "out of order"


def test_what_a_connection_without_timestamps_takes(bench: Bench) -> None:
    """Those go the long way."""
    bench.stack.connections.forward = user = User()
    where = {"destination": OUTSIDE, "options": b"", "sport": 6000}
    (answer,) = bench.give(tcp(flags=SYN, seq=7, **where))  # type: ignore[arg-type]
    frame = tcp(BODY, flags=ACK, seq=8, ack=answer.data.data.seq + 1, **where)  # type: ignore[arg-type]
    assert carried(bench, frame) == len(BODY) + FIRST_QUESTION
    assert user.data == BODY


def test_datagrams_of_a_session(bench: Bench) -> None:
    Outside(bench)
    frame = udp(BODY, destination=OUTSIDE)
    assert carried(bench, frame) == 0, "the first"
    assert carried(bench, frame) == len(frame) - 14


def test_a_datagram_that_came_in_fragments(bench: Bench) -> None:
    Outside(bench)
    first, *rest = fragments(udp(bytes(4000), destination=OUTSIDE))
    assert carried(bench, first) == 0
    assert carried(bench, *rest) == 4008


def test_a_frame_for_another_guest(bench: Bench, other: Port) -> None:
    frame = udp(BODY, destination=OTHER, to=OTHER_MAC)
    assert carried(bench, frame) == len(frame)
    other.full = True
    assert carried(bench, frame) == 0, "its guest does not read"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(1500),
        ether(BODY, kind=0x1234, to=bytes.fromhex("5a94ef0000f0")),
        udp(BODY, to=b"\xff" * 6),
        udp(BODY, dport=9),
        break_at(udp(BODY, destination=OUTSIDE), 60),
        fragments(udp(bytes(4000), destination=OUTSIDE))[0],
        echo(BODY, destination=GATEWAY),
        tcp(BODY, flags=ACK, destination=OUTSIDE),
        tcp(BODY, flags=SYN, destination=OUTSIDE),
    ],
    ids=[
        *("empty", "zeros", "to nobody", "to everyone", "closed port", "wrong", "fragment"),
        *("ping", "no connection", "refused"),
    ],
)
def test_what_is_of_no_use(bench: Bench, frame: bytes) -> None:
    assert carried(bench, *[frame] * 3) == 0


def test_costly_frames_are_not_taken_all_at_once(bench: Bench) -> None:
    useful = udp(BODY, destination=OTHER, to=OTHER_MAC)
    batch = [memoryview(useful)] * 200 + [memoryview(bytes(60)), memoryview(useful)] * 100
    taken = bench.stack.receive(bench.port, batch, bench.now)
    assert taken == 200 + 2 * MAX_COSTLY - 1
    assert bench.stack.receive(bench.port, batch[taken:], bench.now) == len(batch) - taken
    assert bench.stack.receive(bench.port, [memoryview(b"")] * 1000, bench.now) == MAX_COSTLY


def test_a_frame_with_a_header_of_the_link() -> None:
    bench = Bench()
    bench.meet()
    port = bench.attach(vnet.Offload.CSUM)
    bench.meet(OTHER, OTHER_MAC, port)
    peer = Peer(bench, source=OTHER, mac=OTHER_MAC)
    peer.port = port
    peer.connect()
    before = port.carried
    bench.give(peer.data(BODY), port=port)
    assert port.carried - before == len(BODY) + FIRST_QUESTION
