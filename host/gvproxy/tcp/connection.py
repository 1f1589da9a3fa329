"""One TCP connection: its state, what it belongs to, and the calls its user makes.

A connection stands between three others, each behind a small protocol:

* `User`: whom the bytes are for: a host socket, a virtual socket, a test.
* `Path`: puts segments on the wire toward the guest.
* `Scheduler`: wakes the connection when its next deadline is due and, at the end of each batch of
  frames, calls `output.flush` for those that were touched.

The verbs: `input.segment_arrives` (or `prediction.predict`), those of `calls`, `output.flush`,
`Connection.deadline` and `timers.expire`.  All of them take `now`, in seconds of one monotonic
clock.  Names are RFC 9293's; sequence numbers are unwrapped (see `seq`).
"""

from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from gvproxy.tcp.buffers import Reassembly, SendBuffer
from gvproxy.tcp.congestion import CongestionControl, Cubic
from gvproxy.tcp.flight import Flight
from gvproxy.tcp.memory import Memory
from gvproxy.tcp.rack import Rack
from gvproxy.tcp.rtt import RttEstimator
from gvproxy.tcp.seq import MASK
from gvproxy.tcp.states import (
    ACK_COMPRESSED,
    CLOSED,
    KEEPALIVE,
    NO_ACK,
    NO_TIMER,
    PERSIST,
    PROBE,
    REORDER,
    RETRANSMIT,
    Ack,
    End,
    State,
    Timer,
)
from gvproxy.wire import tcp as wire

RECEIVE_BUFFER = 1 << 20
"""Bytes of window offered to the guest while its data is taken as it comes.

The link's own delay is a fraction of a millisecond; the outside path's is the outside socket's
affair.  A megabyte is sixteen super-frames.
"""
WINDOW_SHIFT = 7
MAX_RECEIVE_BUFFER = 0xFFFF << WINDOW_SHIFT
"""Where the guest fills the window again and again: eight megabytes are 100 ms at 670 Mbit/s."""
DELAYED_ACK = 0.05
"""Seconds a guest may take to acknowledge a single segment: Linux waits 40 ms (TCP_ATO_MIN)."""
SCARCE_WINDOW = 65536
"""Bytes; where its guest's memory is scarce (`Memory`)."""
MAX_SEGMENT = 65535 - 20 - 60
"""Payload that fits one IPv4 packet whatever the options."""


class User(Protocol):
    """Whom a connection's bytes are for."""

    def established(self, now: float) -> None:
        """The handshake is complete."""

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        """Take in-order payload, valid until the call returns; say how many bytes are done with.

        What the user keeps (copied) it reports later through `calls.consumed`; until then
        it takes up window.
        """

    def received_eof(self, now: float) -> None:
        """The guest has sent its FIN; all its data was handed over before."""

    def writable(self, now: float) -> None:
        """`room()` was asked for and too small, and has grown."""

    def ended(self, end: End, now: float) -> None:
        """The connection is over; it makes no further call."""


class Path(Protocol):
    """The way of a connection's segments to the guest."""

    @property
    def congested(self) -> bool:
        """True while the way is full and new data should wait."""

    @property
    def known(self) -> bool:
        """False while nobody is there to send to; what is sent meanwhile is lost."""

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
        """Send one segment; numbers as on the wire, payload of any size up to MAX_SEGMENT.

        A payload of more than `mss` bytes is cut into such pieces on its way, by the guest's
        kernel or in software; it must not change afterwards.
        """


class Scheduler(Protocol):
    """What calls a connection back."""

    def touch(self, connection: "Connection") -> None:
        """Have `output.flush` called at the end of this batch."""

    def schedule(self, connection: "Connection", deadline: float) -> None:
        """Have `timers.expire` called at `deadline` at the latest; earlier is allowed."""

    def handshake_done(self, connection: "Connection") -> None:
        """The handshake is complete."""

    def forget(self, connection: "Connection") -> None:
        """The connection is CLOSED: drop it."""

    def wait_for_path(self, connection: "Connection") -> None:
        """Have `touch` called when the congested path is free again."""


@dataclass(slots=True)
class Counters:
    """Totals over all connections of a stack."""

    active_opens: int = 0
    passive_opens: int = 0
    established: int = 0
    segments_in: int = 0
    segments_out: int = 0
    retransmits: int = 0
    timeouts: int = 0
    fast_recoveries: int = 0
    tail_probes: int = 0
    undone: int = 0
    duplicates: int = 0
    resets_in: int = 0
    resets_out: int = 0
    challenges: int = 0
    invalid: int = 0
    checksum_errors: int = 0
    refused: int = 0
    """Segments with text that there was no memory for."""


@dataclass(slots=True, eq=False)
class Connection:
    """A transmission control block (RFC 9293 §3.3.1)."""

    path: Path
    scheduler: Scheduler
    counters: Counters
    memory: Memory
    mss: int  # the largest payload of one segment on the wire, options taken off
    iss: int
    mss_offered: int = 1460  # what our SYN says: the interface's MTU less the fixed headers
    keepalive: float = inf  # seconds of silence until the guest is asked whether it is there
    ts_offset: int = 0  # added to the clock for TSval, so that it tells no uptime
    user: User | None = None
    state: State = CLOSED
    touched: bool = False  # in the scheduler's list for the end of the batch

    # Sending
    snd_una: int = 0
    snd_nxt: int = 0
    snd_wnd: int = 0
    snd_wl1: int = 0
    snd_wl2: int = 0
    snd_shift: int = 0
    max_snd_wnd: int = 0
    fin_queued: bool = False
    wants_room: bool = False
    dup_acks: int = 0  # of a guest without SACK
    recovering: bool = False
    timed_out: bool = False  # recovering from a timeout
    recover: int = 0  # snd_nxt when recovery began (RFC 6582, RFC 6675)
    resent_at: float = -1.0  # when the first retransmission of this recovery left
    resent: int = 0  # bytes of retransmissions of it that no D-SACK has called superfluous
    probe_end: int = -1  # snd_nxt when the tail was probed (RFC 8985 TLP.end_seq)
    probe_again: bool = False  # the probe was a retransmission
    retries: int = 0

    # Receiving
    irs: int = 0
    rcv_nxt: int = 0
    rcv_adv: int = 0  # the right edge of the window as the guest knows it; never retreats
    rcv_acked: int = 0  # rcv_nxt as last sent
    rcv_held: int = 0  # bytes the user was given and has not consumed
    rcv_limit: int = RECEIVE_BUFFER
    tune_end: int = 0  # when rcv_nxt gets there, rcv_limit is looked at again
    tune_at: float = 0.0  # when it was looked at
    rcv_shift: int = 0
    hurry_until: int = 0  # where losses keep the guest's window small: until rcv_nxt gets there
    gap_at: int = -1  # rcv_nxt when something came ahead of a gap
    gap_acks: int = 0  # that have said so since rcv_nxt got there
    rcv_fin: int = -1  # where the guest's stream ends, from a FIN that came ahead of a gap
    fin_seen: bool = False
    repeated: tuple[int, int] | None = None  # what came once more, for D-SACK
    eof_told: bool = False
    ack: Ack = NO_ACK
    interactive: bool = True  # until a delayed ACK found no data to ride along with

    # Options
    timestamps: bool = False
    ts_recent: int = 0
    ts_recent_at: float = 0.0  # when the guest last moved it
    sack: bool = False

    # Timing
    timer: Timer = NO_TIMER
    timer_at: float = inf
    probe_interval: float = 0.0  # while the guest's window is closed
    ack_at: float = inf
    scheduled_at: float = inf  # the scheduler's: when it will call `timers.expire`
    challenge_at: float = -inf  # when the last challenge ACK was sent
    heard_at: float = 0.0  # when the guest last sent anything
    syn_at: float = -1.0  # when our SYN left; negative where it left more than once

    flight: Flight = field(default_factory=Flight)
    rack: Rack = field(default_factory=Rack)
    out: SendBuffer = field(init=False)
    early: Reassembly | None = None
    inbox: list[memoryview | bytes] = field(default_factory=list)  # of this batch
    rtt: RttEstimator = field(default_factory=RttEstimator)
    congestion: CongestionControl = field(init=False)

    def __post_init__(self) -> None:
        self.snd_una = self.snd_nxt = self.recover = self.iss
        self.out = SendBuffer(self.iss + 1)
        self.congestion = Cubic(self.mss)

    @property
    def deadline(self) -> float:
        """When `timers.expire` is due, in seconds; infinite when nothing is waited for."""
        return min(self.timer_at, self.ack_at)

    @property
    def urgent(self) -> bool:
        """What it waits for is a matter of milliseconds, and comes when the guest's way is long."""
        return self.timer is REORDER or self.ack is ACK_COMPRESSED

    def tsval(self, at: float) -> int:
        """Return the timestamp of what is sent at `at`: milliseconds (RFC 7323 §5.4)."""
        return int(at * 1000) + self.ts_offset & MASK

    def arm(self, timer: Timer, at: float) -> None:
        """Wait for one thing only, until `at`."""
        self.timer = timer
        self.timer_at = at
        if at < self.scheduled_at:
            self.scheduler.schedule(self, at)

    def disarm(self) -> None:
        """Wait for nothing; the scheduler may still call, and finds nothing due."""
        self.timer = NO_TIMER
        self.timer_at = inf

    def await_ack(self, now: float) -> None:
        """Wait for the acknowledgment of what is on its way, where there is something."""
        if not self.flight.records:
            self.rest(now)
            return
        rtt = self.rtt
        if self.sack and self.probe_end < 0 and not self.recovering and rtt.srtt:
            wait = rtt.pto
            if self.snd_nxt - self.snd_una <= self.mss:
                wait += DELAYED_ACK
            if wait < rtt.rto:
                self.arm(PROBE, now + wait)
                return
        self.arm(RETRANSMIT, now + rtt.rto)

    def rest(self, now: float) -> None:
        """Wait for nothing but a guest that has gone silent."""
        if self.keepalive < inf:
            self.arm(KEEPALIVE, now + self.keepalive)
        else:
            self.disarm()

    @property
    def resting(self) -> bool:
        """Nothing is on its way that would bring an answer."""
        return self.timer is NO_TIMER or self.timer is KEEPALIVE

    def await_window(self, now: float) -> None:
        """Ask the guest from time to time, until its window opens (RFC 9293 §3.8.6.1)."""
        self.probe_interval = self.rtt.rto
        self.arm(PERSIST, now + self.probe_interval)

    def room(self, now: float) -> int:
        """Return how many bytes `calls.send` would put on the wire at once; 0 asks for `writable`.

        Not to be asked after `calls.shutdown`.
        It is no sliver while something is on its way, whose acknowledgment may bring more: that is
        the sender's silly-window avoidance (RFC 9293 §3.8.6.2.1).
        """
        if not self.path.congested:
            queued = self.out.end - self.snd_una
            usable = min(self.congestion.cwnd + self.flight.sacked, self.snd_wnd) - queued
            if usable >= self.mss or (
                usable > 0 and (not queued or usable >= self.max_snd_wnd >> 1)
            ):
                if not self.memory.scarce:
                    return usable
                if not queued:
                    return min(usable, self.mss)
            if self.resting:
                self.await_window(now)
        else:
            self.scheduler.wait_for_path(self)
        self.wants_room = True
        return 0


def flags_name(flags: int) -> str:
    """Write a segment's flags as their initials, for logs and traces."""
    names = ((wire.SYN, "S"), (wire.FIN, "F"), (wire.RST, "R"), (wire.PSH, "P"), (wire.ACK, "."))
    return "".join(initial for flag, initial in names if flags & flag)
