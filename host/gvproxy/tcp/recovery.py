"""Losses: how they are found, what follows, and how it ends.

With SACK, RACK finds them (RFC 8985), and a probe brings the acknowledgment for it to work with
where the tail of a flight is lost.  Without, the third duplicate acknowledgment and partial ones
tell (RFC 5681, RFC 6582).  What is lost is marked in `Connection.flight`; `output.transmit` sends
it again, as far as the congestion window allows.
"""

from gvproxy.tcp import output
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.rack import DUP_THRESHOLD
from gvproxy.tcp.seq import MASK, unwrap
from gvproxy.tcp.states import REORDER, RETRANSMIT
from gvproxy.wire import tcp as wire


def acknowledged(c: Connection, ack: int, now: float) -> bool:
    """Take a new acknowledgment: free what it covers, measure, move the windows and the timer.

    Says whether a round trip was measured.
    """
    count, outstanding = ack - c.snd_una, c.snd_nxt - c.snd_una
    c.snd_una = ack
    c.out.release(ack)
    c.memory.keep((ack > c.out.end) - count)  # a FIN takes no memory
    c.retries = 0
    newest = c.flight.acknowledge(ack, now - c.rtt.least)
    measured = False
    if newest is not None:
        c.rack.arrived(newest, now)
        if not newest.again:
            c.rtt.measure(newest.at, now)
            measured = True
    if not c.sack and c.dup_acks:
        c.dup_acks = 0
        c.flight.sacked = 0
    if 0 <= c.probe_end <= ack and (ack > c.probe_end or not c.probe_again):
        _end_probe(c, now)
    if not c.recovering or c.timed_out:
        c.congestion.acknowledged(count, outstanding, c.rtt.srtt, now)
    if c.recovering:
        if ack >= c.recover:
            if c.resent_at < 0:
                _undo(c)  # it has all come before anything was sent again
            else:
                _leave(c)
        elif not c.sack and not c.timed_out:
            c.flight.lose_first(c.mss)  # a partial acknowledgment: the next hole (RFC 6582 §3.2)
    c.await_ack(now)
    return measured


def take_sack(c: Connection, blocks: tuple[tuple[int, int], ...], ack: int, now: float) -> None:
    """Mark what has arrived behind a gap, `blocks` as on the wire, and find what has not."""
    edges = [(unwrap(left, c.snd_una), unwrap(right, c.snd_una)) for left, right in blocks]
    if _is_duplicate(edges, ack):
        c.counters.duplicates += 1
        left, right = edges.pop(0)
        c.rack.duplicated()
        if 0 <= c.probe_end <= ack:
            c.probe_end = -1  # what the probe repeated had arrived
        elif c.resent_at >= 0 and right <= c.recover:
            c.resent -= right - left
            if c.resent <= 0:
                _undo(c)  # all that was sent again had arrived
    for left, right in sorted(edges):  # the newest comes first, and that is no reordering
        left = max(left, c.snd_una)
        if left < right <= c.snd_nxt:
            for record in c.flight.sack(left, right):
                if not record.again or record.at <= now - c.rtt.least:
                    c.rack.arrived(record, now)
                    if not record.again:
                        c.rtt.measure(record.at, now)


def _is_duplicate(edges: list[tuple[int, int]], ack: int) -> bool:
    """Tell whether the first block reports what had arrived before: D-SACK (RFC 2883 §4)."""
    left, right = edges[0]
    return right <= ack or (len(edges) > 1 and edges[1][0] <= left and right <= edges[1][1])


def detect(c: Connection, now: float) -> None:
    """Mark what counts as lost by now; ask for another look where some may still come."""
    flight, rack = c.flight, c.rack
    if rack.at < 0 or not flight.records:
        return
    hurry = c.recovering or flight.sacked >= DUP_THRESHOLD * c.mss
    lost, wait = rack.find_lost(flight, c.rtt, hurry=hurry, now=now)
    for record in lost:
        flight.lose(record)
    if lost and not c.recovering:
        _enter(c, now)
    if wait:
        c.arm(REORDER, now + min(wait, c.rtt.rto))


def duplicate(c: Connection, now: float) -> None:
    """Count a duplicate acknowledgment of a guest without SACK, and act on the third."""
    c.dup_acks += 1
    # Each stands for a segment that has arrived, and is not on its way any more.
    c.flight.sacked = max(min(c.dup_acks * c.mss, c.snd_nxt - c.snd_una - c.mss), 0)
    if c.dup_acks == DUP_THRESHOLD and not c.recovering and c.snd_una > c.recover:
        c.flight.lose_first(c.mss)
        _enter(c, now)


def _enter(c: Connection, now: float) -> None:
    c.counters.fast_recoveries += 1
    c.recovering = True
    c.timed_out = False
    c.recover = c.snd_nxt
    c.resent_at, c.resent = -1.0, 0
    c.congestion.lost(c.snd_nxt - c.snd_una, now)


def time_out(c: Connection, now: float) -> None:
    """Take everything for lost that is not known to have arrived (RFC 6298 §5, RFC 8985 §6.3)."""
    if not c.timed_out or c.retries == 1:
        c.congestion.timed_out(c.snd_nxt - c.snd_una, now)
        c.resent_at, c.resent = -1.0, 0
    c.recovering = c.timed_out = True
    c.recover = c.snd_nxt
    c.probe_end = -1
    c.dup_acks = 0
    c.flight.lose_all()


def _leave(c: Connection) -> None:
    c.recovering = c.timed_out = False
    c.rack.recovered()


def undo(c: Connection, tsecr: int) -> None:
    """Take a recovery back when what it sent again was only late (Eifel, RFC 3522, RFC 4015).

    The acknowledgment that moved SND.UNA echoes a time before the first retransmission.
    """
    if c.resent_at < 0:
        return
    if (tsecr - c.tsval(c.resent_at)) & MASK > 0x7FFFFFFF:
        _undo(c)


def _undo(c: Connection) -> None:
    c.counters.undone += 1
    c.congestion.undo()
    c.flight.find_all()
    c.rack.reordered = True
    c.resent_at = -1.0
    if c.recovering:
        _leave(c)


def probe(c: Connection, now: float) -> None:
    """Send one segment more, for the guest to acknowledge: TLP (RFC 8985 §7.3).

    New data where there is some; else the last segment once more.
    """
    c.counters.tail_probes += 1
    c.probe_end = c.snd_nxt
    nxt = c.snd_nxt
    size = min(c.mss, c.out.end - nxt, c.snd_una + c.snd_wnd - nxt)
    c.probe_again = size <= 0
    if size > 0:
        output.emit(c, nxt, wire.ACK | wire.PSH, c.out.peek(nxt, size), now)
        output.sent(c, nxt + size, now)
        c.probe_end = c.snd_nxt
    else:
        output.emit_again(c, c.flight.last(c.mss), now)
    c.arm(RETRANSMIT, now + c.rtt.rto)


def _end_probe(c: Connection, now: float) -> None:
    """A repeated tail that no D-SACK calls superfluous had been lost: that counts (§7.4.2)."""
    c.probe_end = -1
    if c.probe_again and not c.recovering:
        c.congestion.lost(c.snd_nxt - c.snd_una, now)
