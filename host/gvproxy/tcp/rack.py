"""What was sent before something that has arrived, and has not, is lost: RACK (RFC 8985 §6)."""

from dataclasses import dataclass

from gvproxy.tcp.flight import Flight, Sent
from gvproxy.tcp.rtt import RttEstimator

DUP_THRESHOLD = 3  # segments; RFC 5681 §3.2
MAX_STEPS = 255
_MEMORY = 16
"""Recoveries until a wider reordering window is forgotten."""
_ROUNDING = 1e-6
"""Seconds: two sums of the same times may differ, and a wait must not end where it began."""


@dataclass(slots=True)
class Rack:
    """The newest transmission known to have arrived, and how far others may come behind it.

    `at` and `end` are its time and end, `rtt` its round trip; `furthest` is the highest number that
    has arrived.  The reordering window is a quarter of the shortest round trip, or `steps` quarters
    of the usual one once a retransmission was in vain.
    """

    at: float = -1.0
    end: int = 0
    rtt: float = 0.0
    furthest: int = 0
    reordered: bool = False
    steps: int = 1
    _recoveries: int = 0

    def arrived(self, record: Sent, now: float) -> None:
        """Take note of a transmission that has arrived (§6.2 steps 2 and 3)."""
        at, end = record.at, record.end
        if end > self.furthest:
            self.furthest = end
        elif end < self.furthest and not record.again:
            self.reordered = True
        if at > self.at or (at == self.at and end > self.end):
            self.at, self.end, self.rtt = at, end, now - at

    def duplicated(self) -> None:
        """Wait longer: a retransmission was in vain (§6.2 step 4)."""
        self.steps = min(self.steps + 1, MAX_STEPS)
        self._recoveries = _MEMORY

    def recovered(self) -> None:
        """End a recovery; after sixteen without a vain retransmission the window is small again."""
        self._recoveries -= 1
        if self._recoveries <= 0:
            self.steps = 1

    def find_lost(
        self, flight: Flight, rtt: RttEstimator, *, hurry: bool, now: float
    ) -> tuple[list[Sent], float]:
        """Return what is lost, and how many seconds to wait for the rest, 0 for none (step 5).

        `hurry` where enough has come behind a gap, or losses are known already: then nothing is
        waited for that was never seen to happen.
        """
        if hurry and not self.reordered:
            window = 0.0
        elif self.steps == 1:
            window = min(rtt.least, rtt.srtt) / 4
        else:
            # Deviation: RFC 8985 has steps of the shortest round trip, and SRTT for the limit.
            # Where a few segments overtake, that is too short for the others, for ever.
            window = min(self.steps * rtt.srtt / 4, rtt.srtt + 4 * rtt.rttvar)
        lost, wait = [], 0.0
        due = now - self.rtt - window
        for record in flight.in_doubt():
            if record.at < self.at or (record.at == self.at and record.end < self.end):
                if record.at <= due + _ROUNDING:
                    lost.append(record)
                else:
                    wait = max(wait, record.at - due)
        return lost, wait
