"""`make bench-loss`: the guest's TCP to ours, and to another kernel, over the same bad cable.

Each figure has a cable of its own, so that both sides lose the same frames as far as they send the
same ones; a round has its own seed.  Where loss meets delay, chance decides when slow start ends:
the figures of two rounds may differ by a factor, and only the medians of several say something.
"""

import argparse
import json
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.loads import LoadError, iperf
from tests.bench.ways import Way
from tests.lab import cabled
from tests.lab.cabled import Setting, Side
from tests.lab.impairment import CASES, Impairment
from tests.lab.namespace import CommandError
from tests.lab.network import temporary_folder
from tests.lab.options import Parser, count, duration
from tests.lab.process import ProcessError
from tests.lab.programs import HOST
from tests.lab.root import is_root

KERNELS = "two kernels"
OURS = "vsock-tap"
SIDES: dict[str, Side] = {KERNELS: cabled.kernels, OURS: cabled.ours}
DIRECTIONS = {"up": (), "down": ("-R",)}
KINDS = ("plain", "offload")
TARGET = 0.7
"""Of the two kernels' figure, wherever the cable loses, reorders or delays."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: str
    case: str

    @property
    def impairment(self) -> Impairment:
        return CASES[self.case]

    @property
    def has_target(self) -> bool:
        return bool(self.impairment.loss or self.impairment.reorder or self.impairment.delay)

    def matches(self, words: Sequence[str]) -> bool:
        """Tell whether one of the words begins its name, with or without the kind."""
        return f"{self.kind}-{self.case}".startswith(tuple(words)) or self.case in words


ROWS = [
    Row(kind, case) for kind in KINDS for case in CASES if (kind, case) != ("offload", "corrupt")
]

Samples = defaultdict[tuple[Row, str, str], list[float]]
"""Mbit/s by row, side and direction, in the order of the rounds; 0 is a run that failed."""


def measure(row: Row, side: str, direction: str, options: argparse.Namespace, seed: int) -> float:
    """Return the Mbit/s that arrive; raises LoadError, CommandError, ProcessError."""
    setting = Setting(row.impairment, row.kind == "offload", seed, options.congestion)
    with temporary_folder() as folder, SIDES[side](folder, setting) as ends:
        way = Way(side, ends.host, ends.guest, HOST, HOST)
        sums = iperf(way, options.seconds, *DIRECTIONS[direction])
        return sums["sum_received"]["bits_per_second"] / 1e6


def measure_all(rows: Sequence[Row], options: argparse.Namespace) -> Samples:
    """Measure row by row, so that each ratio is of moments that follow one another."""
    samples: Samples = defaultdict(list)
    for row in rows:
        for direction in DIRECTIONS:
            for seed in range(options.seed, options.seed + options.rounds):
                for side in SIDES:
                    what = f"{row.kind}-{row.case} {direction}, {side}, seed {seed}"
                    try:
                        figure = measure(row, side, direction, options, seed)
                        print(f"{what}: {figure:.1f}", file=sys.stderr)
                    except (LoadError, CommandError, ProcessError) as error:
                        print(f"{what}: {error}", file=sys.stderr)
                        figure = 0.0
                    samples[row, side, direction].append(figure)
    return samples


def table(samples: Samples, rows: Sequence[Row]) -> str:
    """Lay the medians out in Markdown; a ratio below the target is bold."""
    lines = []
    for kind in KINDS:
        of_kind = [row for row in rows if row.kind == kind]
        if not of_kind:
            continue
        head = [f"{kind}", *(f"{d}: {s}" for d in DIRECTIONS for s in (KERNELS, OURS, "ratio"))]
        lines += ["", _line(head), "|---|" + "--:|" * (len(head) - 1)]
        lines += [_line([str(row.impairment), *_cells(samples, row)]) for row in of_kind]
    return "\n".join(lines[1:])


def _cells(samples: Samples, row: Row) -> Iterator[str]:
    for direction in DIRECTIONS:
        theirs, ours = (median(samples[row, side, direction]) for side in (KERNELS, OURS))
        yield f"{theirs:,.1f}"
        yield f"{ours:,.1f}"
        ratio = ours / theirs if theirs else 0.0
        missed = row.has_target and ratio < TARGET
        yield f"**{ratio:.2f}**" if missed else f"{ratio:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def caption(options: argparse.Namespace) -> str:
    """Say what the figures are of."""
    return (
        f"Mbit/s of one stream that arrive, up from the guest and down to it; medians of "
        f"{options.rounds} rounds of {options.seconds:g} s.  MTU {cabled.MTU}; the kernels (Linux "
        f"{platform.release()}) use {options.congestion}.  The cable does the same in both "
        f"directions, delays are each way; a ratio below {TARGET} is bold.\n"
    )


def document(samples: Samples, options: argparse.Namespace) -> dict[str, object]:
    """Return everything as what JSON can hold."""
    return {
        "machine": {"kernel": platform.release(), "python": platform.python_version()},
        "settings": {name: getattr(options, name) for name in ("seconds", "rounds", "congestion")},
        "figures": [
            {
                "kind": row.kind,
                "case": row.case,
                "side": side,
                "direction": direction,
                "Mbit/s": all,
            }
            for (row, side, direction), all in samples.items()
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the status says only whether it could be run."""
    parser = Parser(prog="make bench-loss", description=__doc__)
    parser.add_argument("--seconds", type=duration, default=5.0, help="each measurement takes")
    parser.add_argument("--rounds", type=count, default=3, help="whose median is reported")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--congestion", default=cabled.CONGESTION, help="control of the kernels")
    parser.add_argument("--only", help=f"of plain, offload, {', '.join(CASES)}; or plain-loss1")
    parser.add_argument("--output", type=Path, default=Path("bench-loss.json"))
    options = parser.parse_args(argv)
    rows = [row for row in ROWS if options.only is None or row.matches(options.only.split(","))]
    if not rows:
        print(f"make bench-loss: nothing is named like {options.only}", file=sys.stderr)
        return 1
    if options.check:
        return 0
    if not is_root("bench-loss"):
        return 1
    samples = measure_all(rows, options)
    print(caption(options))
    print(table(samples, rows))
    options.output.write_text(json.dumps(document(samples, options), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
