"""What a bad cable does to frames in one direction: loses, doubles, corrupts, delays, reorders.

Sans-IO: frames and the time go in, the frames that are due come out.  The words and their order are
those of tc-netem(8).  One seed gives one sequence of decisions, a frame's being independent of when
it comes, so that a run can be repeated as far as the frames come in the same order.

A frame is a virtio-net header and Ethernet.  Only IPv4 is impaired: a lost ARP reply would say
nothing about TCP.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from taplink import vnet
from taplink.framing import ETHERNET_HEADER

Frame = bytes | memoryview

_TYPE = slice(vnet.SIZE + ETHERNET_HEADER - 2, vnet.SIZE + ETHERNET_HEADER)
_IPV4 = b"\x08\x00"
_COVERED = vnet.SIZE + ETHERNET_HEADER
"""The first byte that a checksum of IP or TCP covers."""
_LIMIT = 64 * 1024 * 1024
"""Bytes a delay may hold: 100 ms of 5 Gbit/s, so that it is the delay that is measured."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """Probabilities are from 0 to 1, times in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    """One byte of the frame is changed."""
    reorder: float = 0.0
    """The frame goes at once, past those being delayed."""
    gap: int = 1
    """Only every so many-th frame may do that."""
    delay: float = 0.0
    jitter: float = 0.0
    """Each frame's delay is off by up to this, evenly distributed; they overtake each other."""

    def __post_init__(self) -> None:
        if not all(0 <= p <= 1 for p in (self.loss, self.duplicate, self.corrupt, self.reorder)):
            raise ValueError("a probability is from 0 to 1")
        if not 0 <= self.jitter <= self.delay:
            raise ValueError("the jitter is from 0 to the delay")
        if self.gap < 1:
            raise ValueError("the gap is at least 1")
        if self.reorder and not self.delay:
            raise ValueError("without a delay there is nothing to reorder")

    def __str__(self) -> str:
        return ", ".join(self._words()) or "nothing"

    def _words(self) -> Iterator[str]:
        for name in ("loss", "duplicate", "corrupt", "reorder"):
            if value := getattr(self, name):
                gap = f" gap {self.gap}" if name == "reorder" and self.gap > 1 else ""
                yield f"{name} {value * 100:g} %{gap}"
        if self.delay:
            jitter = f" ± {self.jitter * 1000:g}" if self.jitter else ""
            yield f"delay {self.delay * 1000:g}{jitter} ms"


CASES = {
    "none": Impairment(),
    "loss0.1": Impairment(loss=0.001),
    "loss1": Impairment(loss=0.01),
    "loss3": Impairment(loss=0.03),
    "loss5": Impairment(loss=0.05),
    "reorder": Impairment(reorder=0.25, gap=5, delay=0.005),
    "duplicate": Impairment(duplicate=0.05),
    "delay20": Impairment(delay=0.02),
    "jitter20": Impairment(delay=0.02, jitter=0.005),
    "delay100": Impairment(delay=0.1),
    "jitter100": Impairment(delay=0.1, jitter=0.02),
    "loss1-delay20": Impairment(loss=0.01, delay=0.02),
    "loss1-reorder": Impairment(loss=0.01, reorder=0.25, gap=5, delay=0.005),
    "all": Impairment(loss=0.01, duplicate=0.05, reorder=0.25, gap=5, delay=0.02, jitter=0.005),
    "corrupt": Impairment(corrupt=0.01),
}
"""What tests and benchmark go through, by name; `corrupt` only where frames have checksums."""


@dataclass(slots=True)
class Counters:
    """Frames of one direction."""

    frames: int = 0
    """That came in; the others count some of these."""
    lost: int = 0
    doubled: int = 0
    corrupted: int = 0
    overtaken: int = 0
    """Left after one that had come later."""
    overflowed: int = 0
    """Lost because too much was being delayed."""


class Channel:
    """One direction: `put` what comes, `take` what is due at `due`."""

    __slots__ = (
        "_held",
        "_last",
        "_queue",
        "_random",
        "_ready",
        "_since",
        "counters",
        "impairment",
    )

    def __init__(self, impairment: Impairment, seed: str) -> None:
        self.counters = Counters()
        self.impairment = impairment
        self._random = Random(seed)
        self._ready: list[Frame] = []
        self._queue: list[tuple[float, int, Frame]] = []  # a heap: due, number, frame
        self._held = 0  # bytes in the queue
        self._since = 0  # frames since the last that went at once
        self._last = 0  # the largest number that has left

    @property
    def due(self) -> float | None:
        """When the next frame has to leave; None if there is none that is delayed."""
        return self._queue[0][0] if self._queue else None

    def put(self, frame: Frame, now: float) -> None:
        """Decide what becomes of a frame; a view need not live longer than to the next `take`."""
        impairment, chance, counters = self.impairment, self._random.random, self.counters
        counters.frames += 1
        if frame[_TYPE] != _IPV4:
            self._ready.append(frame)
            return
        if impairment.loss and chance() < impairment.loss:
            counters.lost += 1
            return
        copies = 1
        if impairment.duplicate and chance() < impairment.duplicate:
            counters.doubled += 1
            copies = 2
        if impairment.corrupt and chance() < impairment.corrupt:
            counters.corrupted += 1
            frame = self._corrupted(frame)
        for _ in range(copies):
            if impairment.delay:
                self._delay(frame, now)
            else:
                self._ready.append(frame)

    def take(self, now: float) -> list[Frame]:
        """Return the frames that leave by now, in their order."""
        ready, queue, counters = self._ready, self._queue, self.counters
        self._ready = []
        while queue and queue[0][0] <= now:
            _, number, frame = heappop(queue)
            self._held -= len(frame)
            if number < self._last:
                counters.overtaken += 1
            else:
                self._last = number
            ready.append(frame)
        return ready

    def _delay(self, frame: Frame, now: float) -> None:
        impairment, chance, counters = self.impairment, self._random.random, self.counters
        self._since += 1
        due = now
        if impairment.reorder and self._since >= impairment.gap and chance() < impairment.reorder:
            self._since = 0
        else:
            due += impairment.delay
            if impairment.jitter:
                due += impairment.jitter * (2 * chance() - 1)
        if self._held + len(frame) > _LIMIT:
            counters.overflowed += 1
            return
        self._held += len(frame)
        number = counters.frames + counters.doubled
        heappush(self._queue, (due, number, bytes(frame)))

    def _corrupted(self, frame: Frame) -> bytes:
        changed = bytearray(frame)
        changed[self._random.randrange(_COVERED, len(changed))] ^= self._random.randrange(1, 256)
        return bytes(changed)
