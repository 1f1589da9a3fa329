"""A link's session under a clock set by hand: what it tells of a host that does not lease."""

import asyncio
import random
import socket
from collections.abc import Iterator

import pytest

from taplink.framing import HYPERKIT
from taplink.tap import Tap
from taplink.upgrade import Agreed, Request
from taplink.vnet import Offload
from tests.guest.server import ACK, OFFER, Guest, answer
from tests.manual_loop import ManualLoop
from vsock_tap.agent import Session
from vsock_tap.dhcp import Bound, Client, Event
from vsock_tap.link import Link
from vsock_tap.patience import PATIENCE, PATIENCE_AGAIN, Unleased


class Bench:
    """A session that has begun, and the host at the other end of its link."""

    def __init__(self, tap: socket.socket, near: socket.socket, far: socket.socket) -> None:
        self.loop = ManualLoop()
        self.host = Guest(far, Request("POST", "/connect", {}, b"", b""), taplink=False)
        self.client = Client(bytes.fromhex("5a94efe40cee"), random.Random(1))
        self._events: asyncio.Queue[Event | Unleased] = asyncio.Queue()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "get_running_loop", self.loop.as_loop)
            link = Link(near, Agreed(HYPERKIT, Offload.NONE, b""))
            self.session = Session(
                Tap(tap.fileno(), "tap0", False), link, self.client, self._events
            )
        self.session.start()

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
    bench.client.refuse(bench.lease().lease, now=bench.loop.now)
    bench.session.refused()
    bench.loop.advance(PATIENCE)
    assert bench.told() == [Unleased(PATIENCE, answered=True)]


def test_the_end_of_the_link_ends_it(bench: Bench) -> None:
    bench.session.stop()
    bench.loop.advance(2 * PATIENCE)
    assert not bench.told()
