"""Batches of frames: two paths with one effect, bad checksums, and whatever bytes a guest sends."""

import random
from collections.abc import Callable
from dataclasses import asdict, fields

import pytest

from gvproxy.stack import stack as module
from gvproxy.stack.path import TcpPath
from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.states import State
from taplink import vnet
from taplink.vnet import Offload

from .bench import (
    ALL,
    GATEWAY,
    GATEWAY_MAC,
    MAC,
    OUTSIDE,
    VALID,
    VIRTUAL,
    Bench,
    arp,
    break_at,
    echo,
    tcp,
    udp,
)
from .peer import ACK, FIN, PSH, RST, SYN, Peer, options

TCP = 34  # where it begins


def state_of(c: Connection) -> dict[str, object]:
    """Return every number of a connection."""
    apart = {
        "path",
        "scheduler",
        "counters",
        "user",
        "out",
        "early",
        "inbox",
        "rtt",
        "congestion",
        "flight",
    }
    numbers = {f.name: getattr(c, f.name) for f in fields(c) if f.name not in apart}
    numbers["rtt"] = asdict(c.rtt)
    numbers["flight"] = [(sent.start, sent.end, sent.at) for sent in c.flight.records]
    numbers["cwnd"] = c.congestion.cwnd
    numbers["early"] = c.early.size if c.early else 0
    return numbers


def general_only(peer: Peer) -> None:
    """Let the fast path find nothing that it knows."""
    path = peer.connection.path
    assert isinstance(path, TcpPath)
    path.eth_in = b""


def run(script: Callable[[Peer], None], bench: Bench, meta: bytes, *, general: bool) -> object:
    peer = Peer(bench)
    peer.meta = meta
    peer.connect()
    if general:
        general_only(peer)
    script(peer)
    return (
        state_of(peer.connection),
        peer.user.data,
        peer.user.told,
        bench.stack.connections.tcp_counters,
        bench.counters,
        bench.port.take(),
    )


def in_order(peer: Peer) -> None:
    for size in (1, 100, 1448, 1448, 1448):
        peer.give(peer.data(bytes(size)))


def a_batch(peer: Peer) -> None:
    peer.give(*(peer.data(bytes((n,)) * 1000) for n in range(20)))


def out_of_order(peer: Peer) -> None:
    one, two, three = (peer.data(body) for body in (b"one", b"two", b"three"))
    peer.give(two)
    peer.give(three, one)


def duplicates(peer: Peer) -> None:
    frame = peer.data(b"again")
    peer.give(frame)
    peer.give(frame, frame)


def answers(peer: Peer) -> None:
    calls.send(peer.connection, bytes(5000), peer.bench.now)
    peer.bench.port.take()
    for step in (1448, 0, 0, 0, 3552):
        peer.ack = (peer.ack + step) & 0xFFFFFFFF
        peer.give(peer.make(ACK))


def a_clean_end(peer: Peer) -> None:
    peer.give(peer.data(b"last"), peer.make(FIN | ACK))
    calls.shutdown(peer.connection, peer.bench.now)
    peer.seq += 1
    peer.ack = (peer.ack + 1) & 0xFFFFFFFF
    peer.give(peer.make(ACK))


def a_reset(peer: Peer) -> None:
    peer.give(peer.data(b"last"), peer.make(RST))


def old_timestamps(peer: Peer) -> None:
    peer.give(peer.data(b"new"))
    peer.clock -= 5
    peer.give(peer.data(b"old"))


def flags_that_surprise(peer: Peer) -> None:
    for flags in (SYN, SYN | ACK, 0, PSH, ACK | 0x20, ACK | 0x40, 0xFF):
        peer.give(peer.make(flags, b"x"))


def no_stamps(peer: Peer) -> None:
    peer.give(peer.data(b"without", stamps=False))
    peer.give(peer.data(b"with"))


def padded(peer: Peer) -> None:
    peer.give(peer.data(b"x") + bytes(6))


SCRIPTS = [
    in_order,
    a_batch,
    out_of_order,
    duplicates,
    answers,
    a_clean_end,
    a_reset,
    old_timestamps,
    flags_that_surprise,
    no_stamps,
    padded,
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_both_paths_have_one_effect(script: Callable[[Peer], None]) -> None:
    """With checksums vouched for, verified, and by either path."""
    plain = run(script, Bench(), vnet.PLAIN, general=True)
    assert run(script, Bench(), vnet.PLAIN, general=False) == plain
    trusted = run(script, Bench(header=True), VALID, general=True)
    assert run(script, Bench(header=True), VALID, general=False) == trusted
    assert trusted == plain


def test_the_fast_path_takes_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    monkeypatch.setattr(module.Stack, "_frame", lambda *_: pytest.fail("the general path"))
    in_order(peer)
    out_of_order(peer)
    answers(peer)
    a_clean_end(peer)
    assert len(peer.user.data) > 4000


@pytest.mark.parametrize("general", [True, False])
@pytest.mark.parametrize("header", [True, False])
def test_a_bad_checksum_is_refused_by_both_paths(header: bool, general: bool) -> None:
    bench = Bench(header=header)
    peer = Peer(bench).connect()
    if general:
        general_only(peer)
    good = peer.data(b"abc")
    for position in (TCP + 4, TCP + 13, TCP + 14, TCP + 16, len(good) - 1):
        peer.give(break_at(good, position))
    assert peer.user.data == b""
    assert bench.stack.connections.tcp_counters.checksum_errors == 5
    peer.give(good)
    assert peer.user.data == b"abc"


@pytest.mark.parametrize("general", [True, False])
@pytest.mark.parametrize("flags", [vnet.F_NEEDS_CSUM, vnet.F_DATA_VALID])
def test_it_is_taken_where_the_link_vouches_for_it(flags: int, general: bool) -> None:
    bench = Bench(header=True)
    peer = Peer(bench)
    peer.meta = vnet.HEADER.pack(flags, 0, 0, 0, TCP, 16, 0)
    peer.connect()
    if general:
        general_only(peer)
    peer.give(break_at(peer.data(b"abc"), TCP + 16))
    assert peer.user.data == b"abc"


def test_trust_is_each_ports_own() -> None:
    """The first byte of a frame without a virtio header is of a MAC address."""
    bench = Bench()
    mac = b"\x03\0\0\0\0\1"
    bench.give(break_at(tcp(flags=SYN, to=mac), TCP + 16))
    peer = Peer(bench).connect()
    peer.give(break_at(peer.data(b"abc"), TCP + 16))
    assert peer.user.data == b""


def test_a_super_frame_is_one_segment() -> None:
    bench = Bench(ALL)
    peer = Peer(bench).connect()
    peer.meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_TCPV4, 66, 1448, TCP, 16, 0)
    body = random.Random(1).randbytes(60_000)
    (ack,) = peer.give(peer.data(body))
    assert peer.user.data == body
    assert ack.flags == ACK


def test_a_batch_is_acknowledged_once() -> None:
    bench = Bench()
    one, two = Peer(bench).connect(), Peer(bench, sport=6000).connect()
    frames = []
    for n in range(10):
        frames += [one.data(bytes((n,)) * 1448), two.data(bytes((n,)) * 1448)]
    sent = bench.give(*frames)
    assert sorted(frame.data.data.dport for frame in sent) == [5000, 6000]
    assert len(one.user.data) == len(two.user.data) == 14_480


@pytest.mark.parametrize("offload", [Offload.NONE, ALL])
def test_a_guest_with_losses_is_acknowledged_before_its_data_is_handed_over(
    offload: Offload,
) -> None:
    bench = Bench(offload)
    peer = Peer(bench).connect()
    lost, late = peer.data(b"a" * 1448), peer.data(b"b" * 1448)
    peer.give(late)
    peer.give(lost)
    flushed = []
    take = peer.user.received

    def received(views: list[memoryview | bytes], now: float) -> int:
        flushed.append(bench.port.flushed)
        return take(views, now)

    peer.user.received = received  # type: ignore[method-assign]
    (ack,) = peer.give(peer.data(b"c" * 1448), peer.data(b"d" * 1448))
    assert flushed == [1], "one frame had left by then"
    assert peer.user.data == b"".join(bytes((letter,)) * 1448 for letter in b"abcd")
    assert ack.flags == ACK


@pytest.mark.parametrize(("size", "limit"), [(100, 1 << 20), (60_000, 100_000)])
def test_it_is_not_where_that_would_cost_a_segment_or_the_window(
    size: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer may carry the acknowledgment; what is not handed over is missing in the window."""
    bench = Bench(ALL)
    peer = Peer(bench).connect()
    lost, late = peer.data(bytes(1448)), peer.data(bytes(1448))
    peer.give(late)
    peer.give(lost)
    monkeypatch.delattr(type(bench.port), "flush")
    peer.meta = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_TCPV4, 66, 1448, TCP, 16, 0)
    peer.connection.rcv_limit = limit
    peer.give(peer.data(bytes(size)))


def test_a_guest_without_losses_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    monkeypatch.delattr(type(bench.port), "flush")
    assert len(peer.give(*(peer.data(bytes(1448)) for _ in range(40)))) == 1


def test_segments_are_acknowledged_by_four_after_a_loss() -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    lost, late = peer.data(bytes(1448)), peer.data(bytes(1448))
    peer.give(late)
    peer.give(lost)
    assert len(peer.give(*(peer.data(bytes(1448)) for _ in range(10)))) == 3


def test_no_view_outlives_a_batch_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    peer = Peer(bench).connect()

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.stack.ip, "receive", fail)
    with pytest.raises(RuntimeError):
        bench.give(peer.data(b"abc"), udp(b"x"))
    assert peer.user.data == b"abc"


def test_timers_run_when_they_were_asked_for() -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    calls.send(peer.connection, b"x", bench.now)
    bench.port.take()
    assert bench.wakes[-1] >= bench.stack.connections.deadline > bench.now
    bench.now = bench.stack.connections.deadline
    bench.stack.run_timers(bench.now)
    assert [frame.data.data.data for frame in bench.sent()] == [b"x"]


# Whatever bytes a guest sends


def whole_network(offload: Offload, header: bool) -> tuple[Bench, Peer]:
    """Return a bench with another guest on either kind of port, and all handlers in place."""
    bench = Bench(offload, header=header)
    bench.attach(ALL)
    bench.attach()
    bench.stack.udp.forward = lambda datagram, now: None
    bench.stack.udp.handlers[GATEWAY, 53] = lambda datagram, now: None
    bench.stack.ip.forward_echo = lambda request, now: None
    return bench, Peer(bench).connect()


def samples(peer: Peer) -> list[bytes]:
    return [
        arp(GATEWAY),
        arp(OUTSIDE, operation=2),
        echo(b"ping"),
        echo(b"ping", destination=VIRTUAL, opts=b"\x94\x04\0\0", hl=6),
        echo(b"part", _flags_offset=0x2000),
        udp(b"question", dport=53),
        udp(b"out", destination=OUTSIDE),
        udp(b"all", to=b"\xff" * 6),
        tcp(flags=SYN, sport=7, destination=OUTSIDE),
        tcp(flags=ACK, sport=8, destination=GATEWAY),
        peer.data(b"stream"),
        peer.make(ACK | FIN, seq=peer.seq + 50),
        peer.make(ACK, stamps=False),
    ]


PORTS = [(Offload.NONE, False), (ALL, True), (Offload.NONE, True)]


@pytest.mark.parametrize(("offload", "header"), PORTS, ids=["plain", "offloads", "header"])
@pytest.mark.parametrize("meta", [vnet.PLAIN, VALID])
def test_every_truncation_is_counted(offload: Offload, header: bool, meta: bytes) -> None:
    """Wherever a frame ends too early it is dropped, for one reason, and answered by nothing."""
    bench, peer = whole_network(offload, header)
    tcp_counters = bench.stack.connections.tcp_counters
    for frame in samples(peer):
        for size in range(len(frame)):
            before = bench.counters.malformed
            bench.give(frame[:size], meta=meta)
            assert bench.counters.malformed == before + 1, (frame, size)
    assert tcp_counters.invalid == 0, "IP has its length"
    assert peer.connection.state is State.ESTABLISHED
    assert peer.user.data == b""


@pytest.mark.parametrize(("offload", "header"), PORTS, ids=["plain", "offloads", "header"])
@pytest.mark.parametrize("meta", [vnet.PLAIN, VALID, b"\1" + bytes(11)])
def test_every_truncation_inside_ip_is_counted(offload: Offload, header: bool, meta: bytes) -> None:
    """The same where IP's length is right: what is too short is the transport."""
    bench, peer = whole_network(offload, header)
    counters, tcp_counters = bench.counters, bench.stack.connections.tcp_counters

    def count() -> int:
        refused = counters.malformed + counters.udp_checksum_errors
        return refused + tcp_counters.invalid + tcp_counters.checksum_errors

    for frame, least in ((echo(), 8), (udp(b"q", dport=53), 9), (peer.data(b""), 32)):
        for size in range(least):
            packet = bytearray(frame[: TCP + size])
            packet[16:18] = (20 + size).to_bytes(2, "big")
            packet[24:26] = b"\0\0"
            words = sum(int.from_bytes(packet[n : n + 2], "big") for n in range(14, TCP, 2))
            packet[24:26] = (0xFFFF - words % 0xFFFF).to_bytes(2, "big")
            before = count()
            bench.give(bytes(packet), meta=meta)
            assert count() == before + 1, (frame, size)


@pytest.mark.parametrize(("offload", "header"), PORTS, ids=["plain", "offloads", "header"])
@pytest.mark.parametrize("seed", range(8))
def test_no_bytes_raise(seed: int, offload: Offload, header: bool) -> None:
    rng = random.Random(seed)
    bench, peer = whole_network(offload, header)
    others = [port for port in bench.stack.switch.ports.values() if port is not bench.port]
    for round_ in range(60):
        batch = []
        for frame in samples(peer):
            data = bytearray(frame)
            for _ in range(rng.choice((1, 1, 2, 8))):
                data[rng.randrange(len(data))] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
                )
            if rng.random() < 0.2:
                del data[rng.randrange(len(data)) :]
            elif rng.random() < 0.2:
                data += rng.randbytes(rng.randrange(2000))
            batch.append(bytes(data))
        batch.append(rng.randbytes(rng.randrange(200)))
        batch.append(GATEWAY_MAC + MAC + b"\x08\0" + rng.randbytes(rng.randrange(200)))
        kind, size, start, place = (
            rng.choice((0, 1, 2, 14, 34, 0x81, 1448, 65535)) for _ in range(4)
        )
        meta = vnet.HEADER.pack(round_ & 3, kind & 0xFF, size, size, start, place, 0)
        bench.give(*batch, meta=meta)
        for port in others:
            port.sent.clear()  # type: ignore[attr-defined]
        bench.now += rng.choice((0.0, 0.001, 1.0))
        bench.stack.run_timers(bench.now)
        bench.port.take()
        if peer.connection.state is not State.ESTABLISHED:
            peer = Peer(bench, sport=rng.randrange(1024, 65536)).connect()
    assert echo_works(bench)


def echo_works(bench: Bench) -> bool:
    (reply,) = bench.give(echo(b"alive"))
    return bytes(reply.data.data.data.data) == b"alive"


def test_options_that_only_look_like_timestamps_go_the_general_way() -> None:
    bench = Bench()
    peer = Peer(bench).connect()
    first = options(peer.clock, peer.echo)
    reordered = first[2:] + b"\1\1"
    frame = peer.make(ACK, b"abc", options=reordered)
    peer.give(frame)
    assert peer.user.data == b"abc"
    assert peer.connection.ts_recent == peer.clock - 1
