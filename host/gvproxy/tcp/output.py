"""Segments to send: data, acknowledgments, the window they carry, retransmissions, resets."""

from math import inf

from gvproxy.tcp.connection import (
    MAX_RECEIVE_BUFFER,
    MAX_SEGMENT,
    SCARCE_WINDOW,
    Connection,
)
from gvproxy.tcp.flight import Sent
from gvproxy.tcp.seq import MASK
from gvproxy.tcp.states import (
    ACK_DELAYED,
    ACK_NOW,
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    LAST_ACK,
    LISTEN,
    NO_ACK,
    PROBE,
    REORDER,
    RETRANSMIT,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    End,
)
from gvproxy.wire import tcp as wire

ACK_DELAY = 0.01
"""Seconds an acknowledgment waits for data to ride on; RFC 9293 §3.8.6.3 allows 0.5.

Two full segments end the wait, and a connection on which it was in vain once does not wait again:
a guest that holds back its second small write (Nagle) loses ten milliseconds, once.
"""

COMPRESSION_DELAY = 0.0005
"""Seconds an acknowledgment waits for more segments ahead of a gap; to the next millisecond."""
SYN_ACK_PATIENCE = 0.2
"""Seconds: a guest's timers may be late by a tick, and it may be kept from running.

Deviation: RFC 6298 (2.1) has one second without this.
"""
LOCAL_RTT = 0.001
MAX_BURST = 64
"""Pieces sent again at once: a guest may call every other byte lost with each acknowledgment."""

_SENDING = (ESTABLISHED, FIN_WAIT_1, CLOSE_WAIT, CLOSING, LAST_ACK)
_ON_THE_WAY = (RETRANSMIT, PROBE, REORDER)


def emit(c: Connection, seq: int, flags: int, payload: bytes | memoryview, now: float) -> None:
    """Send one segment from `seq` on with the current acknowledgment and window."""
    nxt = c.rcv_nxt
    # Receiver's silly-window avoidance (RFC 9293 §3.8.6.2.2): the edge moves in steps.
    limit = c.rcv_limit if not c.memory.scarce else min(c.rcv_limit, SCARCE_WINDOW)
    edge = nxt + limit - c.rcv_held
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
        wire.TIMESTAMPS.pack(wire.TIMESTAMPS_WORD, c.tsval(now), c.ts_recent)
        if c.timestamps
        else b""
    )
    mss = c.mss
    if c.sack and (c.early or c.repeated):
        blocks = c.early.blocks() if c.early else []
        if c.repeated is not None:
            blocks.insert(0, c.repeated)  # D-SACK, RFC 2883 §4
            c.repeated = None
        del blocks[3 if c.timestamps else 4 :]
        sack = wire.build_sack([(left & MASK, right & MASK) for left, right in blocks])
        options += sack
        mss -= len(sack)  # RFC 6691 §2: what options take, the payload gives
    c.rcv_acked = nxt
    c.ack = NO_ACK
    c.ack_at = inf
    c.counters.segments_out += 1
    c.path.send(seq & MASK, nxt & MASK, flags, window, options, payload, mss)


def emit_syn(c: Connection, now: float) -> None:
    """Send our SYN, with the ACK of theirs where we have it."""
    flags = wire.SYN if c.state is SYN_SENT else wire.SYN | wire.ACK
    offered = c.state is SYN_SENT
    timestamps = None
    if offered or c.timestamps:
        timestamps = c.tsval(now), c.ts_recent
    options = wire.build_syn_options(
        c.mss_offered,
        c.rcv_shift if offered or c.rcv_shift else None,
        offered or c.sack,
        timestamps,
    )
    window = min(c.rcv_limit, 0xFFFF)  # never scaled in a SYN (RFC 7323 §2.2)
    c.rcv_adv = max(c.rcv_adv, c.rcv_nxt + window)
    c.rcv_acked = c.rcv_nxt
    c.counters.segments_out += 1
    if c.snd_nxt == c.iss:
        c.snd_nxt = c.iss + 1
        c.syn_at = now
    else:
        c.counters.retransmits += 1
        c.syn_at = -1.0  # Karn: which one will be acknowledged?
    c.path.send(c.iss & MASK, c.rcv_nxt & MASK, flags, window, options, b"", c.mss)
    # Where ours answers a SYN, that one is to come again first: then the guest measures from there,
    # and not that its first took a second.
    c.arm(RETRANSMIT, now + c.rtt.rto + (0.0 if offered else SYN_ACK_PATIENCE))


def acknowledge(c: Connection, now: float) -> None:
    """Send an acknowledgment without data."""
    emit(c, acceptable_seq(c), wire.ACK, b"", now)


def hurry(c: Connection, now: float, segments: int) -> bool:
    """Acknowledge `segments` or more before they are handed over, if the guest may wait for it.

    To hand over takes as long as an acknowledgment's way, and where losses keep the guest's window
    small, it waits for each.  What is not handed over yet is missing in the window.
    """
    if (
        c.rcv_nxt < c.hurry_until
        and c.ack is ACK_NOW
        and c.rcv_nxt - c.rcv_acked >= segments * c.mss
        and c.rcv_held <= c.rcv_limit >> 1
    ):
        acknowledge(c, now)
        return True
    return False


def acceptable_seq(c: Connection) -> int:
    """Return the number for a segment without text: behind all that was sent, in the window.

    That may have lost up to one unit by rounding (RFC 7323 §2.4), which says nothing about where
    it ends.
    """
    if c.snd_nxt - c.snd_una >= c.snd_wnd + (1 << c.snd_shift):
        return c.snd_una + c.snd_wnd
    return c.snd_nxt


def sent(c: Connection, nxt: int, now: float) -> None:
    """Account for everything up to `nxt` as sent."""
    c.flight.add(c.snd_nxt, nxt, now)
    c.snd_nxt = nxt
    if c.timer not in _ON_THE_WAY:
        c.retries = 0  # they were those of probes
        c.await_ack(now)


def transmit(c: Connection, now: float) -> None:
    """Send what is lost, and then what is queued, as far as both windows allow."""
    flight = c.flight
    if flight.lost:
        _transmit_lost(c, now)
        if flight.lost:
            return
    end, una, mss = c.out.end, c.snd_una, c.mss
    largest = MAX_SEGMENT - MAX_SEGMENT % mss
    limit = una + min(c.congestion.cwnd + flight.sacked, c.snd_wnd)
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
        flags = wire.ACK | wire.PSH if size == rest else wire.ACK
        if c.fin_queued and size == rest:
            flags |= wire.FIN
        emit(c, nxt, flags, c.out.peek(nxt, size), now)
        nxt += size + (flags & wire.FIN)
        sent(c, nxt, now)
    if c.fin_queued and nxt == end:
        emit(c, nxt, wire.ACK | wire.FIN, b"", now)
        sent(c, nxt + 1, now)
    elif nxt < end and c.resting:
        c.await_window(now)


def _transmit_lost(c: Connection, now: float) -> None:
    """Send again what is lost, the first segment of it whatever the window (RFC 6675 §5)."""
    flight, mss = c.flight, c.mss
    largest = MAX_SEGMENT - MAX_SEGMENT % mss
    budget = c.congestion.cwnd - (c.snd_nxt - c.snd_una - flight.sacked - flight.lost)
    edge = c.snd_una + c.snd_wnd
    if c.resent_at < 0:
        c.resent_at = now
        budget = max(budget, mss)
    index = bursts = 0
    while flight.lost and index < len(flight.records) and bursts < MAX_BURST:
        size = flight.lost_run(index)
        if size:
            allowed = min(budget, edge - flight.records[index].start, largest)
            if allowed < size:
                allowed -= allowed % mss if allowed > mss else 0
                if allowed <= 0 or (allowed < mss and index):
                    break
                size = allowed
            emit_again(c, flight.take_lost(index, size), now)
            budget -= size
            bursts += 1
            c.resent += size
            if not index:
                c.arm(RETRANSMIT, now + c.rtt.rto)
        index += 1


def emit_again(c: Connection, record: Sent, now: float) -> None:
    """Send what `record` stands for once more."""
    record.at, record.again = now, True
    c.counters.retransmits += 1
    start, end = record.start, c.out.end
    size = min(record.end, end) - start
    flags = wire.ACK | wire.PSH if record.end >= end and size else wire.ACK
    if record.end > end:
        flags |= wire.FIN
    emit(c, start, flags, c.out.peek(start, size) if size else b"", now)


def retransmit_first(c: Connection, now: float) -> None:
    """Send the first segment again, which is lost, whatever the windows."""
    emit_again(c, c.flight.take_lost(0, min(c.flight.lost_run(0), c.mss)), now)


def hand_over(c: Connection, now: float) -> None:
    """Give the user what came in during this batch; no view outlives the call."""
    if c.inbox and c.user is not None:
        views, c.inbox = c.inbox, []
        done = c.user.received(views, now)  # and it may call `consumed` meanwhile
        if c.state is CLOSED:
            return
        c.rcv_held -= done
        c.memory.keep(-done)
        if c.rcv_nxt >= c.tune_end:
            _tune_window(c, now)


def _tune_window(c: Connection, now: float) -> None:
    """Double the window where the guest fills it within two round trips, and its user keeps up.

    Not where round trips are of the link only: there a megabyte is enough for 8 Gbit/s.
    """
    rtt = c.rtt.least
    if (
        rtt > LOCAL_RTT
        and now - c.tune_at < 2 * rtt < inf
        and c.rcv_held < c.rcv_limit >> 1
        and c.rcv_shift
    ):
        c.rcv_limit = min(2 * c.rcv_limit, MAX_RECEIVE_BUFFER)
    c.tune_end, c.tune_at = c.rcv_nxt + c.rcv_limit, now


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
        if c.state is TIME_WAIT and c.user is not None:
            c.user = None
            user.ended(End.DONE, now)
    if c.state is CLOSED:
        return
    if (
        c.snd_nxt < c.out.end or (c.fin_queued and c.snd_nxt == c.out.end) or c.flight.lost
    ) and c.state in _SENDING:
        transmit(c, now)
    if c.wants_room and c.user is not None:
        c.wants_room = False
        if c.room(now):
            c.user.writable(now)
    if c.ack is ACK_NOW:
        acknowledge(c, now)
    elif c.ack is not NO_ACK and c.ack_at == inf:
        c.ack_at = now + (ACK_DELAY if c.ack is ACK_DELAYED else COMPRESSION_DELAY)
        if c.ack_at < c.scheduled_at:
            c.scheduler.schedule(c, c.ack_at)


def reset(c: Connection) -> None:
    """Send a RST that the guest must believe (RFC 9293 §3.10.5, §3.5.2)."""
    if c.state is SYN_SENT:
        return  # nobody has answered yet
    c.counters.resets_out += 1
    if c.state is LISTEN:
        seq = 0
    elif c.state is SYN_RECEIVED:
        seq = c.iss + 1
    else:
        seq = acceptable_seq(c)
    c.path.send(seq & MASK, c.rcv_nxt & MASK, wire.RST | wire.ACK, 0, b"", b"", c.mss)


def kept(c: Connection) -> int:
    """Return how many bytes a connection keeps of its guest's memory."""
    early = c.early.size if c.early else 0
    return max(c.out.end - max(c.snd_una, c.iss + 1), 0) + c.rcv_held + early


def close(c: Connection, end: End, now: float) -> None:
    """Enter CLOSED: nothing is kept, and the user is told once."""
    if c.state is CLOSED:
        return
    c.state = CLOSED
    c.disarm()
    c.ack = NO_ACK
    c.ack_at = inf
    c.memory.keep(-kept(c))
    c.rcv_held = 0
    c.out.clear()
    c.flight.clear()
    c.early = None
    c.inbox = []
    c.scheduler.forget(c)
    user, c.user = c.user, None
    if user is not None:
        user.ended(end, now)
