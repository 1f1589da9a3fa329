"""Segments to one connection, in places that mean something to it, between the calls of its user.

The first message says how the connection begins.  Each of the others is a segment, an ICMP error,
or a call; numbers are relative to the connection's own, so that a mutation changes what is asked of
the engine and not whether it is listened to.  The guest's bytes are those of its stream's places:
the user has to get them in order, each once.  `Bench.check` holds after every step.
"""

from struct import Struct

from gvproxy.tcp import output, path_errors
from gvproxy.tcp.input import Segment
from gvproxy.tcp.seq import MASK, unwrap
from gvproxy.tcp.states import CLOSED, LISTEN, SYN_RECEIVED, SYN_SENT
from gvproxy.wire import tcp as wire
from tests.fuzz.budget import within
from tests.fuzz.cases import join, split
from tests.fuzz.mutation import Repair
from tests.host.tcp.bench import Bench, pattern

repair: Repair | None = None

_SEGMENT = Struct("!BBBBhhHH")  # what, time, flags, anchors, seq and ack from there, window, size
SEGMENT, MORE, CALL, ERROR = range(4)
"""A segment that ends a batch, one that does not, a call, an ICMP error of the guest's."""
_PASSES = (0, 0, 0, 0.001, 0.001, 0.005, 0.04, 0.1, 0.2, 0.5, 1.1, 3, 20, 61, 130, 7300)
_NUMBERS = ((1000, 2000), (2**32 - 700, 2**32 - 1), (0, 0), (2**31, 2**31 - 5))
_MAX_PUT = 1 << 20
_CALLS = (
    "send 1",
    "send 1448",
    "send 5000",
    "send 65000",
    "finish 100",
    "shutdown",
    "release",
    "abort",
    "keep",
    "take",
    "consumed",
    "congest",
    "relieve",
    "vanish",
    "appear",
    "room",
)


class Conversation:
    """A connection, and what has been put together for it."""

    def __init__(self, first: bytes) -> None:
        how, timing = first.ljust(2, b"\0")[:2]
        iss, irs = _NUMBERS[how & 3]
        self.irs = irs
        self.bench = Bench(iss=iss, irs=irs, predicting=bool(how & 4))
        self.bench.c.interactive = bool(timing & 1)
        if timing & 2:
            self.bench.c.keepalive = 60.0
        self._batch: list[Segment] = []
        if how & 8:
            self.bench.call("open")
        else:
            self.bench.c.state = LISTEN

    @property
    def over(self) -> bool:
        return self.bench.c.state is CLOSED

    def feed(self, message: bytes) -> None:
        """Take one message."""
        if len(message) < _SEGMENT.size or self.over:
            return
        what, passes, *numbers = _SEGMENT.unpack_from(message)
        seconds = _PASSES[passes & 15]
        if seconds:
            self.arrive()
            with within():
                self.bench.advance(self.bench.now + seconds)
        if self.over:
            return
        what &= 3
        if what in (SEGMENT, MORE):
            self._batch.append(self._segment(*numbers, message[_SEGMENT.size :]))
            if what == MORE:
                return
        self.arrive()
        if self.over:
            return
        if what == CALL:
            self._call(numbers[0], numbers[2])
        elif what == ERROR:
            self._error(*numbers)
        self._after()

    def _segment(
        self, flags: int, anchors: int, seq: int, ack: int, window: int, size: int, options: bytes
    ) -> Segment:
        c = self.bench.c
        syn = bool(flags & wire.SYN)
        begun = c.state not in (LISTEN, SYN_SENT) or c.rcv_nxt
        base = (c.rcv_nxt, c.rcv_adv, c.rcv_nxt - 1, self.irs)[anchors & 3] if begun else self.irs
        at = base + seq
        acked = (c.snd_una, c.snd_nxt, c.out.end, c.iss)[anchors >> 2 & 3] + ack
        position = unwrap(at & MASK, c.rcv_nxt) - c.irs - 1 + syn if begun else 0
        return Segment(
            at & MASK,
            acked & MASK,
            flags & wire.FLAGS,
            window,
            wire.parse_options(self._stamped(options, anchors)),
            pattern(position, min(size, 20000)),
        )

    def _stamped(self, options: bytes, anchors: int) -> bytes:
        """Put timestamps of now in front, unless the segment wants its own."""
        if anchors & 0x80:
            return options[:40]
        now = int(self.bench.now * 1000) & MASK
        stamps = wire.TIMESTAMPS.pack(wire.TIMESTAMPS_WORD, now, self.bench.c.tsval(self.bench.now))
        return stamps + options[:28]

    def arrive(self) -> None:
        """Let the batch arrive."""
        batch, self._batch = self._batch, []
        if batch:
            with within():
                self.bench.arrives(*batch)
            self._after()

    def _after(self) -> None:
        self.bench.log.clear()
        if self.bench.c.state is LISTEN and self.bench.c.rcv_nxt:
            self.bench.call("accept")
            self.bench.check()

    def _call(self, number: int, size: int) -> None:
        bench, c = self.bench, self.bench.c
        name, *more = _CALLS[number & 15].split()
        sends = name in ("send", "finish")
        if sends and (c.fin_queued or bench.put > _MAX_PUT or c.state is LISTEN):
            return
        if name == "consumed":
            if not c.rcv_held:  # which is for what the user was given, and a SYN-SENT has nothing
                return
            more = [str(min(c.rcv_held, size & 0xFFFF))]
        if c.user is None and name not in ("congest", "relieve", "vanish", "appear"):
            return
        if name == "room":
            if not c.fin_queued:
                assert c.room(bench.now) >= 0
        else:
            bench.call(name, *more)
        bench.check()

    def _error(self, flags: int, anchors: int, seq: int, ack: int, window: int, size: int) -> None:
        c = self.bench.c
        number = (c.snd_una, c.snd_nxt, c.iss, 0)[anchors & 3] + seq & MASK
        flying = (number - c.snd_una) % (1 << 32) < c.snd_nxt - c.snd_una
        before = c.state, c.mss, c.congestion.mss, c.snd_nxt
        if flags & 1:
            path_errors.too_large(c, number, window)
        else:
            path_errors.unreachable(c, number, self.bench.now)
        after = c.state, c.mss, c.congestion.mss, c.snd_nxt
        assert flying or after == before, "an error about what is not on its way"
        assert c.state is before[0] or (before[0] is SYN_SENT and not flags & 1)
        assert before[1] >= c.mss
        assert before[1] == c.mss or before[0] not in (SYN_SENT, SYN_RECEIVED), (
            "no SYN is too large"
        )
        if c.touched:
            output.flush(c, self.bench.now)
        self.bench.check()

    def finish(self) -> None:
        """The user goes, and the guest says nothing more: this has to end."""
        self.arrive()
        bench, c = self.bench, self.bench.c
        if not self.over:
            bench.known, bench.congested = True, False
            if bench.waiting:
                bench.call("relieve")
            if c.user is not None:
                bench.call("release")
            bench.advance(bench.now + 20_000)
        assert self.over, "a connection that nobody has any more stays"


def target(data: bytes) -> None:
    """Give the segments of an input to a connection."""
    first, *rest = split(data) or [b""]
    conversation = Conversation(first)
    for message in rest:
        conversation.feed(message)
    conversation.finish()


# Valid traffic

_SYN_OPTIONS = wire.build_syn_options(1460, 7, True, (5, 0))


def segment(
    flags: int,
    size: int = 0,
    *,
    options: bytes = b"",
    what: int = SEGMENT,
    passes: int = 3,
    anchors: int = 4,
    seq: int = 0,
    ack: int = 0,
    window: int = 1000,
) -> bytes:
    """Return the message for a segment: in order and acknowledging everything, unless told."""
    return _SEGMENT.pack(what, passes, flags, anchors, seq, ack, window, size) + options


def _call(name: str, passes: int = 0) -> bytes:
    number = next(n for n, call in enumerate(_CALLS) if call.startswith(name))
    return _SEGMENT.pack(CALL, passes, number, 0, 500, 0, 0, 0)


def _errors(*kinds: int) -> list[bytes]:
    """Return ICMP errors about what is not on its way, and then about what is."""
    places = ((0, -1), (1, 0), (2, -1), (3, 0), (1, 5000), (0, 0))  # anchors, and from there
    return [
        _SEGMENT.pack(ERROR, 3, kind, anchor, place, 0, size, 0)
        for anchor, place in places
        for kind in kinds or (0, 1)
        for size in (500, 2000)
    ]


def _opened(how: int, timing: int = 1) -> list[bytes]:
    """Return the beginning of a conversation that the guest opens."""
    syn = segment(wire.SYN, anchors=0x80, options=_SYN_OPTIONS, window=65535)
    return [bytes((how, timing)), syn, segment(wire.ACK)]


def seeds() -> dict[str, bytes]:
    """Return conversations."""
    ack, text, fin = wire.ACK, wire.ACK | wire.PSH, wire.ACK | wire.FIN
    exchange = [segment(text, 100), _call("send 5000"), segment(ack, passes=4), _call("send 1")]
    end = [segment(fin), _call("shutdown"), segment(ack)]
    lost = [
        segment(text, 1000, seq=1000),
        segment(text, 1000, seq=3000, what=MORE),
        segment(text, 500, seq=5000),
        segment(text, 1000, passes=8),
        segment(text, 1000, seq=0),
    ]
    edges = [(1500, 2900), (4000, 5000)]
    sacks = [
        segment(ack, anchors=0, options=wire.build_sack([(left, right)]), passes=4)
        for left, right in edges
    ]
    answered = segment(wire.SYN | ack, anchors=0x84, options=_SYN_OPTIONS, window=65535)
    other = [bytes((8, 1)), answered, *exchange, *end]
    closing = [_call("keep"), segment(text, 20000), segment(text, 20000, what=MORE)]
    return {
        "plain": join([*_opened(0), *exchange, *end]),
        "predicted": join([*_opened(5), *exchange, *exchange, *end]),
        "wrapping": join([*_opened(1), *exchange, *end]),
        "without-options": join(
            [b"\0\1", segment(wire.SYN, anchors=0x80), segment(ack, anchors=0x84), *exchange, *end]
        ),
        "losses": join([*_opened(4), *lost, *end]),
        "sack": join([*_opened(4, 3), _call("send 65000"), *sacks, segment(ack, passes=9)]),
        "opened-by-the-host": join(other),
        "closed-window": join(
            [*_opened(0), segment(ack, window=0), _call("send 5000"), segment(ack, passes=11)]
        ),
        "kept": join([*_opened(4), *closing, _call("consumed"), _call("take"), *end]),
        "reset": join([*_opened(0, 3), *exchange, segment(wire.RST | ack)]),
        "keepalive": join([*_opened(0, 3), segment(ack, passes=13), segment(ack, passes=14)]),
        "unreachable": join([*_opened(0), _call("send 5000"), *_errors()]),
        "unreachable-acknowledged": join(
            [*_opened(0), _call("send 5000"), segment(ack), *_errors(), _call("send 1"), *_errors()]
        ),
        "unreachable-opening": join([b"\x08\1", *_errors(0)]),
        "too-large-opening": join([b"\x08\1", *_errors(1)]),
        "congested": join(
            [*_opened(0), _call("congest"), _call("send 65000"), _call("room"), _call("relieve")]
        ),
        "closed-by-the-host": join([*_opened(0), _call("finish"), segment(ack), segment(fin)]),
        "released": join([*_opened(0), _call("send 5000"), _call("release"), segment(text, 9)]),
    }
