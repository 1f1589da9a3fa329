"""The table and the JSON that `make floods` ends with."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import quantiles

THROUGHPUT = 0.8
"""Of what it was before, at least."""
REQUEST_MS = 100.0
"""The 99th percentile of requests, at most."""
MEMORY = 1.2
"""Of what it was before, at most, once the flood is over."""
PHASES = "before", "during", "after"


@dataclass(slots=True)
class Phase:
    """What the second guest had."""

    up: float = 0.0
    down: float = 0.0
    """Mbit/s."""
    p99: float = 0.0
    longest: float = 0.0
    """Milliseconds of requests."""

    @property
    def throughput(self) -> float:
        return self.up + self.down


@dataclass(slots=True)
class Result:
    """What one flood came to."""

    name: str
    label: str
    phases: dict[str, Phase]
    memory: dict[str, float]
    """MiB: before, peak, after."""
    rate: float
    """Of the attacker's frames, connections or requests, in a second."""
    attacker_cpu: float
    """Of a core."""
    daemon_cpu: dict[str, float]
    refused: dict[str, int] = field(default_factory=dict)
    """Counters of /stats that say so, as far as they have grown."""

    def ratio(self, phase: str) -> float:
        """Return a phase's throughput as a part of what it was before."""
        before = self.phases["before"].throughput
        return self.phases[phase].throughput / before if before else 0.0

    def missed(self) -> list[str]:
        """Return which goals are missed."""
        missed = []
        for name in PHASES[1:]:
            if self.ratio(name) < THROUGHPUT:
                missed.append(f"throughput {name}")
            if self.phases[name].p99 >= REQUEST_MS:
                missed.append(f"requests {name}")
        if self.memory["after"] > MEMORY * self.memory["before"]:
            missed.append("memory")
        return missed


def phase(figures: Mapping[str, Sequence[float]]) -> Phase:
    """Return what the second guest's program has printed as figures."""
    taken = [*figures["kept"], *figures["new"]]
    if len(taken) < 2:
        return Phase(figures["up"][0], figures["down"][0], float("inf"), float("inf"))
    p99 = quantiles(taken, n=100, method="inclusive")[98]
    return Phase(figures["up"][0], figures["down"][0], p99, max(taken))


def table(results: Sequence[Result]) -> str:
    """Lay the figures out, for a terminal as for a document."""
    head = (
        *("flood", "a second", "Mbit/s before", "during", "after"),
        *("p99 before, ms", "during", "after", "longest", "MiB before", "peak", "after", "goals"),
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
    phases, memory = result.phases, result.memory
    yield result.label
    yield f"{result.rate:,.0f}"
    yield f"{phases['before'].throughput:,.0f}"
    yield f"{result.ratio('during'):.2f}"
    yield f"{result.ratio('after'):.2f}"
    for name in PHASES:
        yield f"{phases[name].p99:.0f}"
    yield f"{phases['during'].longest:.0f}"
    yield f"{memory['before']:.0f}"
    yield f"{memory['peak']:.0f}"
    yield f"{memory['after']:.0f}"
    yield ", ".join(result.missed()) or "met"


def document(results: Sequence[Result], seconds: float) -> dict[str, object]:
    """Return everything as what JSON can hold."""
    return {
        "machine": {"kernel": platform.release(), "python": platform.python_version()},
        "settings": {"seconds": seconds},
        "goals": {"throughput": THROUGHPUT, "request_ms": REQUEST_MS, "memory": MEMORY},
        "floods": [asdict(result) | {"missed": result.missed()} for result in results],
    }
