"""What one connection needs around it to be tested: a clock, a wire and a user, and what must hold.

`Bench` implements the three seams of `gvproxy.tcp.connection` and writes down what the engine does,
in its order.  `check` is called after every step of every test: it holds what is true of a
connection at any time.
"""

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from gvproxy.tcp import calls, input, output, timers
from gvproxy.tcp.connection import Connection, Counters
from gvproxy.tcp.memory import Memory, Pool
from gvproxy.tcp.prediction import predict
from gvproxy.tcp.seq import unwrap
from gvproxy.tcp.states import End, State, Timer
from gvproxy.wire import tcp as wire

_PATTERN = bytes(range(251)) * 4200


def pattern(position: int, size: int) -> bytes:
    """Return `size` bytes of a stream in which every position tells itself from its neighbours."""
    start = position % 251
    return _PATTERN[start : start + size]


_ON_THE_WAY = (Timer.RETRANSMIT, Timer.PROBE, Timer.REORDER)


class Sent(NamedTuple):
    """A segment as the engine gave it to its path, with the time."""

    at: float
    seq: int
    ack: int
    flags: int
    window: int
    options: wire.Options
    payload: bytes
    mss: int


class Told(NamedTuple):
    """What the engine told its user, with the time."""

    at: float
    what: str


@dataclass
class Bench:
    """A connection, its path, scheduler and user in one; `log` is what it did and nobody read."""

    iss: int = 1000
    irs: int = 2000
    mtu: int = 1500
    limit: int | None = None
    now: float = 1000.0
    predicting: bool = False
    congested: bool = False
    known: bool = True
    keeping: bool = False
    """The user keeps what it receives instead of being done with it at once."""
    log: list[Sent | Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counters = Counters()
        self.memory = Memory(Pool(256 << 20), 128 << 20)
        mss = self.mtu - 40
        self.c = Connection(
            self, self, self.counters, self.memory, mss=mss, iss=self.iss, mss_offered=mss
        )
        self.c.user = self
        self.c.interactive = False  # acknowledge at once, where a test does not say otherwise
        if self.limit is not None:
            self.c.rcv_limit = self.limit
        self.waiting = False
        self.forgotten = False
        self.predicted = 0
        self.got = 0  # bytes of the guest's stream handed over
        self.put = 0  # bytes of ours
        self.calls: dict[str, str] = {}  # to make from within a call of the engine's
        self._edge = -inf
        self._accepted = -inf

    # Path

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
        for number in (seq, ack):
            assert 0 <= number < 1 << 32
        assert 0 <= window <= 0xFFFF
        assert len(options) <= 40
        assert len(options) % 4 == 0
        data = bytes(payload)
        assert not wire.parse_options(options).mss or flags & wire.SYN  # RFC 9293 MUST-65
        assert min(len(data), mss) + len(options) + 40 <= self.mtu
        if not flags & (wire.SYN | wire.RST):
            edge = unwrap(ack, self.c.rcv_nxt) + (window << self.c.rcv_shift)
            # Less than one unit is lost by rounding, once the window is all but closed.
            unit = 1 << self.c.rcv_shift
            assert edge > self._edge - unit, "the right edge of the window has retreated"
            self._edge = max(edge, self._edge)
        self.log.append(
            Sent(self.now, seq, ack, flags, window, wire.parse_options(options), data, mss)
        )

    # Scheduler

    def touch(self, connection: Connection) -> None:
        connection.touched = True

    def handshake_done(self, connection: Connection) -> None:
        assert connection.state is State.ESTABLISHED

    def schedule(self, connection: Connection, deadline: float) -> None:
        assert connection.state is not State.CLOSED
        connection.scheduled_at = deadline

    def forget(self, connection: Connection) -> None:
        assert not self.forgotten
        self.forgotten = True

    def wait_for_path(self, connection: Connection) -> None:
        self.waiting = True

    # User

    def established(self, now: float) -> None:
        self._tell("established")
        self._react("established")

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        data = b"".join(views)
        assert data == pattern(self.got, len(data)), "bytes were lost, doubled or changed"
        self.got += len(data)
        self._tell(f"received {len(data)}")
        self._react("received")
        return 0 if self.keeping else len(data)

    def received_eof(self, now: float) -> None:
        self._tell("eof")
        self._react("eof")

    def writable(self, now: float) -> None:
        self._tell("writable")
        self._react("writable")

    def ended(self, end: End, now: float) -> None:
        assert self.c.user is None
        self._tell(f"ended {end.name}")

    def _react(self, what: str) -> None:
        if what in self.calls:
            self.call(*self.calls.pop(what).split())

    def _tell(self, what: str) -> None:
        self.log.append(Told(self.now, what))

    # What tests do

    def arrives(self, *segments: input.Segment) -> None:
        """Feed a batch, as `Stack.receive` does, and end it."""
        c = self.c
        for segment in segments:
            buffer = bytearray(segment.payload)
            segment.payload = memoryview(buffer)
            if self.predicting and self._predict(segment):
                self.predicted += 1
            else:
                input.segment_arrives(c, segment, self.now)
        if c.touched:
            output.flush(c, self.now)
        for segment in segments:
            segment.payload.release()  # type: ignore[union-attr]  # fails where a view is kept
        self.check()

    def _predict(self, segment: input.Segment) -> bool:
        """Offer a segment to header prediction where the stack would."""
        stamps = segment.options.timestamps
        if (
            not self.c.timestamps
            or segment.options != wire.Options(timestamps=stamps)
            or not stamps
        ):
            return False
        return predict(
            self.c,
            segment.seq,
            segment.ack,
            segment.flags,
            segment.window,
            stamps[0],
            memoryview(segment.payload),
            self.now,
        )

    def call(self, name: str, *arguments: str) -> None:
        """Make a call of the connection's user, written as in a trace."""
        c, now = self.c, self.now
        sizes = [int(argument) for argument in arguments if argument.isdigit()]
        if name == "open":
            calls.open_active(c, now)
        elif name == "send":
            calls.send(c, pattern(self.put, sizes[0]), now)
            self.put += sizes[0]
        elif name == "finish":
            calls.shutdown(c, now, pattern(self.put, sizes[0]))
            self.put += sizes[0]
        elif name == "consumed":
            calls.consumed(c, sizes[0], now)
        elif name == "room":
            assert c.room(now) == sizes[0]
        elif name == "limit":
            c.rcv_limit = sizes[0]
        elif name in ("keep", "take"):
            self.keeping = name == "keep"
        elif name in ("congest", "relieve"):
            self.congested = name == "congest"
            if self.waiting and not self.congested:
                self.waiting = False
                output.flush(c, now)
        elif name in ("vanish", "appear"):
            self.known = name == "appear"
        elif name.startswith("on_"):
            self.calls[name[3:]] = " ".join(arguments)
        elif name == "drop":
            calls.drop(c, now)
        else:
            {
                "accept": calls.accept,
                "release": calls.release,
                "shutdown": calls.shutdown,
                "abort": calls.abort,
            }[name](c, now)

    def advance(self, to: float) -> None:
        """Let time pass; each timer goes off at its own moment."""
        c = self.c
        while c.scheduled_at <= to and c.state is not State.CLOSED:
            self.now = c.scheduled_at
            c.scheduled_at = inf
            timers.expire(c, self.now)
            if c.touched:
                output.flush(c, self.now)
            if c.deadline < c.scheduled_at and c.state is not State.CLOSED:
                c.scheduled_at = c.deadline
            self.check()
        self.now = to

    def check(self) -> None:
        """Assert what is true of a connection at any time between two batches."""
        c = self.c
        if c.state is State.CLOSED and self.forgotten:
            assert c.user is None
            assert c.deadline == inf
            assert not c.inbox
            assert not c.early
            assert self.memory.used == 0, "memory is counted that is not kept"
            return
        assert not c.inbox, "a view outlives its batch"
        assert c.rcv_held >= 0
        assert c.rcv_adv >= c.rcv_nxt
        if c.state not in (State.LISTEN, State.SYN_SENT):
            assert c.rcv_adv >= self._accepted, "a promised window was taken back"
            self._accepted = c.rcv_adv
        assert c.snd_una <= c.snd_nxt
        assert c.snd_nxt <= c.out.end + 1
        self._check_flight()
        sent = c.out.end - max(c.snd_una, c.iss + 1)
        kept = max(sent, 0) + c.rcv_held + (c.early.size if c.early else 0)
        assert self.memory.used == kept
        assert c.deadline >= c.scheduled_at or c.deadline == inf, "nobody will call at the deadline"
        assert (c.timer is Timer.NONE) == (c.timer_at == inf)
        if c.state in (State.SYN_SENT, State.SYN_RECEIVED):
            assert c.timer is Timer.RETRANSMIT
        elif c.state is State.TIME_WAIT:
            assert c.timer is Timer.LINGER
            assert c.user is None
        elif c.state is State.FIN_WAIT_2:
            assert c.timer is Timer.LINGER if c.user is None else c.resting
        elif c.state is not State.LISTEN:
            if c.snd_una < c.snd_nxt:
                assert c.timer in _ON_THE_WAY, "data is outstanding and no timer runs"
            elif c.out.end > c.snd_una or (c.wants_room and not self.waiting):
                assert not c.resting, "data or the user waits and no timer runs"

    def _check_flight(self) -> None:
        c = self.c
        if c.state in (State.LISTEN, State.SYN_SENT, State.SYN_RECEIVED):
            return
        records = c.flight.records
        edges = [c.snd_una, *(record.end for record in records)]
        assert [record.start for record in records] == edges[:-1], "the records have a gap"
        assert edges[-1] == c.snd_nxt, "something was sent and not recorded"
        size = {"sacked": 0, "lost": 0}
        for record in records:
            assert record.start < record.end
            assert not (record.sacked and record.lost)
            size["sacked"] += record.sacked * (record.end - record.start)
            size["lost"] += record.lost * (record.end - record.start)
        assert c.flight.lost == size["lost"]
        assert c.flight.sacked == size["sacked"] or not c.sack
