"""What routers, and the guest itself, say of our segments by ICMP (RFC 5927, RFC 1191).

An error that names nothing which is on its way is a forgery.
"""

from gvproxy.tcp import output
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.seq import unwrap
from gvproxy.tcp.states import SYN_SENT, End
from gvproxy.wire import tcp as wire

LEAST_SEGMENT = 512
"""No path is taken to be narrower, whatever is said; Linux: min_pmtu, 552, less 40."""


def unreachable(c: Connection, seq: int, now: float) -> None:
    """Take the news that a segment from `seq` on, as on the wire, will never arrive.

    It ends a connection only while that is being opened.  Later it may be about a path that mends
    (RFC 5927 §5.2), and the time-outs tell.
    """
    if c.state is SYN_SENT and _is_ours(c, seq):
        output.close(c, End.UNREACHABLE, now)


def too_large(c: Connection, seq: int, size: int) -> None:
    """Send segments of at most `size` bytes, options included, and once more what was too large.

    That is no sign of congestion (RFC 1191 §6.5).
    """
    size = max(size, LEAST_SEGMENT) - (wire.TIMESTAMPS.size if c.timestamps else 0)
    if size < c.mss and c.flight.records and _is_ours(c, seq):
        c.mss = c.congestion.mss = size
        c.flight.lose_all()
        c.scheduler.touch(c)


def _is_ours(c: Connection, seq: int) -> bool:
    return c.snd_una <= unwrap(seq, c.snd_una) < c.snd_nxt
