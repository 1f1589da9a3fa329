"""What guests say of our TCP segments by ICMP: RFC 1122 §4.2.3.9, RFC 5927, RFC 1191."""

import pytest

from gvproxy.tcp import calls
from gvproxy.tcp.states import State
from gvproxy.wire import icmp, ipv4

from .bench import GUEST, OTHER_MAC, Bench, Port, ip
from .peer import Peer, User


def unreachable(code: int, quote: bytes, mtu: int = 0, **where: object) -> bytes:
    message = icmp.build(icmp.UNREACHABLE, code, mtu, quote)
    return ip(message, ipv4.PROTOCOL_ICMP, **where)  # type: ignore[arg-type]


def opening(bench: Bench) -> tuple[User, bytes]:
    """Send a SYN to the guest; return its user, and the packet."""
    user = User()
    bench.meet()
    bench.port.take()
    bench.stack.connections.open(user, GUEST, 22, bench.now)
    (frame,) = bench.port.take()
    return user, frame[14:]


@pytest.mark.parametrize("code", sorted(icmp.HARD))
def test_a_guest_that_rejects_ends_the_opening(code: int) -> None:
    bench = Bench()
    user, syn = opening(bench)
    bench.give(unreachable(code, syn[:28]))
    assert user.told == ["UNREACHABLE"]


@pytest.mark.parametrize("code", [0, 1, 5, 11, 12])
def test_a_soft_error_does_not(code: int) -> None:
    """RFC 1122 §4.2.3.9."""
    bench = Bench()
    user, syn = opening(bench)
    bench.give(unreachable(code, syn[:28]))
    assert user.told == []


def test_an_established_connection_outlives_hard_errors() -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    calls.send(peer.connection, b"x" * 100, bench.now)
    (frame,) = bench.port.take()
    bench.give(unreachable(icmp.PORT_UNREACHABLE, frame[14:]))
    assert peer.connection.state is State.ESTABLISHED


def test_a_forged_error_is_not_believed() -> None:
    """RFC 5927 §4.1: it must quote a number that is on its way."""
    bench = Bench()
    user, syn = opening(bench)
    seq = int.from_bytes(syn[24:28], "big")
    for other in (seq + 1, seq - 1, seq + 2**31):
        quote = syn[:24] + (other & 0xFFFFFFFF).to_bytes(4, "big")
        bench.give(unreachable(icmp.PORT_UNREACHABLE, quote))
    assert user.told == []


@pytest.mark.parametrize(
    ("mtu", "size"), [(1400, 1348), (1499, 1447), (600, 548), (100, 500), (0, 500)]
)
def test_a_narrow_path_behind_the_guest(mtu: int, size: int) -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    calls.send(peer.connection, b"x" * 2896, bench.now)
    frames = bench.port.take()
    sent = bench.give(unreachable(icmp.FRAGMENTATION_NEEDED, frames[0][14:42], mtu))
    assert peer.connection.mss == size
    sizes = [len(frame.data.data.data) for frame in sent]
    assert max(sizes) == size
    assert sum(sizes) == 2896
    assert peer.connection.congestion.cwnd >= 65536


def test_a_path_does_not_widen_by_an_error() -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    calls.send(peer.connection, b"x" * 2896, bench.now)
    frames = bench.port.take()
    assert bench.give(unreachable(icmp.FRAGMENTATION_NEEDED, frames[0][14:42], 9000)) == []
    assert peer.connection.mss == 1448


@pytest.mark.parametrize("size", range(28))
def test_an_error_that_quotes_too_little(size: int) -> None:
    bench = Bench()
    user, syn = opening(bench)
    bench.give(unreachable(icmp.PORT_UNREACHABLE, syn[:size]))
    assert user.told == []
    assert bench.counters.malformed == 1


def test_an_error_through_another_port_is_not_believed() -> None:
    bench = Bench()
    user, syn = opening(bench)
    other = Port()
    bench.stack.attach(other)
    frame = unreachable(icmp.PORT_UNREACHABLE, syn[:28], mac=OTHER_MAC)
    bench.give(frame, port=other)
    assert user.told == []
