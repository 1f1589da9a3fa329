"""Guests' UDP through sockets on loopback: mappings, filtering, errors, and their end."""

import asyncio
import errno
import itertools
import logging
import random
import socket
from collections.abc import Callable, Iterator

import pytest
import uvloop

from gvproxy.flows import errqueue, runs, table, udp
from gvproxy.flows import mapping as mapping_module
from gvproxy.flows.destinations import Destinations
from gvproxy.flows.errqueue import NetworkError
from gvproxy.flows.udp import UdpFlows, UdpMapping
from gvproxy.limits import Limit, Limits, Quotas
from gvproxy.stack.sourceguard import COMEBACK
from gvproxy.wire import icmp, ipv4
from gvproxy.wire import udp as udp_header
from taplink import vnet
from tests.manual_loop import ManualLoop

from .guest import GUEST, HOST, MAC, METADATA, OUTSIDE, Guest

PORT = 5000


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with bound() as sock:
        yield sock


def bound(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.settimeout(10)
    return sock


def number(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def heard(guest: Guest, peer: socket.socket) -> tuple[str, int]:
    """Have the guest send a datagram to a peer; return where it comes from on the host."""
    guest.send_to(HOST, number(peer), b"x", PORT)
    guest.loop.run()
    address, port = peer.recvfrom(10)[1]
    return address, port


def test_there_and_back(guest: Guest, peer: socket.socket) -> None:
    got = guest.bind(PORT)
    for payload in (b"question", b"", b"x" * 1473, b"y" * 30_000):
        guest.send_to(HOST, number(peer), payload, PORT)
        guest.loop.run()
        data, source = peer.recvfrom(65535)
        assert data == payload
        peer.sendto(payload[::-1], source)
        guest.loop.until(lambda: got)
        assert got.pop() == (HOST, number(peer), payload[::-1])


def test_one_socket_whomever_the_guest_talks_to(guest: Guest) -> None:
    """RFC 4787 REQ-1."""
    with bound() as one, bound() as two:
        for peer in (one, two, one):
            guest.send_to(HOST, number(peer), b"x", PORT)
        guest.loop.run()
        sources = {peer.recvfrom(10)[1] for peer in (one, two, one)}
        assert len(sources) == 1
        assert len(guest.udp.mappings) == 1
        guest.send_to(HOST, number(one), b"x", PORT + 1)
        guest.loop.run()
        assert one.recvfrom(10)[1] not in sources
        assert len(guest.udp.mappings) == 2


def test_a_borrowed_address_gets_none_of_the_replies(guest: Guest, peer: socket.socket) -> None:
    """Another guest sends with the address and port of a flow: it has a flow of its own."""
    got = guest.bind(PORT)
    for sender in (MAC, b"\x02\0\0\0\0\3"):
        guest.frame(HOST, ipv4.PROTOCOL_UDP, datagram(peer, b"x"), mac=sender)
    _, own = peer.recvfrom(10)
    _, borrowed = peer.recvfrom(10)
    assert own != borrowed
    peer.sendto(b"to another MAC address", borrowed)
    peer.sendto(b"reply", own)
    guest.loop.until(lambda: got)
    guest.loop.run()
    assert [payload for _, _, payload in got] == [b"reply"]


def test_a_guest_keeps_its_flow_at_another_port(guest: Guest, peer: socket.socket) -> None:
    """Its link was lost, and it is back: replies come through the new one."""
    got = guest.bind(PORT)
    source = heard(guest, peer)
    guest.plug_in_again()
    assert heard(guest, peer) == source
    peer.sendto(b"reply", source)
    guest.loop.until(lambda: got)
    assert len(guest.udp.mappings) == 1


def test_who_takes_a_guests_place_gets_none_of_the_replies(
    guest: Guest, peer: socket.socket
) -> None:
    """The guest has gone; another has its addresses, and uses the same port."""
    got = guest.bind(PORT)
    source = heard(guest, peer)
    guest.plug_in_again(identity="another")
    guest.loop.advance(COMEBACK)
    other = heard(guest, peer)
    assert other != source
    peer.sendto(b"for who was here before", source)
    peer.sendto(b"reply", other)
    guest.loop.until(lambda: got)
    guest.loop.run()
    assert [payload for _, _, payload in got] == [b"reply"]


def datagram(peer: socket.socket, payload: bytes) -> bytes:
    """Return a datagram from the guest's port to the peer's, without a checksum."""
    return udp_header.HEADER.pack(PORT, number(peer), udp_header.SIZE + len(payload), 0) + payload


def test_only_addresses_the_guest_has_sent_to_get_in(guest: Guest, peer: socket.socket) -> None:
    """REQ-8, address-dependent: another port of the same host does."""
    got = guest.bind(PORT)
    source = heard(guest, peer)
    with bound("127.0.0.2") as stranger, bound() as neighbour:
        stranger.sendto(b"stranger", source)
        neighbour.sendto(b"neighbour", source)
        guest.loop.until(lambda: got)
        assert got == [(HOST, number(neighbour), b"neighbour")]


def test_an_address_is_called_as_the_guest_calls_it_now(
    guest: Guest, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = guest.bind(PORT)
    monkeypatch.setattr(Destinations, "resolve", lambda *_: "127.0.0.1")
    for address in (HOST, OUTSIDE):
        guest.send_to(address, number(peer), b"x", PORT)
        guest.loop.run()
        peer.sendto(b"y", peer.recvfrom(10)[1])
        guest.loop.until(lambda: got)
        assert got.pop()[0] == address


def test_peers_of_a_mapping_are_bounded(
    guest: Guest, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping_module, "MAX_PEERS", 2)
    hosts = iter(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    monkeypatch.setattr(Destinations, "resolve", lambda *_: next(hosts))
    got = guest.bind(PORT)
    for _ in range(3):
        guest.send_to(HOST, number(peer), b"x", PORT)
    guest.loop.run()
    _, source = peer.recvfrom(10)
    with bound("127.0.0.3") as last:
        peer.sendto(b"forgotten", source)
        last.sendto(b"last", source)
        guest.loop.until(lambda: got)
    assert [payload for _, _, payload in got] == [b"last"]


def test_peers_of_all_mappings_are_bounded(
    loop: ManualLoop, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest with many ports that sends to a million addresses; each port has its last one."""
    guest = Guest(loop, limits=Limits(peers=Limit(12, 10)))
    hosts = itertools.count(2)
    monkeypatch.setattr(Destinations, "resolve", lambda *_: f"127.0.0.{next(hosts)}")
    for number_ in range(100):
        guest.send_to(HOST, number(peer), b"x", PORT + number_ % 16)
        guest.loop.run()
    assert guest.quotas.peers.used == 16
    guest.close()
    assert guest.quotas.peers.used == 0


def test_many_mappings_do_not_end_in_one_turn(
    loop: ManualLoop, guest: Guest, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAX_ENDS", 4)
    for number_ in range(10):
        guest.send_to(HOST, number(peer), b"x", PORT + number_)
    loop.run()
    loop.now += udp.IDLE_TIMEOUT + udp.SWEEP_INTERVAL
    loop.advance(0)
    left = [len(guest.udp.mappings)]
    while left[-1]:
        loop.advance(table.ENDS_PAUSE)
        left.append(len(guest.udp.mappings))
    assert left == [6, 2, 0]


def test_closed_addresses_are_prohibited(guest: Guest) -> None:
    guest.send_to(METADATA, 80, b"x", PORT)
    guest.loop.run()
    assert [(source, code) for source, code, _ in guest.unreachable] == [
        (METADATA, icmp.ADMIN_PROHIBITED)
    ]
    assert len(guest.udp.mappings) == 0


# Runs of datagrams


def run_to(guest: Guest, destination: bytes, port: int, payload: bytes, size: int) -> None:
    """Send datagrams of `size` bytes, which reach the gateway in one batch."""
    for position in range(0, len(payload), size):
        guest.send_to(destination, port, payload[position : position + size], PORT)


def known(guest: Guest, destination: bytes, peer: socket.socket) -> tuple[str, int]:
    """Have the flow go on for as long as it takes to be known; return the address it comes from."""
    for _ in range(3):
        guest.send_to(destination, number(peer), b"not one question only", PORT)
        guest.loop.run()
        _, source = peer.recvfrom(100)
    return source  # type: ignore[no-any-return]


@pytest.mark.parametrize("gro", [True, False])
def test_a_run_of_the_guests_arrives_as_its_datagrams(
    guest: Guest, peer: socket.socket, gro: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call where the kernel knows of that, and one by one elsewhere."""
    calls = 0
    send = runs.send

    def count(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if not gro:
            raise OSError(errno.EIO, "no network card does")
        send(*arguments)  # type: ignore[arg-type]

    known(guest, HOST, peer)
    monkeypatch.setattr(runs, "send", count)
    payload = random.Random(1).randbytes(10_000)
    run_to(guest, HOST, number(peer), payload, 1400)
    guest.loop.run()
    parts = [peer.recv(65535) for _ in range(8)]
    assert [len(part) for part in parts] == [1400] * 7 + [200]
    assert b"".join(parts) == payload
    assert calls == 1


def test_a_run_of_the_hosts_arrives_as_its_datagrams(guest: Guest, peer: socket.socket) -> None:
    got = guest.bind(PORT)
    source = known(guest, HOST, peer)
    payload = random.Random(1).randbytes(10_000)
    sent: list[int] = []
    send = guest.host_port.send
    guest.host_port.send = lambda *parts: (sent.append(parts[0][1]), send(*parts))[1]  # type: ignore[method-assign,func-returns-value]
    runs.send(peer, [memoryview(payload)], 1400, source)
    guest.loop.until(lambda: len(got) == 8)
    assert b"".join(data for _, _, data in got) == payload
    assert [len(data) for _, _, data in got] == [1400] * 7 + [200]
    assert sent == [vnet.GSO_UDP_L4]


def test_a_mapping_that_was_evicted_is_made_anew_by_a_run(loop: ManualLoop) -> None:
    guest = Guest(loop, limits=Limits(udp_mappings=Limit(1, 1)))
    with bound() as one, bound() as other:
        first = known(guest, HOST, one)
        guest.send_to(HOST, number(other), b"x", PORT + 1)
        guest.loop.run()
        assert len(guest.udp.mappings) == 1
        run_to(guest, HOST, number(one), bytes(300), 100)
        guest.loop.run()
        data = [one.recvfrom(1000) for _ in range(3)]
        assert {source for _, source in data} != {first}
        assert b"".join(part for part, _ in data) == bytes(300)
    guest.close()


def test_each_datagram_of_a_run_to_a_closed_port_is_unreachable(
    guest: Guest, peer: socket.socket
) -> None:
    known(guest, HOST, peer)
    port = number(peer)
    peer.close()
    run_to(guest, HOST, port, bytes(300), 100)
    guest.loop.until(lambda: guest.unreachable)
    assert {(source, code) for source, code, _ in guest.unreachable} == {
        (HOST, icmp.PORT_UNREACHABLE)
    }
    check_quote(guest.unreachable[0][2], port)


def test_a_run_that_the_host_cannot_send_is_unreachable(
    guest: Guest, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(guest, HOST, peer)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENETUNREACH, "no route")

    (mapping,) = guest.udp.mappings._entries.values()
    monkeypatch.setattr(type(mapping), "_send", lambda *arguments: icmp.NET_UNREACHABLE)
    monkeypatch.setattr(runs, "send", refuse)
    run_to(guest, HOST, number(peer), bytes(300), 100)
    guest.loop.run()
    assert [code for _, code, _ in guest.unreachable] == [icmp.NET_UNREACHABLE] * 3
    check_quote(guest.unreachable[0][2], number(peer))


# Errors


def check_quote(quote: bytes, port: int) -> None:
    """The guest's kernel finds the socket by addresses and ports."""
    assert (quote[0], quote[9]) == (0x45, 17)
    assert quote[12:20] == GUEST + HOST
    assert quote[20:24] == PORT.to_bytes(2, "big") + port.to_bytes(2, "big")


def test_a_closed_port_is_unreachable_each_time(
    guest: Guest, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")
    for count in (1, 2, 3):
        guest.send_to(HOST, closed_port, b"anyone?", PORT)
        guest.loop.until(lambda count=count: len(guest.unreachable) == count)
        source, code, quote = guest.unreachable[-1]
        assert (source, code) == (HOST, icmp.PORT_UNREACHABLE)
        check_quote(quote, closed_port)
    assert caplog.messages == [f"127.0.0.1:{closed_port} is unreachable: ICMP type 3, code 3"] * 3


def test_an_error_does_not_swallow_the_next_datagram(
    guest: Guest, peer: socket.socket, closed_port: int
) -> None:
    """The kernel reports it on the next call, whatever that was to do."""
    guest.send_to(HOST, closed_port, b"anyone?", PORT)
    guest.send_to(HOST, number(peer), b"you", PORT)
    guest.loop.until(lambda: guest.unreachable)
    assert peer.recvfrom(10)[0] == b"you"
    assert len(guest.unreachable) == 1


@pytest.mark.parametrize("runner", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_errors_wake_the_loop_every_time(
    closed_port: int, peer: socket.socket, runner: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """libuv stops to poll a descriptor with an error; the mapping must go on all the same."""
    manual = ManualLoop()
    guest = Guest(manual)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        flows = UdpFlows(guest.host, loop, guest.udp._destinations, Quotas())
        happened = asyncio.Event()
        send_error, send = guest.host.ip.send_error, guest.host.udp.send
        errors: list[int] = []

        def error(station: object, source: bytes, code: int, quote: bytes) -> None:
            check_quote(quote, closed_port)
            errors.append(code)
            happened.set()

        def answer(*arguments: object, size: int) -> None:
            happened.set()

        guest.host.ip.send_error = error  # type: ignore[method-assign,assignment]
        guest.host.udp.send = answer  # type: ignore[method-assign,assignment]
        try:
            for _ in range(3):
                guest.send_to(HOST, closed_port, b"anyone?", PORT)
                manual.run()
                await asyncio.wait_for(happened.wait(), 10)
                happened.clear()
            assert errors == [icmp.PORT_UNREACHABLE] * 3
            guest.send_to(HOST, number(peer), b"you", PORT)
            manual.run()
            data, source = peer.recvfrom(10)
            peer.sendto(data, source)
            await asyncio.wait_for(happened.wait(), 10)
            assert len(errors) == 3
        finally:
            guest.host.ip.send_error, guest.host.udp.send = send_error, send  # type: ignore[method-assign]
            flows.close()

    with asyncio.Runner(loop_factory=runner) as running:
        running.run(scenario())
    guest.close()


@pytest.mark.parametrize("runner", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_answers_arrive_between_errors(
    closed_port: int, peer: socket.socket, runner: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The error is often seen while sending, before the loop tells: it must poll all the same."""
    manual = ManualLoop()
    guest = Guest(manual)
    got = guest.bind(PORT)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        flows = UdpFlows(guest.host, loop, guest.udp._destinations, Quotas())
        try:
            for number_sent in range(1, 31):
                for port in (closed_port, number(peer), closed_port, closed_port):
                    guest.send_to(HOST, port, b"x", PORT)
                manual.run()
                data, source = peer.recvfrom(10)
                peer.sendto(data, source)
                async with asyncio.timeout(10):
                    while len(got) < number_sent:
                        await asyncio.sleep(0)
                        manual.run()
        finally:
            flows.close()

    with asyncio.Runner(loop_factory=runner) as running:
        running.run(scenario())
    guest.close()


def test_many_errors_at_once_are_all_told(guest: Guest, closed_port: int) -> None:
    """More than are read from the error queue in one go."""
    guest.send_to(HOST, closed_port, b"x", PORT)
    guest.loop.soon.popleft()()
    (mapping,) = guest.udp.mappings._entries.values()
    sent = 1
    while sent < 40:
        try:
            mapping._sock.sendto(b"x", ("127.0.0.1", closed_port))
        except ConnectionRefusedError:
            continue  # about the one before
        sent += 1
    guest.loop.until(lambda: len(guest.unreachable) == 40)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENETUNREACH, icmp.NET_UNREACHABLE),
        (errno.EHOSTUNREACH, icmp.HOST_UNREACHABLE),
        (errno.EACCES, icmp.ADMIN_PROHIBITED),
        (errno.EPERM, icmp.ADMIN_PROHIBITED),
        (errno.EMSGSIZE, None),
        (errno.ENOBUFS, None),
        (errno.EAGAIN, None),
    ],
)
def test_what_the_host_refuses_to_send(
    guest: Guest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: int,
    code: int | None,
) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, "why")

    caplog.set_level(logging.DEBUG, "gvproxy")

    monkeypatch.setattr(socket.socket, "sendto", fail)
    guest.send_to(OUTSIDE, 53, b"x", PORT)
    guest.loop.run()
    assert [got for _, got, _ in guest.unreachable] == ([] if code is None else [code])
    said = [] if error == errno.EAGAIN else ["nothing can be sent to 192.0.2.1: why"]
    assert caplog.messages == said


def test_which_icmp_errors_are_passed_on(
    guest: Guest, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreachable is; "fragmentation needed" is for the host, which sends fragments next time."""
    guest.send_to(HOST, number(peer), b"x", PORT)
    guest.loop.run()
    here, stranger = ("127.0.0.1", 53), ("127.0.0.2", 53)
    errors = [
        NetworkError(icmp.TIME_EXCEEDED, 0, here),
        NetworkError(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, here),
        NetworkError(icmp.UNREACHABLE, icmp.HOST_UNREACHABLE, stranger),
        NetworkError(icmp.UNREACHABLE, icmp.HOST_UNREACHABLE, here),
    ]
    monkeypatch.setattr(errqueue, "drain", lambda sock: errors)
    (mapping,) = guest.udp.mappings._entries.values()
    assert mapping._report_errors()
    guest.loop.run()
    assert [code for _, code, _ in guest.unreachable] == [icmp.HOST_UNREACHABLE]


# The table


def test_a_full_table_ends_what_was_unused_for_longest(
    loop: ManualLoop, peer: socket.socket
) -> None:
    guest = Guest(loop, limits=Limits(udp_mappings=Limit(3, 3)))
    for port in (1, 2, 3, 1, 4, 5):
        guest.send_to(HOST, number(peer), b"x", port)
        loop.run()
        loop.now += 0.1
    (used,) = guest.udp.mappings._queues.values()
    assert [port for *_, port in used] == [1, 4, 5]
    assert guest.quotas.udp_mappings.refused == 2
    assert len(loop.readers) == 3
    guest.close()


def test_a_guests_mappings_make_room_for_its_own(loop: ManualLoop, peer: socket.socket) -> None:
    """Those of another guest stay, whoever used them last."""
    guest = Guest(loop, limits=Limits(udp_mappings=Limit(10, 4)))
    mappings = guest.udp.mappings
    guest.send_to(HOST, number(peer), b"x", 1)
    loop.run()
    for port in range(20):
        key = guest.station, OUTSIDE, port
        entry = UdpMapping(loop.as_loop(), guest.host.udp, key, Quotas().peers)
        mappings.add(key, entry, loop.now, "greedy")
    assert guest.quotas.udp_mappings.held("greedy") == 4
    assert mappings.use((guest.station, GUEST, 1), loop.now) is not None
    guest.close()
    assert guest.quotas.udp_mappings.used == 0


def test_silence_ends_a_mapping_and_the_guest_revives_it(guest: Guest, peer: socket.socket) -> None:
    got = guest.bind(PORT)
    source = heard(guest, peer)
    guest.loop.advance(udp.IDLE_TIMEOUT - 10)
    guest.send_to(HOST, number(peer), b"y", PORT)
    guest.loop.run()
    assert peer.recvfrom(10)[1] == source
    guest.loop.advance(udp.IDLE_TIMEOUT - udp.SWEEP_INTERVAL)
    assert len(guest.udp.mappings) == 1, "the guest's datagram kept it alive"
    guest.loop.advance(2 * udp.SWEEP_INTERVAL)
    assert len(guest.udp.mappings) == 0
    assert guest.loop.idle, "an empty table has no timer"
    guest.send_to(HOST, number(peer), b"z", PORT)
    guest.loop.run()
    _, again = peer.recvfrom(10)
    peer.sendto(b"alive", again)
    guest.loop.until(lambda: got)
    assert got[0][2] == b"alive"


def test_what_comes_in_does_not_keep_a_mapping_alive(guest: Guest, peer: socket.socket) -> None:
    """RFC 4787 REQ-6: else whoever was spoken to once could hold it for ever."""
    guest.bind(PORT)
    source = heard(guest, peer)
    for _ in range(int(udp.IDLE_TIMEOUT / 10) + 1):
        peer.sendto(b"flood", source)
        guest.loop.run()
        guest.loop.advance(10)
    assert len(guest.udp.mappings) == 0


def test_no_descriptor_left_is_a_lost_datagram(
    guest: Guest, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(udp.socket, "socket", fail)
        guest.send_to(HOST, number(peer), b"x", PORT)
        guest.loop.run()
    assert len(guest.udp.mappings) == 0
    guest.send_to(HOST, number(peer), b"y", PORT)
    guest.loop.run()
    assert peer.recvfrom(10)[0] == b"y"


def test_a_flood_from_outside_leaves_others_their_turn(guest: Guest, peer: socket.socket) -> None:
    got = guest.bind(PORT)
    source = heard(guest, peer)
    for _ in range(mapping_module.READS_PER_WAKEUP + 10):
        peer.sendto(b"flood", source)
    (fd,) = guest.loop.readers
    guest.loop.readers[fd]()
    guest.loop.turn()
    assert len(got) >= mapping_module.READS_PER_WAKEUP
    guest.loop.until(lambda: len(got) == mapping_module.READS_PER_WAKEUP + 10)
