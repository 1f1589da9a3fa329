"""What a soak has come to: lines meanwhile, a table and a JSON document at the end."""

import os
import platform
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.lab.process import Process
from tests.soak.ledger import Ledger
from tests.soak.place import Place

NOISE = ("Traceback", "Task exception", "never retrieved", "never awaited", "Fatal error")
"""What no log of ours says."""
AROUND = 24
"""Lines that are shown of what one of those begins."""


@dataclass(frozen=True)
class Sample:
    """What a process holds."""

    pid: int
    resident: int
    descriptors: int
    tasks: int


def sample(process: Process) -> Sample | None:
    """Look at a process; None where it has just gone."""
    try:
        tasks = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        return Sample(process.pid, process.resident(), process.descriptors(), tasks)
    except OSError:
        return None


@dataclass
class Figures:
    """What is gathered from the begin on."""

    seed: int
    minutes: float
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    samples: dict[str, list[tuple[float, Sample]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    loads: list[float] = field(default_factory=list)
    """Of the machine, each minute."""
    after: dict[str, Sample] = field(default_factory=dict)
    """When all connections are gone."""

    def take(self, place: Place) -> None:
        """Note what the processes hold now."""
        self.loads.append(os.getloadavg()[0])
        for name, process in place.processes().items():
            if (found := sample(process)) is not None:
                self.samples[name].append((place.ledger.now(), found))


def total(ledger: Ledger, prefix: str) -> int:
    """Sum up what was done by names that begin alike."""
    return sum(number for name, number in ledger.done.items() if name.startswith(prefix))


def minute(figures: Figures, place: Place) -> str:
    """Say in one line how it goes."""
    ledger = place.ledger
    held = figures.samples["gvproxy"][-1][1] if figures.samples["gvproxy"] else None
    holds = "away" if held is None else f"{held.resident >> 20} MiB, {held.descriptors} descriptors"
    return (
        f"{ledger.now() / 60:4.1f} min: {_transfers(ledger):,} transfers, "
        f"{_bytes(ledger) / 1e9:.1f} GB, {total(ledger, 'requests'):,} requests, "
        f"{ledger.done['names']:,} names, {sum(figures.faults.values())} faults, "
        f"{sum(ledger.excused.values())} excused, {len(ledger.violations)} violations; "
        f"gvproxy {holds}; load {figures.loads[-1]:.1f}"
    )


def _transfers(ledger: Ledger) -> int:
    return total(ledger, "uploads") + total(ledger, "downloads")


def _bytes(ledger: Ledger) -> int:
    return total(ledger, "bytes of ")


def table(figures: Figures, ledger: Ledger) -> str:
    """Lay all of it out in Markdown."""
    done = ledger.done
    rows = {
        "acknowledged transfers, 1 byte to 50 MB": f"{_transfers(ledger):,}",
        "bytes acknowledged": f"{_bytes(ledger):,}",
        "requests on kept connections": f"{total(ledger, 'requests'):,}",
        "names answered": f"{done['names']:,}",
        "datagrams back, of those sent": f"{done['datagrams back']:,} of "
        f"{done['datagrams sent']:,}",
        "pings answered, of those sent": f"{done['pings answered']:,} of {done['pings sent']:,}",
        "operations that a fault ended": f"{sum(ledger.excused.values()):,}",
        "violations": f"{len(ledger.violations)}",
        "load of the machine, median": f"{median(figures.loads or [0.0]):.1f}",
    }
    lines = ["| | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
    lines += ["| fault | times | recovery, median | worst | connections that went through |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for name, times in sorted(figures.faults.items()):
        seconds = figures.recoveries[name]
        cells = [f"{median(seconds):.1f} s", f"{max(seconds):.1f} s"] if seconds else ["-", "-"]
        cells.append(f"{ledger.outlived[name]:,}")
        lines.append(f"| {' | '.join([name, str(times), *cells])} |")
    lines += ["", *_memory(figures)]
    return "\n".join(lines)


def _memory(figures: Figures) -> list[str]:
    lines = ["| process | held | first, last, at most under load | without load |"]
    lines += ["|---|---|--:|--:|"]
    for name, after in figures.after.items():
        of_last = [one for _, one in figures.samples[name] if one.pid == after.pid] or [after]
        columns = {
            "MiB": ([one.resident >> 20 for one in of_last], after.resident >> 20),
            "descriptors": ([one.descriptors for one in of_last], after.descriptors),
            "tasks": ([one.tasks for one in of_last], after.tasks),
        }
        for what, (values, last) in columns.items():
            cell = f"{values[0]}, {values[-1]}, {max(values)}"
            lines.append(f"| {name} | {what} | {cell} | {last} |")
    return lines


def document(figures: Figures, ledger: Ledger) -> dict[str, object]:
    """Return everything as what JSON can hold."""
    return {
        "machine": {
            "kernel": platform.release(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load": figures.loads,
        },
        "seed": figures.seed,
        "minutes": figures.minutes,
        "violations": ledger.violations,
        "done": dict(sorted(ledger.done.items())),
        "excused": dict(sorted(ledger.excused.items())),
        "went through": dict(sorted(ledger.outlived.items())),
        "faults": figures.faults,
        "recovery seconds": figures.recoveries,
        "processes": {
            name: [
                {
                    "at": round(at, 1),
                    "pid": one.pid,
                    "resident": one.resident,
                    "descriptors": one.descriptors,
                    "tasks": one.tasks,
                }
                for at, one in samples
            ]
            for name, samples in figures.samples.items()
        },
    }


def noise(log: Path) -> list[str]:
    """Return the lines of a log that should not be there, each with what is around it."""
    lines = log.read_text(errors="replace").splitlines()
    found = [place for place, line in enumerate(lines) if any(word in line for word in NOISE)]
    return ["\n".join(lines[max(0, place - 2) : place + AROUND]) for place in found]
