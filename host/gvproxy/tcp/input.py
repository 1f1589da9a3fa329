"""A segment arrives: RFC 9293 §3.10.7, in its order, a function per step.

`prediction` takes the segments that need none of this; everything here is right for those too.
"""

from dataclasses import dataclass, field
from math import inf

from gvproxy.tcp import output, recovery
from gvproxy.tcp.buffers import Reassembly
from gvproxy.tcp.connection import MAX_SEGMENT, WINDOW_SHIFT, Connection
from gvproxy.tcp.rack import DUP_THRESHOLD
from gvproxy.tcp.rtt import MAX_RTO, RTO_AFTER_LOST_SYN
from gvproxy.tcp.seq import MASK, unwrap
from gvproxy.tcp.states import (
    ACK_COMPRESSED,
    ACK_DELAYED,
    ACK_NOW,
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    LINGER,
    LISTEN,
    NO_ACK,
    PERSIST,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    End,
)
from gvproxy.tcp.timers import FIN_WAIT_2_TIME, TIME_WAIT_TIME
from gvproxy.wire import tcp as wire

CHALLENGE_INTERVAL = 0.1
"""Seconds between two challenge ACKs of one connection (RFC 5961 §7 wants a limit)."""
HURRY = 8 << 20
"""Bytes after a gap for which acknowledgments leave as early as they can (`output.hurry`)."""
COMPRESSION_RTT = 0.01
"""Seconds of a round trip from which on acknowledgments of segments ahead of a gap are compressed.
"""
PAWS_IDLE = 24 * 86400.0
"""Seconds after which a guest's clock of 1 ms may have gone once around (RFC 7323 §5.5)."""

_TEXT = (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2)


@dataclass(slots=True)
class Segment:
    """A segment from the guest, numbers as on the wire; `payload` is valid during the batch."""

    seq: int
    ack: int
    flags: int
    window: int
    options: wire.Options = field(default_factory=wire.Options)
    payload: bytes | memoryview = b""


def reset_reply(segment: Segment) -> tuple[int, int, int] | None:
    """Return (seq, ack, flags) of the RST for a segment to no connection (RFC 9293 §3.10.7.1)."""
    if segment.flags & wire.RST:
        return None
    if segment.flags & wire.ACK:
        return segment.ack, 0, wire.RST
    length = len(segment.payload) + bool(segment.flags & wire.SYN) + bool(segment.flags & wire.FIN)
    return 0, (segment.seq + length) & MASK, wire.RST | wire.ACK


def may_reopen(c: Connection, segment: Segment) -> bool:
    """Tell whether a SYN may take the place of `c` in TIME-WAIT (RFC 9293 MAY-2, RFC 6191)."""
    if c.state is not TIME_WAIT or segment.flags & (wire.SYN | wire.RST | wire.ACK) != wire.SYN:
        return False
    if c.timestamps and segment.options.timestamps:
        age = (segment.options.timestamps[0] - c.ts_recent) & MASK
        if age:
            return age < 0x80000000
    return unwrap(segment.seq, c.rcv_nxt) > c.rcv_nxt


def segment_arrives(c: Connection, segment: Segment, now: float) -> None:
    """Take one segment; what it makes possible happens in `output.flush`, at the batch's end."""
    c.counters.segments_in += 1
    c.heard_at = now
    c.scheduler.touch(c)
    if c.state is LISTEN:
        _listen(c, segment, now)
    elif c.state is SYN_SENT:
        _syn_sent(c, segment, now)
    elif c.state is not CLOSED:
        _otherwise(c, segment, now)


def _listen(c: Connection, segment: Segment, now: float) -> None:
    """RFC 9293 §3.10.7.2; a SYN that comes again finds the decision still open."""
    if segment.flags & wire.RST:
        return
    if segment.flags & wire.ACK:
        _refuse_ack(c, segment)
    elif segment.flags & wire.SYN:
        # Its text is not kept: the SYN alone is acknowledged, and the guest sends it again.
        _take_syn(c, segment, now)


def _refuse_ack(c: Connection, segment: Segment) -> None:
    """Reset whoever acknowledges what was never sent, and stay as we are."""
    c.counters.resets_out += 1
    c.path.send(segment.ack, 0, wire.RST, 0, b"", b"", c.mss)


def _take_syn(c: Connection, segment: Segment, now: float) -> None:
    """Keep what the guest's SYN says: its numbers, its window and what it can do."""
    options = segment.options
    c.irs = segment.seq
    c.rcv_nxt = c.rcv_adv = c.rcv_acked = segment.seq + 1
    c.snd_wnd = segment.window  # never scaled in a SYN (RFC 7323 §2.2)
    c.sack = options.sack_permitted
    mss = min(max(options.mss or wire.DEFAULT_MSS, wire.MIN_MSS), c.mss_offered, MAX_SEGMENT)
    c.timestamps = options.timestamps is not None
    if options.timestamps is not None:
        c.ts_recent, c.ts_recent_at = options.timestamps[0], now
        mss -= wire.TIMESTAMPS.size
    c.mss = c.congestion.mss = mss
    if options.window_shift is None:
        c.rcv_shift = c.snd_shift = 0
        c.rcv_limit = min(c.rcv_limit, 0xFFFF)
    else:
        c.rcv_shift, c.snd_shift = WINDOW_SHIFT, options.window_shift


def _syn_sent(c: Connection, segment: Segment, now: float) -> None:
    """RFC 9293 §3.10.7.3."""
    flags = segment.flags
    acceptable = False
    if flags & wire.ACK:
        acceptable = segment.ack == c.snd_nxt & MASK
        if not acceptable:
            if not flags & wire.RST:
                _refuse_ack(c, segment)
            return
    if flags & wire.RST:
        if acceptable:
            c.counters.resets_in += 1
            output.close(c, End.RESET, now)
        return
    if not flags & wire.SYN:
        return
    _take_syn(c, segment, now)
    c.rcv_adv += min(c.rcv_limit, 0xFFFF)  # what our SYN offered
    if acceptable:
        c.snd_una = c.snd_nxt
        c.ack = ACK_NOW
        enter_established(c, now)
        _process_text(c, segment, c.rcv_nxt, now)
    else:
        c.state = SYN_RECEIVED  # simultaneous open
        output.emit_syn(c, now)


def enter_established(c: Connection, now: float) -> None:
    """The handshake is complete; SND.UNA and SND.WND are those of the segment that says so."""
    c.state = ESTABLISHED
    c.counters.established += 1
    c.scheduler.handshake_done(c)
    c.snd_wl1, c.snd_wl2 = c.rcv_nxt, c.snd_una
    c.max_snd_wnd = c.snd_wnd
    if c.syn_at >= 0:
        c.rtt.sample(now - c.syn_at)
    if c.retries:
        # Ours was lost: RFC 6298 (5.7), RFC 5681 §3.1.
        c.rtt.rto = RTO_AFTER_LOST_SYN
        c.congestion.cwnd = c.mss
    c.retries = 0
    c.rest(now)
    if c.fin_queued:
        c.state = FIN_WAIT_1
    if c.user is not None:
        c.user.established(now)


def _otherwise(c: Connection, segment: Segment, now: float) -> None:
    """RFC 9293 §3.10.7.4, after the timestamp check of RFC 7323 §5.3."""
    seq = unwrap(segment.seq, c.rcv_nxt)
    if c.state is SYN_RECEIVED and segment.flags & wire.SYN and seq == c.irs:
        if not segment.flags & wire.ACK:
            # Our SYN-ACK was lost.  The time of this SYN is what the guest can measure by.
            _take_timestamp(c, segment, now)
            output.emit_syn(c, now)
            return
        # Simultaneous open, line 7 of figure 7: the SYN is known, what counts is the ACK.
        segment.flags &= ~wire.SYN
        segment.window >>= c.snd_shift  # a SYN's is not scaled; later ones will be
        seq += 1
    if not _check_timestamp(c, segment, now) or not _check_sequence(c, segment, seq):
        _unacceptable(c, segment, seq, now)
        return
    if segment.flags & wire.RST:
        _check_reset(c, seq, now)
        return
    if segment.flags & wire.SYN:
        _challenge(c, now)  # RFC 5961 §4
        return
    if not segment.flags & wire.ACK:
        return
    keep = seq <= c.rcv_acked
    if not _process_ack(c, segment, seq, now):
        return
    if keep:
        _take_timestamp(c, segment, now)  # RFC 7323 §5.3 R3, yet behind all other checks
    _process_text(c, segment, seq, now)


def _take_timestamp(c: Connection, segment: Segment, now: float) -> None:
    if c.timestamps and segment.options.timestamps is not None:
        c.ts_recent, c.ts_recent_at = segment.options.timestamps[0], now


def _unacceptable(c: Connection, segment: Segment, seq: int, now: float) -> None:
    """Answer a segment outside the window: it helps whoever lost ours, and keep-alives (§3.8.4)."""
    if segment.flags & wire.RST:
        return
    if (segment.payload or segment.flags & wire.FIN) and not segment.flags & wire.SYN:
        c.ack = ACK_NOW
        end = seq + len(segment.payload)
        if seq < end <= c.rcv_nxt:
            _report(c, seq, end, now)
        if c.state is TIME_WAIT:
            c.arm(LINGER, now + TIME_WAIT_TIME)
    else:
        # At a limited rate: the answer to an acknowledgment may be as unacceptable over there.
        _challenge(c, now)


def _check_timestamp(c: Connection, segment: Segment, now: float) -> bool:
    """Tell an old duplicate by its timestamp: PAWS, RFC 7323 §5.3 R1.

    Deviation: §3.2 would drop a segment that lacks timestamps; Linux takes it.
    """
    stamps = segment.options.timestamps
    return (
        not c.timestamps
        or stamps is None
        or bool(segment.flags & wire.RST)
        or (stamps[0] - c.ts_recent) & MASK <= 0x7FFFFFFF
        or now - c.ts_recent_at > PAWS_IDLE
    )


def _check_sequence(c: Connection, segment: Segment, seq: int) -> bool:
    """First, check sequence number: the four cases of RFC 9293 table 6.

    Deviation: a segment without text is acceptable at the right edge too, as in Linux.  There
    stand the acknowledgments of a guest that has filled the window and lost a part of it.
    """
    length = len(segment.payload) + bool(segment.flags & wire.FIN) + bool(segment.flags & wire.SYN)
    nxt = c.rcv_nxt
    window = c.rcv_adv - nxt
    if not length:
        return nxt <= seq <= nxt + window
    if window <= 0:
        # MUST-66: the ACK and a RST still count; the text is trimmed to nothing later.
        return seq == nxt and not segment.flags & wire.SYN
    return nxt <= seq < nxt + window or nxt <= seq + length - 1 < nxt + window


def _check_reset(c: Connection, seq: int, now: float) -> None:
    """Second: only the exact next number resets (RFC 5961 §3)."""
    if seq != c.rcv_nxt:
        _challenge(c, now)
        return
    c.counters.resets_in += 1
    output.hand_over(c, now)
    output.close(c, End.DONE if c.state is TIME_WAIT else End.RESET, now)


def _challenge(c: Connection, now: float) -> None:
    """Ask a peer that may be an impostor for the right number, at a limited rate (RFC 5961)."""
    if now - c.challenge_at >= CHALLENGE_INTERVAL:
        c.challenge_at = now
        c.counters.challenges += 1
        output.acknowledge(c, now)


def _process_ack(c: Connection, segment: Segment, seq: int, now: float) -> bool:
    """Fifth, check the ACK field; False ends the segment's processing."""
    ack = unwrap(segment.ack, c.snd_una)
    if c.state is SYN_RECEIVED:
        if ack != c.snd_nxt:
            _refuse_ack(c, segment)
            return False
        c.snd_una = ack
        c.snd_wnd = segment.window << c.snd_shift
        enter_established(c, now)
        return True
    if ack > c.snd_nxt or ack < c.snd_una - max(c.max_snd_wnd, 0xFFFF):
        _challenge(c, now)  # RFC 5961 §5
        return False
    if ack >= c.snd_una:
        _process_losses(c, segment, ack, now)
        _update_window(c, segment, seq, ack, now)
    elif c.sack and segment.options.sack:
        # It was overtaken, and what it says of single segments may be news, D-SACK above all.
        recovery.take_sack(c, segment.options.sack, ack, now)
    if c.fin_queued and c.snd_una > c.out.end:
        return fin_acknowledged(c, now)
    return True


def _process_losses(c: Connection, segment: Segment, ack: int, now: float) -> None:
    """Take what the segment says of ours: acknowledged, arrived behind a gap, or missing."""
    tsecr = segment.options.timestamps[1] if c.timestamps and segment.options.timestamps else 0
    advances = ack > c.snd_una
    if advances:
        if c.recovering and tsecr:
            recovery.undo(c, tsecr)
        measured = recovery.acknowledged(c, ack, now)
        if tsecr and not measured:
            # What was sent again tells its round trip by its timestamp (RFC 7323 §4).
            rtt = (c.tsval(now) - tsecr) & MASK
            if rtt < MAX_RTO * 1000:
                c.rtt.sample(max(rtt, 1) / 1000)
    if c.sack:
        if segment.options.sack:
            recovery.take_sack(c, segment.options.sack, ack, now)
        if c.flight.sacked or c.recovering:
            recovery.detect(c, now)
    elif not advances and _is_duplicate(c, segment):
        recovery.duplicate(c, now)


def _is_duplicate(c: Connection, segment: Segment) -> bool:
    """Tell whether a segment is what RFC 5681 §2 calls a duplicate acknowledgment."""
    return (
        c.snd_una < c.snd_nxt
        and not segment.payload
        and not segment.flags & wire.FIN
        and segment.window << c.snd_shift == c.snd_wnd
    )


def _update_window(c: Connection, segment: Segment, seq: int, ack: int, now: float) -> None:
    if c.snd_wl1 < seq or (c.snd_wl1 == seq and c.snd_wl2 <= ack):
        window = segment.window << c.snd_shift
        if window and not c.snd_wnd:
            c.retries = 0
            c.probe_interval = 0.0
        c.snd_wnd = window
        c.snd_wl1, c.snd_wl2 = seq, ack
        if window > c.max_snd_wnd:
            c.max_snd_wnd = window
    if not c.snd_wnd:
        # The guest answers: probing may go on for ever (RFC 9293 §3.8.6.1), if anybody waits.
        if c.user is not None:
            c.retries = 0
    elif c.timer is PERSIST:
        c.rest(now)


def fin_acknowledged(c: Connection, now: float) -> bool:
    """Our FIN has arrived; False ends the segment's processing."""
    if c.state is FIN_WAIT_1:
        c.state = FIN_WAIT_2
        if c.user is None:
            c.arm(LINGER, now + FIN_WAIT_2_TIME)
    elif c.state is CLOSING:
        _enter_time_wait(c, now)
    elif c.state is LAST_ACK:
        output.flush(c, now)
        output.close(c, End.DONE, now)
        return False
    return True


def _enter_time_wait(c: Connection, now: float) -> None:
    c.state = TIME_WAIT
    c.arm(LINGER, now + TIME_WAIT_TIME)


def _process_text(c: Connection, segment: Segment, seq: int, now: float) -> None:
    """Seventh and eighth: the segment text and the FIN behind it."""
    payload = segment.payload
    fin = bool(segment.flags & wire.FIN)
    if not payload and not fin:
        return
    if c.state not in _TEXT:
        if c.state is TIME_WAIT:
            c.arm(LINGER, now + TIME_WAIT_TIME)
        c.ack = ACK_NOW
        return
    nxt, edge = c.rcv_nxt, c.rcv_adv
    end = seq + len(payload)
    if c.user is None and end > nxt:
        # Nobody will read it, and the guest must know (RFC 9293 §3.6.1, RFC 2525 §2.17).
        output.reset(c)
        output.close(c, End.RESET, now)
        return
    if seq < nxt:
        if payload:
            _report(c, seq, min(nxt, end), now)
        payload = payload[nxt - seq :]
        seq = nxt
        c.ack = ACK_NOW
    if end > edge:
        payload = payload[: max(edge - seq, 0)]
        end = seq + len(payload)
        fin = False
        c.ack = ACK_NOW
    if payload and c.memory.scarce and (seq > nxt or c.rcv_held):
        c.counters.refused += 1
        output.acknowledge(c, now)
        return
    if fin:
        c.rcv_fin = end
    if seq > nxt:
        if payload:
            _keep_early(c, seq, payload, now)
        _report_gap(c, now)
        return
    if payload:
        deliver(c, payload, now)
        if c.early:
            c.ack = ACK_NOW
            before = c.early.size
            for piece in c.early.take(c.rcv_nxt):
                deliver(c, piece, now)
            c.memory.keep(c.early.size - before)
            if not c.early:
                c.early = None
    if c.rcv_fin == c.rcv_nxt and (c.state in _TEXT):
        process_fin(c, now)


def _report_gap(c: Connection, now: float) -> None:
    """Say that something has come ahead of a gap (RFC 5681 §4.2).

    Each at once, in a batch as well: a guest without SACK counts them, and another that has lost
    one acknowledgment has the next.  Once it must know, and a round trip is long, one in a while
    will do, as in Linux (tcp_comp_sack_delay_ns): a steady train of them ends HyStart (RFC 9406).
    """
    if c.gap_at != c.rcv_nxt:
        c.gap_at, c.gap_acks = c.rcv_nxt, 0
    if c.gap_acks >= DUP_THRESHOLD and c.sack and COMPRESSION_RTT <= c.rtt.least < inf:
        if c.ack is NO_ACK:
            c.ack = ACK_COMPRESSED
    else:
        c.gap_acks += 1
        output.acknowledge(c, now)


def _report(c: Connection, left: int, right: int, now: float) -> None:
    """Have the next acknowledgment say what came once more; each counts (RFC 2883 §4)."""
    if c.repeated is not None:
        output.acknowledge(c, now)
    c.repeated = (left, right)
    c.ack = ACK_NOW


def _keep_early(c: Connection, seq: int, payload: bytes | memoryview, now: float) -> None:
    """Keep payload that came ahead of a gap; what is there already is reported as repeated."""
    if c.early is None:
        c.early = Reassembly()
    c.hurry_until = c.rcv_nxt + HURRY
    before = c.early.size
    if not c.early.add(seq, payload):
        _report(c, seq, seq + len(payload), now)
    c.memory.keep(c.early.size - before)


def deliver(c: Connection, payload: bytes | memoryview, now: float) -> None:
    """Add in-order payload to the batch and decide how soon it is acknowledged."""
    count = len(payload)
    c.inbox.append(payload)
    c.rcv_held += count
    c.memory.keep(count)
    c.rcv_nxt += count
    if c.ack is not ACK_NOW:
        if c.interactive and c.rcv_nxt - c.rcv_acked < 2 * c.mss:
            c.ack = ACK_DELAYED
        else:
            c.ack = ACK_NOW


def process_fin(c: Connection, now: float) -> None:
    """Eighth, check the FIN bit: the guest's stream ends here."""
    c.rcv_nxt += 1
    if c.rcv_adv < c.rcv_nxt:
        c.rcv_adv = c.rcv_nxt  # a FIN takes no buffer: it is welcome in a closed window
    c.fin_seen = True
    if c.early:
        c.memory.keep(-c.early.size)  # behind the end there is nothing
        c.early = None
    c.ack = ACK_NOW
    if c.state is ESTABLISHED:
        c.state = CLOSE_WAIT
    elif c.state is FIN_WAIT_1:
        c.state = CLOSING  # ours is not acknowledged yet
    elif c.state is FIN_WAIT_2:
        _enter_time_wait(c, now)
    c.ack_at = inf
