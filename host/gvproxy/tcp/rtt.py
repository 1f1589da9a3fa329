"""Round-trip time, and the timeouts that follow (RFC 6298, RFC 8985 §7.2)."""

from dataclasses import dataclass
from math import inf

MIN_RTO = 0.2
"""Deviation: RFC 6298 (2.4) says 1 s; the link is local, and Linux has used 200 ms for decades."""
MAX_RTO = 60.0  # RFC 6298 (2.5): at least 60 s
INITIAL_RTO = 1.0  # RFC 6298 (2.1)
RTO_AFTER_LOST_SYN = 3.0  # RFC 6298 (5.7)
MIN_PTO = 0.01
"""A guest may be kept from running for longer than a round trip of the link."""
_GRANULARITY = 0.001


@dataclass(slots=True)
class RttEstimator:
    """Smoothed round-trip time, its variation, its minimum and the timeouts, in seconds.

    `pto` is how long a probe of the flight's tail waits for an acknowledgment.
    """

    srtt: float = 0.0
    rttvar: float = 0.0
    least: float = inf
    rto: float = INITIAL_RTO
    pto: float = INITIAL_RTO
    due: float = 0.0
    """When another measurement is wanted: one for each round trip (RFC 6298 §3)."""

    def measure(self, sent_at: float, now: float) -> None:
        """Take the measurement of something sent at `sent_at`, where one is due."""
        if now >= self.due:
            self.sample(now - sent_at)
            self.due = now + self.srtt

    def sample(self, rtt: float) -> None:
        """Take one measurement, of a transmission that was the first or told by its timestamp."""
        if self.srtt:
            self.rttvar = 0.75 * self.rttvar + 0.25 * abs(self.srtt - rtt)
            self.srtt = 0.875 * self.srtt + 0.125 * rtt
        else:
            self.srtt = max(rtt, 1e-6)
            self.rttvar = rtt / 2
        if rtt < self.least:
            self.least = rtt
        self.rto = min(max(self.srtt + max(_GRANULARITY, 4 * self.rttvar), MIN_RTO), MAX_RTO)
        self.pto = max(2 * self.srtt, MIN_PTO)

    def back_off(self) -> None:
        """Double the timeout (RFC 6298 (5.5)); the next sample takes it down again."""
        self.rto = min(self.rto * 2, MAX_RTO)
