"""Header prediction: the straight path of the segment that brings no surprise.

Jacobson's idea (RFC 1323 appendix): an established connection mostly gets either the next piece of
data or an acknowledgment of its own, and that can be told from a few fields.  So can the two
segments that every short connection has besides: the handshake's last, and a FIN in answer to ours.
A segment taken here has the same effect as through `input.segment_arrives`; the tests feed both.
`make bench` pays for the repetition: the general path costs about four times as much.
"""

from gvproxy.tcp.connection import Connection
from gvproxy.tcp.input import enter_established, fin_acknowledged, process_fin
from gvproxy.tcp.recovery import acknowledged
from gvproxy.tcp.seq import MASK
from gvproxy.tcp.states import ACK_DELAYED, ACK_NOW, ESTABLISHED, FIN_WAIT_1, SYN_RECEIVED
from gvproxy.wire import tcp as wire

_ACK_PSH = wire.ACK | wire.PSH
_ACK_FIN = wire.ACK | wire.FIN


def predict(
    c: Connection,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    tsval: int,
    payload: memoryview,
    now: float,
) -> bool:
    """Take the segment if it is of an expected kind; False leaves it untouched.

    For connections with timestamps, `tsval` the segment's; numbers as on the wire.
    """
    if (
        seq != c.rcv_nxt & MASK
        or (tsval - c.ts_recent) & MASK > 0x7FFFFFFF
        or not window
        or not c.snd_wnd
        or c.snd_wl1 > c.rcv_nxt
        or c.early
        or c.recovering
        or c.flight.sacked
    ):
        return False
    size = len(payload)
    count = (ack - c.snd_una) & MASK
    window <<= c.snd_shift
    if c.state is ESTABLISHED:
        if flags | wire.PSH != _ACK_PSH:
            return False
        if size:
            if size > c.rcv_adv - c.rcv_nxt or c.memory.scarce:
                return False
        elif not count and window == c.snd_wnd:
            return False  # a duplicate acknowledgment
        if count:
            if count > c.snd_nxt - c.snd_una:
                return False
            acknowledged(c, c.snd_una + count, now)
    elif size or count != c.snd_nxt - c.snd_una:
        return False
    elif c.state is SYN_RECEIVED and flags == wire.ACK:
        c.snd_una, c.snd_wnd = c.snd_nxt, window
        enter_established(c, now)
    elif c.state is FIN_WAIT_1 and flags == _ACK_FIN and c.snd_nxt > c.out.end:
        acknowledged(c, c.snd_nxt, now)
        fin_acknowledged(c, now)
    else:
        return False
    c.counters.segments_in += 1
    c.heard_at = now
    if c.rcv_nxt == c.rcv_acked:
        c.ts_recent_at = now
        c.ts_recent = tsval  # RFC 7323 §4.3: what is echoed is the first of what waits for an ACK
    c.snd_wnd = window
    if window > c.max_snd_wnd:
        c.max_snd_wnd = window
    c.snd_wl1, c.snd_wl2 = c.rcv_nxt, c.snd_una
    if size:
        c.inbox.append(payload)
        c.rcv_held += size
        c.memory.keep(size)
        c.rcv_nxt += size
        if c.ack is not ACK_NOW:
            if c.interactive and c.rcv_nxt - c.rcv_acked < 2 * c.mss:
                c.ack = ACK_DELAYED
            else:
                c.ack = ACK_NOW
    elif flags & wire.FIN:
        c.rcv_fin = c.rcv_nxt
        process_fin(c, now)
    if not c.touched:
        c.scheduler.touch(c)
    return True
