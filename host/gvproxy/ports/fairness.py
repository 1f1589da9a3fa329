"""How much of the loop's time one guest's frames may take: no more than a few ms at a time, and, as
long as others move data, a small part of it for frames that cost more than they carry.

A batch that took too long makes the next one smaller, so a guest that sends nothing but expensive
frames holds the loop for `TURN` and not for all that its link has brought.  What a batch costs
beyond what the bytes moved are worth is a debt.  It is paid by a pause, in which the guest's frames
wait in its link, and which is the longer the more the others move: nobody waits for nobody.

Bulk data is worth its time, with offloads or without, of who sends it and of who acknowledges it,
and so is a request on a connection (`stack.path.QUESTION`).  A flood is not: what is refused,
dropped, repeated or answered by ourselves moves nothing (`Port.carried`), and who sends only that
gets a ninth of the loop beside one that downloads.
Time is taken from the wall's clock, for that of the thread is a system call; `MOST` keeps what else
runs on the machine from being charged to a guest.
"""

from collections.abc import Callable, Iterable
from time import perf_counter

TURN = 0.003
"""Seconds that one guest's batch should take at most."""
MAX_FRAMES = 352
"""Of a batch: as many as a full read has of 1,514 bytes.  A SYN that is refused outside takes some
0.14 ms, so that a batch of those behind cheap frames takes 50 ms, once."""
FIRST_FRAMES = 64
"""Of a batch, until it is known what they cost."""
WORTH = 50e6
"""Bytes a second of the loop's time: a fifth of what frames of an MTU take without offloads."""
BUSY = 3e6
"""Bytes a second of others for which a debt is waited once."""
MAX_FACTOR = 8.0
MOST = 0.001
"""Seconds that a frame is charged at most."""
LEAST_PAUSE = 0.002
"""Seconds: below this a debt grows on."""
MAX_PAUSE = 0.1
WINDOW = 0.02
"""Seconds over which it is measured what guests move; who moves less is believed half of it."""

Clock = Callable[[], float]
Moved = Callable[[], Iterable[tuple[int, int]]]
"""Tells the bytes moved so far by each port's number."""


class Fairness:
    """What all ports of one switch share."""

    def __init__(self, moved: Moved = tuple, clock: Clock = perf_counter) -> None:
        """`clock` is what batches are timed by, in seconds."""
        self.clock = clock
        self._moved = moved
        self._last: dict[int, int] = {}
        self._rates: dict[int, float] = {}
        self._at = 0.0

    def factor(self, number: int, now: float) -> float:
        """Return how many times its debt a port should wait, by what the others move."""
        elapsed = now - self._at
        if elapsed >= WINDOW:
            last, self._last, self._at = self._last, dict(self._moved()), now
            self._rates = {
                port: max((moved - last.get(port, moved)) / elapsed, self._rates.get(port, 0.0) / 2)
                for port, moved in self._last.items()
            }
        others = sum(rate for port, rate in self._rates.items() if port != number)
        return min(MAX_FACTOR, others / BUSY)


class Turns:
    """One port's."""

    __slots__ = ("_debt", "frames")

    def __init__(self) -> None:
        self.frames = FIRST_FRAMES
        """How many the next batch may have."""
        self._debt = 0.0

    def took(self, seconds: float, frames: int, moved: int) -> bool:
        """Say what a batch took and moved; tells whether there is a debt to be paid."""
        if seconds > TURN:
            self.frames = max(1, int(frames * TURN / seconds))
        elif self.frames < MAX_FRAMES and seconds < TURN / 2 and frames >= self.frames:
            self.frames = min(MAX_FRAMES, self.frames * 2)
        self._debt = max(0.0, self._debt + min(seconds, frames * MOST) - moved / WORTH)
        return self._debt >= LEAST_PAUSE

    def pay(self, factor: float) -> float:
        """Return how many seconds to wait, 0 for not at all; there is no debt afterwards."""
        debt, self._debt = self._debt, 0.0
        pause = min(MAX_PAUSE, debt * factor)
        return pause if pause >= LEAST_PAUSE else 0.0
