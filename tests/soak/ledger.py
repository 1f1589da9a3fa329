"""What was done, what went wrong, and whether it may have.

An operation that fails is excused by a fault that was there at some time between its begin and its
failure, if a fault of that kind may have such an effect, and that on this guest.  A fault lasts
until everything works again (`recovery`).  What nothing excuses is a violation; what is corrupt or
silently short is one whatever happened.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from math import inf


class Effect(Enum):
    """What a fault may do to an operation."""

    CONNECT = "no connection can be made"
    BREAK = "a connection is reset"
    END = "a connection ends early at the host, as a killed daemon's sockets do"
    PEER = "no connection can be made to another guest"
    NAME = "no name is answered"
    OUTSIDE_NAME = "no name of the outside is answered"
    OUTSIDE = "connections to the outside fail, or hang"


@dataclass(slots=True)
class Fault:
    """Something that is wrong for a while, with one guest or with all."""

    kind: str
    effects: frozenset[Effect]
    guest: str | None
    begin: float
    mended: float = inf
    recovered: float = inf

    def excuses(self, effects: Collection[Effect], guests: Collection[str], since: float) -> bool:
        """Tell whether it excuses a failure, by now, of what was begun at `since`."""
        return (
            not self.effects.isdisjoint(effects)
            and (self.guest is None or self.guest in guests)
            and self.recovered >= since
        )


_RECENT = 64
"""Faults that are remembered: more than happen during the longest operation."""


@dataclass
class Ledger:
    """Shared by all threads."""

    began: float = field(default_factory=time.monotonic)
    done: Counter[str] = field(default_factory=Counter)
    """Operations and bytes that were acknowledged, by name."""
    excused: Counter[str] = field(default_factory=Counter)
    """Operations that failed, and may have."""
    outlived: Counter[str] = field(default_factory=Counter)
    """Connections that went through a fault and then ended well, by the fault's kind."""
    violations: list[str] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.began

    def count(self, name: str, number: int = 1) -> None:
        """Count what was done."""
        with self._lock:
            self.done[name] += number

    def violation(self, text: str) -> None:
        """Note a violation, and say it at once."""
        with self._lock:
            latest = self.faults[-1] if self.faults else None
            last = "no fault" if latest is None else f"{latest.kind} at {latest.begin:.1f} s"
            line = f"VIOLATION at {self.now():.1f} s (after {last}): {text}"
            self.violations.append(line)
            print(line, flush=True)

    def went_through(self, guests: Collection[str], since: float) -> None:
        """Count for each fault that a connection, begun at `since`, was there before and after it.

        For a fault of all guests, or of one of its own.
        """
        with self._lock:
            now = self.now()
            for fault in self.faults:
                concerned = fault.guest is None or fault.guest in guests
                if concerned and since < fault.begin and fault.mended < now:
                    self.outlived[fault.kind] += 1

    def failed(
        self,
        what: str,
        effects: Collection[Effect],
        guests: Collection[str],
        since: float,
        why: object,
    ) -> None:
        """Note that an operation failed: it is excused, or a violation.

        `effects` are those that each explain the failure.
        """
        with self._lock:
            excused = any(fault.excuses(effects, guests, since) for fault in self.faults)
            if excused:
                self.excused[what] += 1
        if not excused:
            seconds = self.now() - since
            name = f"{what} of {', '.join(guests)}"
            self.violation(f"{name}, {seconds:.1f} s after its begin: {why!r}")

    def begin(self, kind: str, effects: frozenset[Effect], guest: str | None) -> Fault:
        """Note the begin of a fault, before it is there."""
        fault = Fault(kind, effects, guest, self.now())
        with self._lock:
            self.faults.append(fault)
        return fault
