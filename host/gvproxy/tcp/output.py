"""Segments to send: data, acknowledgments, the window they carry, retransmissions, resets."""

from math import inf

from gvproxy.tcp.connection import MAX_SEGMENT, Ack, Connection, End, State, Timer
from gvproxy.tcp.seq import MASK
from gvproxy.wire import tcp as wire

ACK_DELAY = 0.01
"""Seconds an acknowledgment waits for data to ride on; RFC 9293 §3.8.6.3 allows 0.5.

Two full segments end the wait, and a connection on which it was in vain once does not wait again:
a guest that holds back its second small write (Nagle) loses ten milliseconds, once.
"""

_SENDING = (
    State.ESTABLISHED,
    State.FIN_WAIT_1,
    State.CLOSE_WAIT,
    State.CLOSING,
    State.LAST_ACK,
)


def emit(c: Connection, seq: int, flags: int, payload: bytes | memoryview, now: float) -> None:
    """Send one segment from `seq` on with the current acknowledgment and window."""
    nxt = c.rcv_nxt
    # Receiver's silly-window avoidance (RFC 9293 §3.8.6.2.2): the edge moves in steps.
    edge = nxt + c.rcv_limit - c.rcv_held
    growth = edge - c.rcv_adv
    if growth >= c.mss or growth >= c.rcv_limit >> 1:
        c.rcv_adv = edge
    # Rounded up, for rounding down would take back what was promised (RFC 7323 §2.4).
    window = -((nxt - c.rcv_adv) >> c.rcv_shift)
    if window > 0xFFFF:
        window = 0xFFFF
    rounded = nxt + (window << c.rcv_shift)
    if c.rcv_adv < rounded > edge + (c.rcv_limit >> 4):
        # Yet a guest that sends less than one unit at a time must not push the edge for ever.
        window -= 1
    else:
        c.rcv_adv = rounded
    options = (
        wire.TIMESTAMPS.pack(
            wire.TIMESTAMPS_WORD, (int(now * 1000) + c.ts_offset) & MASK, c.ts_recent
        )
        if c.timestamps
        else b""
    )
    mss = c.mss
    if c.early and c.sack:
        blocks = c.early.blocks(3 if c.timestamps else 4)
        sack = wire.build_sack([(left & MASK, right & MASK) for left, right in blocks])
        options += sack
        mss -= len(sack)  # RFC 6691 §2: what options take, the payload gives
    c.rcv_acked = nxt
    c.ack = Ack.NONE
    c.ack_at = inf
    c.counters.segments_out += 1
    c.path.send(seq & MASK, nxt & MASK, flags, window, options, payload, mss)


def emit_syn(c: Connection, now: float) -> None:
    """Send our SYN, with the ACK of theirs where we have it."""
    flags = wire.SYN if c.state is State.SYN_SENT else wire.SYN | wire.ACK
    offered = c.state is State.SYN_SENT
    timestamps = None
    if offered or c.timestamps:
        timestamps = ((int(now * 1000) + c.ts_offset) & MASK, c.ts_recent)
    options = wire.build_syn_options(
        c.mss_offered,
        c.rcv_shift if offered or c.rcv_shift else None,
        offered or c.sack,
        timestamps,
    )
    window = min(c.rcv_limit, 0xFFFF)  # never scaled in a SYN (RFC 7323 §2.2)
    c.rcv_adv = c.rcv_nxt + window
    c.rcv_acked = c.rcv_nxt
    c.counters.segments_out += 1
    if c.snd_max == c.iss:
        c.snd_nxt = c.snd_max = c.timed_seq = c.iss + 1
        c.timed_at = now
    else:
        c.counters.retransmits += 1
        c.timed_seq = -1  # Karn: which one will be acknowledged?
    c.path.send(c.iss & MASK, c.rcv_nxt & MASK, flags, window, options, b"", c.mss)
    c.arm(Timer.RETRANSMIT, now + c.rtt.rto)


def acknowledge(c: Connection, now: float) -> None:
    """Send an acknowledgment without data."""
    emit(c, acceptable_seq(c), wire.ACK, b"", now)


def acceptable_seq(c: Connection) -> int:
    """Return the number for a segment without text: behind all that was sent, in the window.

    `snd_nxt` would be wrong after a timeout, when it falls back: the guest takes no
    acknowledgment from a segment that lies before its window.  That may have lost up to one unit
    by rounding (RFC 7323 §2.4), which says nothing about where it ends.
    """
    if c.snd_max - c.snd_una >= c.snd_wnd + (1 << c.snd_shift):
        return c.snd_una + c.snd_wnd
    return c.snd_max


def sent(c: Connection, nxt: int, now: float) -> None:
    """Account for everything up to `nxt` as sent."""
    c.snd_nxt = nxt
    if nxt > c.snd_max:
        c.snd_max = nxt
        if c.timed_seq < 0:
            c.timed_seq, c.timed_at = nxt, now
    if c.timer is not Timer.RETRANSMIT:
        c.arm(Timer.RETRANSMIT, now + c.rtt.rto)


def transmit(c: Connection, now: float) -> None:
    """Send what is queued as far as both windows allow, in the largest segments there are."""
    end, una, mss = c.out.end, c.snd_una, c.mss
    largest = MAX_SEGMENT - MAX_SEGMENT % mss
    limit = una + min(c.congestion.cwnd, c.snd_wnd)
    nxt = c.snd_nxt
    while nxt < end:
        rest = end - nxt
        size = min(rest, limit - nxt, largest)
        if size <= 0:
            break
        if size < rest:
            if size < mss and nxt > una and size < c.max_snd_wnd >> 1:
                break  # sender's silly-window avoidance (RFC 9293 §3.8.6.2.1)
            if size > mss:
                size -= size % mss
        if nxt < c.snd_max:
            c.counters.retransmits += 1
        flags = wire.ACK | wire.PSH if size == rest else wire.ACK
        if c.fin_queued and size == rest:
            flags |= wire.FIN
        emit(c, nxt, flags, c.out.peek(nxt, size), now)
        nxt += size + (flags & wire.FIN)
        sent(c, nxt, now)
    if c.fin_queued and nxt == end:
        emit(c, nxt, wire.ACK | wire.FIN, b"", now)
        sent(c, nxt + 1, now)
    elif nxt < end and c.timer is Timer.NONE:
        c.await_window(now)


def retransmit_first(c: Connection, now: float) -> None:
    """Send the first unacknowledged segment again (RFC 5681 §3.2, RFC 6582 §3.2)."""
    c.timed_seq = -1  # Karn: its round trip says nothing any more
    c.counters.retransmits += 1
    una, end = c.snd_una, c.out.end
    if una < end:
        # No byte that was never sent: its acknowledgment would be one of nothing.
        payload = c.out.peek(una, min(c.mss, end - una, c.snd_max - una))
        fin = c.fin_queued and una + len(payload) == end and c.snd_max > end
        emit(c, una, wire.ACK | wire.PSH | (wire.FIN if fin else 0), payload, now)
    elif c.fin_queued:
        emit(c, una, wire.ACK | wire.FIN, b"", now)


def hand_over(c: Connection, now: float) -> None:
    """Give the user what came in during this batch; no view outlives the call."""
    if c.inbox and c.user is not None:
        views, c.inbox = c.inbox, []
        done = c.user.received(views, now)  # and it may call `consumed` meanwhile
        c.rcv_held -= done


def flush(c: Connection, now: float) -> None:
    """End a batch: hand over what came in, send what may go out, acknowledge once."""
    c.touched = False
    user = c.user
    if user is not None:
        if c.inbox:
            hand_over(c, now)
        if c.fin_seen and not c.eof_told and c.user is not None:
            c.eof_told = True
            user.received_eof(now)
        if c.state is State.TIME_WAIT and c.user is not None:
            c.user = None
            user.ended(End.DONE, now)
    if c.state is State.CLOSED:
        return
    if (c.snd_nxt < c.out.end or (c.fin_queued and c.snd_nxt == c.out.end)) and c.state in _SENDING:
        transmit(c, now)
    if c.wants_room and c.user is not None:
        c.wants_room = False
        if c.room(now):
            c.user.writable(now)
    if c.ack is Ack.NOW:
        acknowledge(c, now)
    elif c.ack is Ack.DELAYED and c.ack_at == inf:
        c.ack_at = now + ACK_DELAY
        if c.ack_at < c.scheduled_at:
            c.scheduler.schedule(c, c.ack_at)


def reset(c: Connection) -> None:
    """Send a RST that the guest must believe (RFC 9293 §3.10.5, §3.5.2)."""
    if c.state is State.SYN_SENT:
        return  # nobody has answered yet
    c.counters.resets_out += 1
    if c.state in (State.LISTEN, State.SYN_RECEIVED):
        c.path.send(
            0 if c.state is State.LISTEN else (c.iss + 1) & MASK,
            c.rcv_nxt & MASK,
            wire.RST | wire.ACK,
            0,
            b"",
            b"",
            c.mss,
        )
    else:
        seq = acceptable_seq(c)
        c.path.send(seq & MASK, c.rcv_nxt & MASK, wire.RST | wire.ACK, 0, b"", b"", c.mss)


def close(c: Connection, end: End, now: float) -> None:
    """Enter CLOSED: nothing is kept, and the user is told once."""
    if c.state is State.CLOSED:
        return
    c.state = State.CLOSED
    c.disarm()
    c.ack = Ack.NONE
    c.ack_at = inf
    c.ack_at = inf
    c.out.clear()
    c.early = None
    c.inbox = []
    c.scheduler.forget(c)
    user, c.user = c.user, None
    if user is not None:
        user.ended(end, now)
