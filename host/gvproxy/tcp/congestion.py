"""Congestion control toward the guest: a window that grows while nothing is lost.

The path is one virtual cable, so the initial window is what one super-frame holds rather than the
ten segments of RFC 6928: there is no shared bottleneck to probe, only a tap's queue of hundreds of
frames.  Growth and reaction to loss are those of RFC 5681 and 6582.
"""

from typing import Protocol

INITIAL_WINDOW = 65536
"""Deviation: RFC 6928 has min(10 * MSS, 14600); see above."""
MAX_WINDOW = 16 << 20
"""Past what any receiver offers (Linux: tcp_rmem, 6 MiB); keeps the number small for ever."""


class CongestionControl(Protocol):
    """What the engine asks of an algorithm; `cwnd` in bytes is read before every segment."""

    cwnd: int
    mss: int

    def acknowledged(self, count: int, flight: int, now: float) -> None:
        """Take note of `count` newly acknowledged bytes; `flight` was outstanding before."""

    def lost(self, flight: int, now: float) -> None:
        """Enter fast recovery with `flight` bytes outstanding."""

    def recovered(self) -> None:
        """Leave fast recovery: all that was outstanding at its start is acknowledged."""

    def timed_out(self, flight: int, now: float) -> None:
        """Start over after a retransmission timeout."""


class NewReno:
    """RFC 5681's slow start and congestion avoidance."""

    __slots__ = ("cwnd", "mss", "ssthresh")

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = INITIAL_WINDOW
        self.ssthresh = MAX_WINDOW

    def acknowledged(self, count: int, flight: int, now: float) -> None:
        cwnd = self.cwnd
        # A window that was not used says nothing about the path (RFC 7661 §4.3).
        if flight * 2 < cwnd or cwnd >= MAX_WINDOW:
            return
        if cwnd < self.ssthresh:
            self.cwnd = cwnd + count
        else:
            self.cwnd = cwnd + max(1, self.mss * count // cwnd)

    def lost(self, flight: int, now: float) -> None:
        self.ssthresh = max(flight // 2, 2 * self.mss)
        self.cwnd = self.ssthresh + 3 * self.mss

    def recovered(self) -> None:
        self.cwnd = self.ssthresh

    def timed_out(self, flight: int, now: float) -> None:
        self.ssthresh = max(flight // 2, 2 * self.mss)
        self.cwnd = self.mss
