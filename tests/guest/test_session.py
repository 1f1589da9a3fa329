"""A link's session under a clock set by hand: what it tells of a host that does not lease."""

import asyncio
import random
import socket
from collections.abc import Iterator

import pytest
from dpkt.dhcp import DHCP

from taplink.framing import HYPERKIT
from taplink.tap import Tap
from taplink.upgrade import Agreed, Request
from taplink.vnet import Offload
from tests.guest.server import ACK, NAK, OFFER, REQUEST, Guest, answer, kind_of, options_of
from tests.manual_loop import ManualLoop
from vsock_tap.dhcp import Bound, Client, Event, Lost, State
from vsock_tap.link import Link
from vsock_tap.patience import PATIENCE, PATIENCE_AGAIN, Unleased
from vsock_tap.session import LONGEST_SLEEP, Session


class Bench:
    """A session that has begun, and the host at the other end of its link."""

    def __init__(self, tap: socket.socket, near: socket.socket, far: socket.socket) -> None:
        self.loop = ManualLoop()
        self.slept = 0.0
        """Seconds that the machine was suspended, of which the loop knows nothing."""
        self.host = Guest(far, Request("POST", "/connect", {}, b"", b""), taplink=False)
        self.client = Client(bytes.fromhex("5a94efe40cee"), random.Random(1))
        self._events: asyncio.Queue[Event | Unleased] = asyncio.Queue()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "get_running_loop", self.loop.as_loop)
            link = Link(near, Agreed(HYPERKIT, Offload.NONE, b""))
            self.session = Session(
                Tap(tap.fileno(), "tap0", False), link, self.client, self._events, self.clock
            )
        self.session.start()

    def clock(self) -> float:
        return self.loop.now + self.slept

    def told(self) -> list[Event | Unleased]:
        return [self._events.get_nowait() for _ in range(self._events.qsize())]

    def lease(self) -> Bound:
        """Lease an address to the DISCOVER that was sent first."""
        for kind in (OFFER, ACK):
            self.host.send(answer(self.host.dhcp(), kind))
            self.loop.run()
        (bound,) = self.told()
        assert isinstance(bound, Bound)
        return bound


@pytest.fixture
def bench() -> Iterator[Bench]:
    tap, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near, far = socket.socketpair()
    with tap, kernel, near, far:
        tap.setblocking(False)
        near.setblocking(False)
        bench = Bench(tap, near, far)
        yield bench
        bench.session.stop()
        assert bench.loop.idle


def test_a_silent_host_is_told_of(bench: Bench) -> None:
    bench.loop.advance(PATIENCE - 0.1)
    assert not bench.told()
    bench.loop.advance(0.1)
    assert bench.told() == [Unleased(PATIENCE, answered=False)]
    bench.loop.advance(PATIENCE_AGAIN)
    assert bench.told() == [Unleased(PATIENCE + PATIENCE_AGAIN, answered=False)]


def test_a_lease_is_nothing_to_tell_of(bench: Bench) -> None:
    bench.lease()
    bench.loop.advance(2 * PATIENCE_AGAIN)
    assert not bench.told()


def test_a_server_whose_lease_is_no_use_is_not_silent(bench: Bench) -> None:
    bench.client.refuse(bench.lease().lease, now=bench.clock())
    bench.session.refused()
    bench.loop.advance(PATIENCE)
    assert bench.told() == [Unleased(PATIENCE, answered=True)]


def test_the_end_of_the_link_ends_it(bench: Bench) -> None:
    bench.session.stop()
    bench.loop.advance(2 * PATIENCE)
    assert not bench.told()


HOUR = 3600.0
"""What the lease is for."""


def asks(bench: Bench) -> DHCP:
    """Return the REQUEST that the agent has sent within a minute of its waking."""
    before = bench.loop.now
    bench.loop.advance(LONGEST_SLEEP)
    assert bench.loop.now - before == LONGEST_SLEEP
    message = bench.host.dhcp()
    assert kind_of(message) == REQUEST
    return message


def test_a_lease_that_has_run_out_in_the_sleep_is_asked_for_at_once(bench: Bench) -> None:
    """As after a reboot: by its address, of whichever server; it is in use until the answer."""
    bound = bench.lease()
    bench.loop.advance(600)
    bench.slept += 8 * HOUR
    request = asks(bench)
    assert bench.client.state is State.REBOOTING
    assert options_of(request)[50] == bound.lease.address.packed
    assert not options_of(request).keys() & {54}
    assert request.ciaddr == 0
    assert not bench.told()
    bench.host.send(answer(request, ACK))
    bench.loop.run()
    assert bench.told() == [bound]


def test_a_lease_that_another_has_by_then_is_lost(bench: Bench) -> None:
    bench.lease()
    bench.slept += 8 * HOUR
    bench.host.send(answer(asks(bench), NAK, "0.0.0.0"))
    bench.loop.run()
    (lost,) = bench.told()
    assert isinstance(lost, Lost)
    assert bench.client.state is State.SELECTING


def test_a_sleep_of_a_minute_changes_nothing(bench: Bench) -> None:
    """But when the lease is renewed: half an hour after it was asked for, asleep or awake."""
    bound = bench.lease()
    bench.slept += 60
    bench.loop.advance(HOUR / 2 - 60 - 0.1)
    assert (bench.client.state, bench.told()) == (State.BOUND, [])
    bench.loop.advance(0.1)
    assert bench.client.state is State.RENEWING
    request = bench.host.dhcp()
    assert request.ciaddr == int(bound.lease.address)
    bench.host.send(answer(request, ACK))
    bench.loop.run()
    assert bench.told() == [bound]


@pytest.mark.parametrize(("slept", "state"), [(1900, State.RENEWING), (3200, State.REBINDING)])
def test_what_is_due_by_the_time_it_wakes(bench: Bench, slept: float, state: State) -> None:
    """One REQUEST, and not those that were due before as well."""
    bound = bench.lease()
    bench.slept += slept
    bench.loop.advance(LONGEST_SLEEP - 1)
    assert bench.client.state is State.BOUND
    request = asks(bench)
    assert bench.client.state is state
    assert request.ciaddr == int(bound.lease.address)
    bench.host.send(answer(request, ACK))
    bench.loop.run()
    assert bench.told() == [bound]


def test_a_sleep_without_a_link(bench: Bench) -> None:
    bound = bench.lease()
    bench.session.stop()
    bench.slept += 8 * HOUR
    bench.loop.advance(2 * LONGEST_SLEEP)
    assert not bench.told()
    bench.session.start()
    request = bench.host.dhcp()
    assert (kind_of(request), request.ciaddr) == (REQUEST, 0)
    bench.host.send(answer(request, ACK))
    bench.loop.run()
    assert bench.told() == [bound]


def test_a_server_that_was_asked_before_the_sleep_is_not_said_to_be_silent(bench: Bench) -> None:
    bench.slept += 8 * HOUR
    bench.loop.advance(PATIENCE - 0.1)
    assert not bench.told()
    bench.loop.advance(0.1)
    assert bench.told() == [Unleased(PATIENCE, answered=False)]
