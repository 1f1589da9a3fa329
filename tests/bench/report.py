"""The table and the JSON that `make bench` ends with."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.ways import LOOPBACK, OURS

Results = Mapping[str, Mapping[str, float]]
"""Figure by way by name of the figure."""

ROWS = {
    "tcp1-up": "TCP, one stream, guest to host, Gbit/s",
    "tcp1-down": "TCP, one stream, host to guest, Gbit/s",
    "tcp1-both-up": "  both at once: guest to host",
    "tcp1-both-down": "  both at once: host to guest",
    "tcp8-up": "TCP, eight streams, guest to host, Gbit/s",
    "tcp8-down": "TCP, eight streams, host to guest, Gbit/s",
    "tcp8-both-up": "  both at once: guest to host",
    "tcp8-both-down": "  both at once: host to guest",
    "plain1-up": "TCP without offloads, one stream, guest to host, Gbit/s",
    "plain1-down": "TCP without offloads, one stream, host to guest, Gbit/s",
    "jumbo1-up": "  and with an MTU of 65520, guest to host",
    "jumbo1-down": "  and with an MTU of 65520, host to guest",
    "guests1": "TCP, one stream, guest to guest, Gbit/s",
    "stalled": "TCP, host to guest, beside a guest that does not read, of the rate without",
    "busy-http64": "requests, 64 kept connections, beside a guest that downloads, likewise",
    "busy-new64": "new connections, 64 at a time, beside a guest that downloads, likewise",
    "udp-up": "UDP, 300 Mbit/s offered, guest to host, Gbit/s",
    "udp-up-loss": "  lost, %",
    "udp-down": "UDP, 300 Mbit/s offered, host to guest, Gbit/s",
    "udp-down-loss": "  lost, %",
    "udp-most-up": "UDP as fast as it is sent, guest to host, arriving, Gbit/s",
    "udp-most-down": "UDP as fast as it is sent, host to guest, arriving, Gbit/s",
    "http1": "requests/s, 1 kept connection",
    "http64": "requests/s, 64 kept connections",
    "new1": "new connections/s, 1 at a time",
    "new64": "new connections/s, 64 at a time",
    "dns": "look-ups/s, answers kept",
    "ping": "ping of the gateway, median, ms",
    "tcp1-up-cpu": "CPU seconds per GB, guest to host",
    "tcp1-down-cpu": "CPU seconds per GB, host to guest",
    "tcp8-up-cpu": "  eight streams, guest to host",
    "tcp8-down-cpu": "  eight streams, host to guest",
    "memory-host": "resident memory, host's program, MiB",
    "memory-guest": "resident memory, guest's program, MiB",
    "memory-connection": "  for each idle connection, KiB",
    "idle-cpu": "CPU while idle, %",
}


@dataclass(frozen=True)
class Target:
    """What a figure of ours has to reach."""

    bound: float
    ratio: bool = True
    """To loopback's, and not absolute."""
    least: bool = True
    """At least, and not at most."""

    def text(self, met: bool) -> str:
        """Say what it is and whether it is met."""
        sign = ">=" if self.least else "<="
        small = self.ratio or 0 < self.bound < 1
        bound = f"{self.bound:.2f}" if small else f"{self.bound:,.0f}"
        return f"{sign} {bound} {'met' if met else 'NOT MET'}"

    def met(self, figure: float) -> bool:
        """Tell whether a figure, or its ratio, is where it should be."""
        return figure >= self.bound if self.least else figure <= self.bound


TARGETS = {
    "tcp1-up": Target(0.30),
    "tcp1-down": Target(0.30),
    "tcp8-up": Target(0.28),
    "tcp8-down": Target(0.28),
    "plain1-up": Target(0.05),
    "plain1-down": Target(0.05),
    "jumbo1-up": Target(0.15),
    "jumbo1-down": Target(0.15),
    "stalled": Target(0.9, ratio=False),
    "http64": Target(0.15),
    "new1": Target(0.20),
    "new64": Target(0.12),
    "dns": Target(5000, ratio=False),
    "memory-host": Target(60, ratio=False, least=False),
    "memory-connection": Target(12, ratio=False, least=False),
    "idle-cpu": Target(0, ratio=False, least=False),
}


def target_of(name: str, results: Results) -> tuple[Target, bool] | None:
    """Return a figure's target and whether it is met; None where there is nothing to compare."""
    target, figures = TARGETS.get(name), results.get(name, {})
    if target is None or OURS not in figures:
        return None
    if not target.ratio:
        return target, target.met(figures[OURS])
    if not figures.get(LOOPBACK):
        return None
    return target, target.met(figures[OURS] / figures[LOOPBACK])


def table(results: Results, ways: Sequence[str]) -> str:
    """Lay the figures out: absolute ones, ours as a ratio to each, and the targets."""
    others = [way for way in ways if way != OURS]
    head = ["", *ways, *(f"/ {way}" for way in others), "target"]
    rows = [head, *_rows(results, ways, others)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _rows(results: Results, ways: Sequence[str], others: Sequence[str]) -> Iterator[list[str]]:
    for name, label in ROWS.items():
        figures = results.get(name)
        if not figures:
            continue
        ours = figures.get(OURS)
        row = [label, *(_number(figures.get(way)) for way in ways)]
        for other in others:
            theirs = figures.get(other)
            row.append("" if ours is None or not theirs else f"{ours / theirs:.2f}")
        target = target_of(name, results)
        yield [*row, "" if target is None else target[0].text(target[1])]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def document(
    results: Results,
    ways: Sequence[str],
    skipped: Mapping[str, str],
    settings: Mapping[str, object],
) -> dict[str, object]:
    """Return everything as what JSON can hold."""
    return {
        "machine": {"kernel": platform.release(), "python": platform.python_version()},
        "settings": dict(settings),
        "ways": list(ways),
        "skipped": dict(skipped),
        "figures": {name: dict(results[name]) for name in ROWS if name in results},
        "targets": {
            name: {
                "bound": target.bound,
                "ratio": target.ratio,
                "least": target.least,
                "met": met,
            }
            for name in TARGETS
            if (found := target_of(name, results)) is not None
            for target, met in [found]
        },
    }
