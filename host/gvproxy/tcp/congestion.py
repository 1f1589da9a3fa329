"""Congestion control toward the guest: a window that grows while nothing is lost.

The path is one virtual cable, so the initial window is what one super-frame holds rather than the
ten segments of RFC 6928: there is no shared bottleneck to probe, only a tap's queue of hundreds of
frames.  A guest may still forward to a worse path behind it, so what happens on loss is what the
Internet expects: CUBIC (RFC 9438), Linux's own default.
"""

from math import ceil, inf
from typing import Protocol

INITIAL_WINDOW = 65536
"""Deviation: RFC 6928 has min(10 * MSS, 14600); see above.

It is not restored after an idle time (RFC 5681 §4.1) either: the port's own queue bounds a burst.
"""
LEAST_WINDOW = 2 * INITIAL_WINDOW
"""What a loss alone leaves of a window that was larger: two super-frames.

Of a single one that is lost no acknowledgment tells, only a timer.  Deviation: RFC 9438 §4.6 goes
on down to two segments; here a timeout does, which is what a guest that forwards to a narrow path
is in for.
"""
MAX_WINDOW = 16 << 20
"""Past what any receiver offers (Linux: tcp_rmem, 6 MiB); keeps the number small for ever."""


class CongestionControl(Protocol):
    """What the engine asks of an algorithm; `cwnd` in bytes is read before every segment."""

    cwnd: int
    mss: int

    def acknowledged(self, count: int, flight: int, rtt: float, now: float) -> None:
        """Take note of `count` newly acknowledged bytes; `flight` was outstanding before."""

    def lost(self, flight: int, now: float) -> None:
        """Reduce the window for a loss that was found while acknowledgments still come."""

    def timed_out(self, flight: int, now: float) -> None:
        """Start over with one segment after a retransmission timeout."""

    def undo(self) -> None:
        """Take the last reduction back: nothing was lost."""


class Cubic:
    """RFC 9438; windows in bytes, times in seconds."""

    BETA = 0.7  # §4.6
    C = 0.4  # §4.1
    ALPHA = 3 * (1 - BETA) / (1 + BETA)  # §4.3, as long as the window is below the last maximum

    __slots__ = ("_before", "_began", "_friendly", "_k", "_most", "cwnd", "mss", "ssthresh")

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = INITIAL_WINDOW
        self.ssthresh = MAX_WINDOW
        self._most = 0.0  # W_max
        self._k = 0.0
        self._began = inf  # of the epoch; infinite before its first acknowledgment
        self._friendly = 0.0  # W_est
        self._before = (self.cwnd, self.ssthresh, self._most)  # of the last reduction

    def acknowledged(self, count: int, flight: int, rtt: float, now: float) -> None:
        cwnd = self.cwnd
        if flight * 2 < cwnd or cwnd >= MAX_WINDOW:
            # A window that was not used says nothing about the path, and the time it was not used
            # does not count (RFC 7661 §4.3, RFC 9438 §5.8).
            self._began = inf
        elif cwnd < self.ssthresh:
            # One acknowledgment stands for a super-frame: no limit of two segments (RFC 3465
            # §2.3), yet it may not more than double the window, as after a timeout one could.
            self.cwnd = min(cwnd + min(count, cwnd), MAX_WINDOW)
        else:
            self._avoid(count, rtt, now)

    def _avoid(self, count: int, rtt: float, now: float) -> None:
        cwnd, mss = self.cwnd, self.mss
        if self._began == inf:
            self._began = now
            self._most = max(self._most, cwnd)
            self._k = ((self._most - cwnd) / mss / self.C) ** (1 / 3)
            self._friendly = cwnd
        alpha = self.ALPHA if self._friendly < self._most else 1.0
        self._friendly += alpha * mss * count / cwnd
        t = now - self._began + rtt
        target = self._most + self.C * (t - self._k) ** 3 * mss
        target = min(max(target, cwnd), 1.5 * cwnd)
        grown = cwnd + (target - cwnd) * min(count / cwnd, 1.0)
        self.cwnd = ceil(max(grown, min(self._friendly, cwnd + count)))

    def lost(self, flight: int, now: float) -> None:
        least = min(self.cwnd, LEAST_WINDOW)
        self._reduce(flight)
        self.cwnd = self.ssthresh = max(self.ssthresh, least)

    def timed_out(self, flight: int, now: float) -> None:
        self._reduce(flight)
        self.cwnd = self.mss

    def undo(self) -> None:
        cwnd, self.ssthresh, self._most = self._before
        self.cwnd = max(self.cwnd, cwnd)
        self._began = inf

    def _reduce(self, flight: int) -> None:
        cwnd = self.cwnd
        self._before = (cwnd, self.ssthresh, self._most)
        # Fast convergence, §4.7: who has less than before makes room for others.
        self._most = cwnd * (1 + self.BETA) / 2 if cwnd < self._most else cwnd
        self.ssthresh = max(int(min(flight, cwnd) * self.BETA), 2 * self.mss)
        self._began = inf
