"""The DHCP client, by traces: what happens to it, and what it sends, expects and concludes."""

import itertools
import math
import random
import struct
from ipaddress import IPv4Address

import pytest
from dpkt.dhcp import DHCP
from dpkt.ethernet import Ethernet

from tests.guest.server import (
    ACK,
    DISCOVER,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    SERVER,
    SERVER_MAC,
    answer,
    dhcp_of,
    kind_of,
    options_of,
    to_client,
)
from vsock_tap.dhcp import (
    MAX_ATTEMPTS,
    REFUSED_DELAY,
    Bound,
    Client,
    Event,
    Ignored,
    Lost,
    State,
)

MAC = bytes.fromhex("5a94efe40cee")
ADDRESS = "192.168.127.2"


def seconds(number: int) -> bytes:
    return struct.pack(">I", number)


class Bench:
    """A client and a clock set by hand."""

    def __init__(self, seed: int = 1) -> None:
        self.client = Client(MAC, random.Random(seed))
        self.now = 1000.0
        self.frame = b""  # the last one sent

    def sent(self) -> DHCP:
        """Return the one message the client sends."""
        frames = self.client.frames_to_send()
        assert len(frames) == 1
        self.frame = frames[0]
        message = dhcp_of(self.frame)
        assert message is not None
        assert message.chaddr == MAC
        return message

    def quiet(self) -> bool:
        return not self.client.frames_to_send() and self.client.next_event() is None

    def give(self, frame: bytes) -> bool:
        return self.client.receive(frame, now=self.now)

    def event(self) -> Event:
        event = self.client.next_event()
        assert event is not None
        return event

    def wait(self) -> float:
        """Let the timer fire when it is due; returns the seconds until then."""
        due = self.client.next_timer()
        assert due is not None
        waited, self.now = due - self.now, due
        assert waited >= 0
        self.client.timer_fired(now=self.now)
        return waited

    def up(self) -> DHCP:
        self.client.link_up(now=self.now)
        return self.sent()

    def bind(self, options: dict[int, bytes] | None = None) -> Bound:
        """Take the client from the beginning to BOUND."""
        self.give(answer(self.up(), OFFER, ADDRESS, options))
        self.give(answer(self.sent(), ACK, ADDRESS, options))
        event = self.event()
        assert isinstance(event, Bound)
        assert self.client.state is State.BOUND
        return event


def test_discover_offer_request_ack() -> None:
    bench = Bench()
    discover = bench.up()
    assert kind_of(discover) == DISCOVER
    assert (discover.ciaddr, discover.flags) == (0, 0x8000)
    assert 50 not in options_of(discover)
    assert bench.client.waiting
    bench.give(answer(discover, OFFER, ADDRESS))
    request = bench.sent()
    assert kind_of(request) == REQUEST
    assert (request.xid, request.ciaddr) == (discover.xid, 0)
    assert options_of(request)[50] == IPv4Address(ADDRESS).packed
    assert options_of(request)[54] == IPv4Address(SERVER).packed
    assert Ethernet(bench.frame).dst == b"\xff" * 6
    bench.give(answer(request, ACK, ADDRESS))
    event = bench.event()
    assert isinstance(event, Bound)
    assert str(event.lease) == "192.168.127.2/24 from 192.168.127.1, 3600 s"
    assert event.lease.router == IPv4Address(SERVER)
    assert event.lease.nameservers == (IPv4Address(SERVER),)
    assert not bench.client.waiting
    assert bench.quiet()


def test_frames_are_whole() -> None:
    bench = Bench()
    bench.up()
    packet = Ethernet(bench.frame).data
    again = Ethernet(bench.frame)
    again.data.sum = again.data.data.sum = 0
    assert bytes(again) == bench.frame
    assert packet.len == len(bytes(packet)) == len(bench.frame) - 14
    assert packet.data.ulen == len(packet.data.data) + 8
    assert len(packet.data.data) >= 300
    assert (packet.src, packet.dst) == (bytes(4), b"\xff" * 4)


def test_discover_is_repeated_ever_more_slowly() -> None:
    bench = Bench()
    first = bench.up()
    waits = []
    for _ in range(8):
        waits.append(bench.wait())
        again = bench.sent()
        assert kind_of(again) == DISCOVER
        assert again.xid == first.xid
    assert again.secs == int(sum(waits))
    for waited, plain in zip(waits, (1, 2, 4, 8, 16, 16, 16, 16), strict=True):
        assert 0.75 * plain <= waited <= 1.25 * plain


def test_discover_is_repeated_for_days() -> None:
    bench = Bench()
    bench.up()
    for _ in range(3000):
        waited = bench.wait()
        bench.sent()
    assert 12 <= waited <= 20


def test_guests_do_not_repeat_in_step() -> None:
    waits, xids = set(), set()
    for seed in range(10):
        bench = Bench(seed)
        xids.add(bench.up().xid)
        waits.add(bench.wait())
    assert len(waits) == len(xids) == 10


def test_request_without_answer_begins_anew() -> None:
    bench = Bench()
    bench.give(answer(bench.up(), OFFER))
    first = bench.sent()
    for _ in range(MAX_ATTEMPTS - 1):
        bench.wait()
        again = bench.sent()
        assert (kind_of(again), again.xid) == (REQUEST, first.xid)
    bench.wait()
    discover = bench.sent()
    assert kind_of(discover) == DISCOVER
    assert discover.xid != first.xid


def test_the_first_offer_is_taken() -> None:
    bench = Bench()
    discover = bench.up()
    bench.give(answer(discover, OFFER, "192.168.127.2"))
    bench.give(answer(discover, OFFER, "192.168.127.3"))
    assert options_of(bench.sent())[50] == IPv4Address("192.168.127.2").packed


def test_a_nak_for_an_offered_address_is_waited_out() -> None:
    bench = Bench()
    for _ in range(3):
        discover = bench.up() if bench.client.state is State.INIT else bench.sent()
        assert kind_of(discover) == DISCOVER
        bench.give(answer(discover, OFFER))
        bench.give(answer(bench.sent(), NAK, "0.0.0.0"))
        assert bench.quiet()
        assert bench.wait() > 0.5


@pytest.mark.parametrize(
    ("options", "t1", "t2"),
    [
        ({}, 1800, 3150),
        ({58: seconds(100), 59: seconds(200)}, 100, 200),
        ({58: seconds(200), 59: seconds(100)}, 1800, 3150),
        ({58: seconds(100), 59: seconds(3600)}, 1800, 3150),
        ({58: b"xx"}, 1800, 3150),
        ({51: seconds(1)}, 5, 8.75),
    ],
)
def test_renewal_and_rebinding_times(options: dict[int, bytes], t1: float, t2: float) -> None:
    bench = Bench()
    bench.bind(options)
    begin = bench.now
    bench.wait()
    assert bench.now - begin == t1
    assert bench.client.state is State.RENEWING
    while bench.client.state is State.RENEWING:
        bench.wait()
    assert bench.now - begin == t2


def test_an_infinite_lease_is_never_renewed() -> None:
    bench = Bench()
    event = bench.bind({51: seconds(0xFFFFFFFF)})
    assert math.isinf(event.lease.duration)
    assert str(event.lease).endswith("for ever")
    assert bench.client.next_timer() is None


def test_renewing_asks_the_server_alone() -> None:
    bench = Bench()
    lease = bench.bind().lease
    bench.wait()
    request = bench.sent()
    assert kind_of(request) == REQUEST
    assert (request.ciaddr, request.flags) == (int(IPv4Address(ADDRESS)), 0)
    assert not options_of(request).keys() & {50, 54}
    frame = Ethernet(bench.frame)
    assert frame.dst == SERVER_MAC
    assert frame.data.dst == IPv4Address(SERVER).packed
    assert frame.data.src == IPv4Address(ADDRESS).packed
    bench.give(answer(request, ACK, ADDRESS))
    assert bench.event() == Bound(lease)
    assert bench.client.state is State.BOUND
    assert bench.client.next_timer() == bench.now + 1800


def test_the_lease_runs_from_the_request() -> None:
    bench = Bench()
    bench.bind()
    bench.wait()
    request, asked = bench.sent(), bench.now
    bench.now += 30
    bench.give(answer(request, ACK, ADDRESS))
    assert bench.client.next_timer() == asked + 1800
    while bench.client.lease is not None:
        bench.wait()
    assert bench.now == asked + 3600


def test_renewal_is_repeated_at_half_of_what_is_left() -> None:
    bench = Bench()
    bench.bind()
    begin, times = bench.now, []
    while bench.client.lease is not None:
        bench.wait()
        times.append((bench.now - begin, bench.client.state))
        message = bench.sent()
        if bench.client.state is State.REBINDING:
            assert message.ciaddr == int(IPv4Address(ADDRESS))
            assert Ethernet(bench.frame).dst == b"\xff" * 6
    renewing = [time for time, state in times if state is State.RENEWING]
    rebinding = [time for time, state in times if state is State.REBINDING]
    assert renewing[:3] == [1800, 1800 + 675, 1800 + 675 + 337.5]
    assert rebinding[:2] == [3150, 3375]
    for (earlier, _), (later, _) in itertools.pairwise(times):
        assert later - earlier >= 60 or later in (3150, 3600)
    assert bench.now - begin == 3600
    assert isinstance(bench.event(), Lost)
    assert bench.client.state is State.SELECTING


@pytest.mark.parametrize("asked", [False, True], ids=["bound", "renewing"])
def test_a_lease_that_ran_out_while_the_machine_was_suspended(asked: bool) -> None:
    """Without an answer the client begins anew, and the address is in use until it has another."""
    bench = Bench()
    bench.bind()
    if asked:
        bench.wait()
        bench.sent()
    bench.now += 8 * 3600
    bench.client.timer_fired(now=bench.now)
    for _ in range(MAX_ATTEMPTS):
        assert bench.client.state is State.REBOOTING
        assert kind_of(bench.sent()) == REQUEST
        bench.wait()
    assert kind_of(bench.sent()) == DISCOVER
    assert bench.client.next_event() is None


@pytest.mark.parametrize("state", [State.RENEWING, State.REBINDING, State.REBOOTING])
def test_a_nak_ends_the_lease(state: State) -> None:
    bench = Bench()
    bench.bind()
    if state is State.REBOOTING:
        bench.client.link_down()
        bench.client.link_up(now=bench.now)
    request = bench.sent() if state is State.REBOOTING else None
    while bench.client.state is not state:
        bench.wait()
        request = bench.sent()
    assert request is not None
    bench.give(answer(request, NAK, "0.0.0.0"))
    assert isinstance(bench.event(), Lost)
    discover = bench.sent()
    assert kind_of(discover) == DISCOVER
    assert 50 not in options_of(discover)


def test_a_new_link_asks_for_the_lease_again() -> None:
    bench = Bench()
    lease = bench.bind().lease
    bench.client.link_down()
    assert bench.client.next_timer() is None
    bench.now += 10 * 3600  # it has run out meanwhile
    request = bench.up()
    assert kind_of(request) == REQUEST
    assert bench.client.state is State.REBOOTING
    assert options_of(request)[50] == IPv4Address(ADDRESS).packed
    assert 54 not in options_of(request)
    assert request.ciaddr == 0
    bench.give(answer(request, ACK, ADDRESS))
    assert bench.event() == Bound(lease)


def test_a_server_that_forgot_the_lease_is_asked_for_a_new_one() -> None:
    bench = Bench()
    bench.bind()
    bench.client.link_down()
    bench.up()
    for _ in range(MAX_ATTEMPTS - 1):
        bench.wait()
        assert kind_of(bench.sent()) == REQUEST
    bench.wait()
    discover = bench.sent()
    assert kind_of(discover) == DISCOVER
    assert options_of(discover)[50] == IPv4Address(ADDRESS).packed
    assert bench.client.next_event() is None  # the address is still in use
    bench.give(answer(discover, OFFER, "192.168.127.9"))
    bench.give(answer(bench.sent(), ACK, "192.168.127.9"))
    event = bench.event()
    assert isinstance(event, Bound)
    assert event.lease.address == IPv4Address("192.168.127.9")


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_link_that_goes_during_the_transaction(rounds: int) -> None:
    bench = Bench()
    discover = bench.up()
    if rounds:
        bench.give(answer(discover, OFFER))
        bench.sent()
    bench.client.link_down()
    assert not bench.client.waiting
    assert not bench.give(answer(discover, OFFER))
    assert bench.client.next_timer() is None
    assert kind_of(bench.up()) == DISCOVER


def test_release() -> None:
    bench = Bench()
    bench.bind()
    bench.client.release()
    release = bench.sent()
    assert kind_of(release) == RELEASE
    assert release.ciaddr == int(IPv4Address(ADDRESS))
    assert options_of(release)[54] == IPv4Address(SERVER).packed
    assert Ethernet(bench.frame).dst == SERVER_MAC
    assert bench.client.lease is None
    assert bench.client.next_timer() is None
    bench.client.release()
    assert bench.quiet()


def test_an_offer_that_is_no_use_is_ignored() -> None:
    bench = Bench()
    discover = bench.up()
    assert bench.give(answer(discover, OFFER, ADDRESS, {1: bytes(4)}))
    assert bench.event() == Ignored(f"OFFER of {ADDRESS}: a subnet is a /1 to /30, not a /0")
    assert bench.quiet()
    assert 0.75 <= bench.wait() <= 1.25
    assert kind_of(bench.sent()) == DISCOVER
    bench.give(answer(discover, OFFER, ADDRESS))
    assert kind_of(bench.sent()) == REQUEST


def test_an_ack_that_is_no_use_is_as_none() -> None:
    bench = Bench()
    bench.give(answer(bench.up(), OFFER, ADDRESS))
    request = bench.sent()
    for _ in range(MAX_ATTEMPTS):
        bench.give(answer(request, ACK, "255.255.255.255"))
        event = bench.event()
        assert isinstance(event, Ignored)
        assert event.reason.startswith("ACK of 255.255.255.255: no address of a host")
        assert bench.client.state is State.REQUESTING
        bench.wait()
        message = bench.sent()
    assert kind_of(message) == DISCOVER


def test_a_renewal_that_is_no_use_leaves_the_lease() -> None:
    bench = Bench()
    lease = bench.bind().lease
    bench.wait()
    bench.give(answer(bench.sent(), ACK, ADDRESS, {1: b""}))
    assert isinstance(bench.event(), Ignored)
    assert bench.client.state is State.RENEWING
    assert bench.client.lease == lease


def test_a_lease_the_machine_refuses_is_asked_for_again_later() -> None:
    bench = Bench()
    discover = bench.up()
    for _ in range(3):
        bench.give(answer(discover, OFFER, ADDRESS))
        bench.give(answer(bench.sent(), ACK, ADDRESS))
        event = bench.event()
        assert isinstance(event, Bound)
        bench.client.refuse(event.lease, now=bench.now)
        assert bench.client.lease is None
        assert bench.quiet()
        bench.give(answer(discover, OFFER, ADDRESS))  # repeated, or another server's
        assert bench.quiet()
        assert bench.wait() == REFUSED_DELAY >= 10
        discover = bench.sent()
        assert kind_of(discover) == DISCOVER
        assert not options_of(discover).keys() & {50}
    assert 0.75 <= bench.wait() <= 1.25


def test_only_the_lease_that_is_held_can_be_refused() -> None:
    bench = Bench()
    old = bench.bind().lease
    bench.client.link_down()
    bench.give(answer(bench.up(), ACK, "192.168.127.9"))
    new = bench.event()
    bench.client.refuse(old, now=bench.now)
    assert Bound(bench.client.lease) == new
    assert bench.client.state is State.BOUND


def test_a_lease_refused_while_the_link_is_away() -> None:
    bench = Bench()
    lease = bench.bind().lease
    bench.client.link_down()
    bench.client.refuse(lease, now=bench.now)
    assert bench.client.next_timer() is None
    assert kind_of(bench.up()) == DISCOVER


def test_answers_out_of_turn() -> None:
    bench = Bench()
    discover = bench.up()
    assert bench.give(answer(discover, ACK, ADDRESS))
    assert bench.give(answer(discover, NAK, ADDRESS))
    assert bench.give(answer(discover, DISCOVER, ADDRESS))
    assert bench.quiet()
    assert bench.client.state is State.SELECTING


def test_frames_that_are_not_for_the_client() -> None:
    bench = Bench()
    discover = bench.up()
    offer = answer(discover, OFFER, ADDRESS)
    others = [
        b"",
        bench.frame,
        answer(discover, OFFER, ADDRESS, xid=discover.xid ^ 1),
        to_client(offer[42:], dport=69),
        to_client(offer[42:], sport=68),
        to_client(b""),
        to_client(b"x" * 300),
        offer[:12] + b"\x86\xdd" + offer[14:],
        offer[:20] + b"\x20\x00" + offer[22:],  # a fragment, the first
        offer[:20] + b"\x00\x01" + offer[22:],  # and a later one
        offer[:42] + b"\x01" + offer[43:],  # a request
        offer[:278] + b"\x00" + offer[279:],  # without the magic cookie
    ]
    for frame in others:
        assert not bench.give(frame), frame.hex()
    assert bench.quiet()
    assert bench.give(offer)


def test_cut_short() -> None:
    bench = Bench()
    offer = answer(bench.up(), OFFER, ADDRESS)
    for length in range(len(offer) - 1):
        bench.give(offer[:length])
    assert bench.client.state in (State.SELECTING, State.REQUESTING)


def test_random_options_do_no_harm() -> None:
    rng = random.Random(7)
    for _ in range(500):
        bench = Bench()
        discover = bench.up()
        offer = bytearray(answer(discover, OFFER, ADDRESS, {119: rng.randbytes(20)}))
        for _ in range(rng.randrange(1, 6)):
            offer[rng.randrange(14, len(offer))] = rng.randrange(256)
        bench.give(bytes(offer))
        assert bench.client.state in (State.SELECTING, State.REQUESTING)
