"""The table and the JSON that `make floods` ends with."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import median, quantiles

THROUGHPUT = 0.8
"""Of what it was before, at least."""
REQUEST_MS = 100.0
"""The 99th percentile of requests, at most."""
LOOP_MS = 50.0
"""One turn of the daemon's loop, at most."""
MEMORY = 1.2
"""Of what it was before, at most, once the flood is over."""


@dataclass(slots=True)
class Phase:
    """What the second guest had, once."""

    up: float
    down: float
    """Mbit/s."""
    requests: Sequence[float]
    """Milliseconds of each."""
    loop: float
    """Milliseconds of the loop's longest turn."""
    cpu: float
    """The daemon's, of a core."""

    @property
    def throughput(self) -> float:
        return self.up + self.down


def _p99(phases: Sequence[Phase]) -> float:
    taken = [each for phase in phases for each in phase.requests]
    if len(taken) < 2:
        return float("inf")
    return quantiles(taken, n=100, method="inclusive")[98]


def _throughput(phases: Sequence[Phase]) -> float:
    return median(phase.throughput for phase in phases)


@dataclass(slots=True)
class Result:
    """What one flood came to."""

    name: str
    label: str
    before: list[Phase]
    during: list[Phase]
    after: list[Phase]
    """One each round; `before` all before the first flood, the others in turns."""
    memory: dict[str, float]
    """MiB: before, peak, after."""
    rate: float
    """Of the attacker's frames, connections or requests, in a second."""
    attacker_cpu: float
    """Of a core."""
    refused: dict[str, int] = field(default_factory=dict)
    """Counters of /stats that say so, as far as they have grown."""

    @property
    def phases(self) -> dict[str, list[Phase]]:
        return {"before": self.before, "during": self.during, "after": self.after}

    def ratio_during(self) -> float:
        """Return the throughput of floods as a part of that right before and after each."""
        quiet = pairwise([_throughput(self.before), *(each.throughput for each in self.after)])
        return median(
            2 * phase.throughput / (sum(pair) or 1.0)
            for phase, pair in zip(self.during, quiet, strict=True)
        )

    def ratio_after(self) -> float:
        """Return the throughput when floods are over as a part of that before the first."""
        return _throughput(self.after) / (_throughput(self.before) or 1.0)

    def longest(self) -> float:
        """Return how many ms the loop's longest turn took."""
        return max(phase.loop for phase in (*self.during, *self.after))

    def missed(self) -> list[str]:
        """Return which goals are missed."""
        missed = []
        for name, ratio in (("during", self.ratio_during()), ("after", self.ratio_after())):
            if ratio < THROUGHPUT:
                missed.append(f"throughput {name}")
            if _p99(self.phases[name]) >= REQUEST_MS:
                missed.append(f"requests {name}")
        if self.longest() > LOOP_MS:
            missed.append("loop")
        if self.memory["after"] > MEMORY * self.memory["before"]:
            missed.append("memory")
        return missed


def phase(figures: Mapping[str, Sequence[float]], loop: float, cpu: float) -> Phase:
    """Return what the second guest's program has printed as figures."""
    requests = [*figures["kept"], *figures["new"]]
    return Phase(figures["up"][0], figures["down"][0], requests, loop, cpu)


def table(results: Sequence[Result]) -> str:
    """Lay the figures out, for a terminal as for a document."""
    head = (
        *("flood", "a second", "Mbit/s before", "during", "after"),
        *("p99 before, ms", "during", "after", "loop before, ms", "longest"),
        *("MiB before", "peak", "after", "goals"),
    )
    rows = [head, *map(tuple, map(_row, results))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _row(result: Result) -> Iterator[str]:
    memory = result.memory
    yield result.label
    yield f"{result.rate:,.0f}"
    yield f"{_throughput(result.before):,.0f}"
    yield f"{result.ratio_during():.2f}"
    yield f"{result.ratio_after():.2f}"
    for phases in result.phases.values():
        yield f"{_p99(phases):.0f}"
    yield f"{max(phase.loop for phase in result.before):.0f}"
    yield f"{result.longest():.0f}"
    yield f"{memory['before']:.0f}"
    yield f"{memory['peak']:.0f}"
    yield f"{memory['after']:.0f}"
    yield ", ".join(result.missed()) or "met"


def document(results: Sequence[Result], seconds: float, rounds: int) -> dict[str, object]:
    """Return everything as what JSON can hold; of requests 99th percentile and longest."""
    return {
        "machine": {"kernel": platform.release(), "python": platform.python_version()},
        "settings": {"seconds": seconds, "rounds": rounds},
        "goals": {
            "throughput": THROUGHPUT,
            "request_ms": REQUEST_MS,
            "loop_ms": LOOP_MS,
            "memory": MEMORY,
        },
        "floods": [_document(result) | {"missed": result.missed()} for result in results],
    }


def _document(result: Result) -> dict[str, object]:
    found = asdict(result)
    for name, phases in result.phases.items():
        found[name] = [
            asdict(phase) | {"requests": [_p99([phase]), max(phase.requests, default=float("inf"))]}
            for phase in phases
        ]
    return found
