"""Two engines over a bad link: what arrives is a prefix of what was sent, and in the end all of it.

Each side's `Bench.check` holds after every event: windows never retreat, and whatever waits has a
timer.  The link loses, doubles, delays and reorders, cuts off the ends of segments and takes back
windows; hypothesis chooses how, a seed does it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.input import Segment
from gvproxy.tcp.states import State
from gvproxy.wire import tcp as wire

from .bench import Bench

pytestmark = pytest.mark.probes
PATIENCE = 7200.0
"""Seconds of the engines' time after which the link counts as stalled."""


@dataclass
class Link:
    """Calls things at their time; loses, doubles and delays what is sent through it.

    `overtaking` segments go at once; from `cutting` ones the end of the text is missing, as a
    receiver without memory has it; of `shrinking` ones the window is less than was promised before
    (RFC 9293 MUST-34).  Each is a probability.
    """

    random: Random
    loss: float = 0.0
    doubling: float = 0.0
    jitter: float = 0.0
    overtaking: float = 0.0
    cutting: float = 0.0
    shrinking: float = 0.0
    delay: float = 0.001
    now: float = 1000.0
    queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: int = 0

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self.count += 1
        heappush(self.queue, (self.now + delay, self.count, action))

    def carry(self, action: Callable[[], None]) -> None:
        """Do `action` at the far end, perhaps."""
        for _ in range(1 + (self.random.random() < self.doubling)):
            if self.random.random() >= self.loss:
                delay = self.delay + self.random.random() * self.jitter
                self.later(0.0 if self.random.random() < self.overtaking else delay, action)

    def damage(self, segment: Segment) -> None:
        """Cut off text, and the FIN behind it, or the window; perhaps."""
        if segment.payload and self.random.random() < self.cutting:
            segment.payload = segment.payload[: self.random.randrange(len(segment.payload))]
            segment.flags &= ~(wire.FIN | wire.PSH)
        if not segment.flags & wire.SYN and self.random.random() < self.shrinking:
            segment.window = self.random.randint(0, segment.window)


class Engine(Bench):
    """A bench whose segments go to another one, and whose user sends `total` bytes and a FIN."""

    def __init__(self, link: Link, iss: int, *, total: int, limit: int, greedy: bool) -> None:
        super().__init__(iss=iss, limit=limit, predicting=True, now=link.now)
        self.link = link
        self.peer = self
        self.total = total
        self.greedy = greedy  # the user takes everything at once
        self.finished = ""
        self.c.interactive = True

    def send(
        self,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> None:
        super().send(seq, ack, flags, window, options, payload, mss)
        self.log.clear()
        data, parsed = bytes(payload), wire.parse_options(options)
        for position in range(0, max(len(data), 1), mss):
            last = position + mss >= len(data)
            segment = Segment(
                seq + position & 0xFFFFFFFF,
                ack,
                flags if last else flags & ~(wire.FIN | wire.PSH),
                window,
                parsed,
                data[position : position + mss],
            )
            self.link.damage(segment)
            self.link.carry(lambda segment=segment: self.peer.takes(segment))  # type: ignore[misc]

    def takes(self, segment: Segment) -> None:
        c = self.c
        if c.state is State.CLOSED:
            return
        if c.state is State.LISTEN:
            self.irs = segment.seq
        copy = Segment(
            segment.seq,
            segment.ack,
            segment.flags,
            segment.window,
            segment.options,
            segment.payload,
        )
        self.arrives(copy)
        if c.state is State.LISTEN and c.rcv_nxt:
            calls.accept(c, self.now)

    def established(self, now: float) -> None:
        self.pump()

    def writable(self, now: float) -> None:
        self.pump()

    def pump(self) -> None:
        c = self.c
        while self.put < self.total:
            room = min(c.room(self.now), self.total - self.put, 60000)
            if not room:
                return
            self.call("send", str(self.link.random.randint(1, room)))
        calls.shutdown(c, self.now)

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        before = self.got
        super().received(views, now)
        self.log.clear()
        size = self.got - before
        done = size if self.greedy else self.link.random.randint(0, size)
        if done < size:
            self.link.later(self.link.random.random(), lambda: self.read(size - done))
        return done

    def read(self, size: int) -> None:
        if self.c.state is not State.CLOSED:
            calls.consumed(self.c, size, self.now)
            self.check()

    def ended(self, end: object, now: float) -> None:
        self.finished = end.name  # type: ignore[attr-defined]


def run(link: Link, one: Engine, two: Engine, *, simultaneous: bool) -> None:
    """Let both sides send all they have, and both close."""
    one.peer, two.peer = two, one
    one.irs, two.irs = two.iss, one.iss
    began = link.now
    calls.open_active(one.c, one.now)
    if simultaneous:
        calls.open_active(two.c, two.now)
    else:
        two.c.state = State.LISTEN
    while not (one.finished and two.finished):
        moment = min(
            link.queue[0][0] if link.queue else inf, one.c.scheduled_at, two.c.scheduled_at
        )
        assert moment < began + PATIENCE, f"stalled: {_waits(one.c)}; {_waits(two.c)}"
        link.now = moment
        one.advance(moment)
        two.advance(moment)
        while link.queue and link.queue[0][0] <= moment:
            heappop(link.queue)[2]()


def _waits(c: Connection) -> str:
    return f"{c.state.name} {c.timer.name} una {c.snd_una - c.iss} end {c.out.end - c.iss}"


_isn = st.sampled_from([0, 12345, 2**31 - 500, 2**32 - 1, 2**32 - 2000, 2**32 - 30_000])
_total = st.sampled_from([0, 1, 5000, 60_000])
_delays = {
    "doubling": st.sampled_from([0.0, 0.1]),
    "delay": st.sampled_from([0.001, 0.05]),
    "jitter": st.sampled_from([0.0, 0.002, 0.5]),
    "overtaking": st.sampled_from([0.0, 0.0, 0.2]),
}
_losses = st.fixed_dictionaries({"loss": st.sampled_from([0.0, 0.01, 0.1, 0.3]), **_delays})
_damages = st.fixed_dictionaries(
    {
        "loss": st.sampled_from([0.0, 0.1]),
        "cutting": st.sampled_from([0.0, 0.1]),
        "shrinking": st.sampled_from([0.0, 0.1]),
        **_delays,
    }
)


@pytest.fixture(autouse=True, scope="module")
def patient_time_wait() -> Iterator[None]:
    """Wait as long as RFC 9293 does: on this link our two seconds would end before a lost FIN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gvproxy.tcp.input.TIME_WAIT_TIME", 240.0)
        yield


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    faults=st.one_of(_losses, _losses, _damages),
    isns=st.tuples(_isn, _isn),
    totals=st.tuples(_total, _total),
    limits=st.tuples(st.sampled_from([500, 3000, 1 << 20]), st.sampled_from([3000, 1 << 20])),
    greedy=st.booleans(),
    simultaneous=st.booleans(),
)
def test_everything_arrives(
    seed: int,
    faults: dict[str, float],
    isns: tuple[int, int],
    totals: tuple[int, int],
    limits: tuple[int, int],
    greedy: bool,
    simultaneous: bool,
) -> None:
    link = Link(Random(seed), **faults)
    one = Engine(link, isns[0], total=totals[0], limit=limits[0], greedy=greedy)
    two = Engine(link, isns[1], total=totals[1], limit=limits[1], greedy=True)
    run(link, one, two, simultaneous=simultaneous)
    assert (one.finished, two.finished) == ("DONE", "DONE")
    assert (one.got, two.got) == (two.total, one.total)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_no_time_is_lost_on_a_good_link(size: int) -> None:
    """Not one timeout, probe or retransmission where nothing is lost."""
    link = Link(Random(1))
    one = Engine(link, 2**32 - 1000, total=size, limit=1 << 20, greedy=True)
    two = Engine(link, 2**32 - 1, total=size, limit=1 << 20, greedy=True)
    run(link, one, two, simultaneous=False)
    for engine in (one, two):
        assert engine.counters.retransmits == engine.counters.timeouts == 0
        assert engine.counters.challenges == 0
    assert link.now < 1000.5
