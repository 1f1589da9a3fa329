"""Header prediction: the straight path of the segment that brings no surprise.

Jacobson's idea (RFC 1323 appendix): an established connection mostly gets either the next piece of
data or an acknowledgment of its own, and that can be told from a few fields.  A segment taken here
has the same effect as through `input.segment_arrives`; the tests feed both.  `make bench` pays for
the repetition: the general path costs about four times as much.
"""

from gvproxy.tcp.connection import Connection
from gvproxy.tcp.recovery import acknowledged
from gvproxy.tcp.seq import MASK
from gvproxy.tcp.states import ACK_DELAYED, ACK_NOW, ESTABLISHED
from gvproxy.wire import tcp as wire

_ACK_PSH = wire.ACK | wire.PSH


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
    """Take the segment if it is one of the two expected kinds; False leaves it untouched.

    For connections with timestamps, `tsval` the segment's; numbers as on the wire.
    """
    if (
        c.state is not ESTABLISHED
        or flags | wire.PSH != _ACK_PSH
        or seq != c.rcv_nxt & MASK
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
    if size:
        if size > c.rcv_adv - c.rcv_nxt or c.counters.scarce:
            return False
    elif not count and window == c.snd_wnd:
        return False  # a duplicate acknowledgment
    if count:
        if count > c.snd_nxt - c.snd_una:
            return False
        acknowledged(c, c.snd_una + count, now)
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
        c.counters.buffered += size
        c.rcv_nxt += size
        if c.ack is not ACK_NOW:
            if c.interactive and c.rcv_nxt - c.rcv_acked < 2 * c.mss:
                c.ack = ACK_DELAYED
            else:
                c.ack = ACK_NOW
    if not c.touched:
        c.scheduler.touch(c)
    return True
