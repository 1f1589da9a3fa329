"""`make bench`: measure every load on every way in turn, and report medians."""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.bench import report
from tests.bench.loads import LOADS, STANDING, Load, LoadError
from tests.bench.ways import Way, set_up
from tests.lab.namespace import CommandError
from tests.lab.network import temporary_folder
from tests.lab.options import Parser, count, duration
from tests.lab.root import is_root

Samples = defaultdict[str, defaultdict[str, list[float]]]


def _run(load: Load, ways: Sequence[Way], seconds: float, samples: Samples) -> None:
    for way in ways:
        _progress(f"{load.name} on {way.name}")
        try:
            figures = load.measure(way, seconds)
        except (LoadError, CommandError) as error:
            _progress("")
            print(f"{load.name} on {way.name}: {error}", file=sys.stderr)
            continue
        for name, value in figures.items():
            samples[name][way.name].append(value)
    _progress("")


def _progress(text: str) -> None:
    """Show on a terminal what is going on, in a line that is overwritten."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _select(only: str | None) -> list[Load]:
    """Pick the loads whose names begin with one of the words."""
    if only is None:
        return [*STANDING, *LOADS]
    words = tuple(only.split(","))
    return [load for load in (*STANDING, *LOADS) if load.name.startswith(words)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the status says only whether it could be run."""
    parser = Parser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=duration, default=3.0, help="each measurement takes")
    parser.add_argument("--rounds", type=count, default=3, help="whose median is reported")
    parser.add_argument(
        "--only",
        help="loads to measure: "
        "tcp1,tcp8,plain,jumbo,guests,stalled,udp,http,new,dns,ping,quiet,idle",
    )
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args(argv)
    selected = _select(options.only)
    if not selected:
        print(f"make bench: no load is named like {options.only}", file=sys.stderr)
        return 1
    if options.check:
        return 0
    if not is_root("bench"):
        return 1
    samples: Samples = defaultdict(lambda: defaultdict(list))
    # Memory is that of programs which have only just been started.
    for loads, rounds in ((STANDING, 1), (LOADS, options.rounds)):
        with temporary_folder() as folder, set_up(folder) as bench:
            for load in [load for load in loads if load in selected] * rounds:
                _run(load, bench.ways, options.seconds, samples)
            ways, skipped = [way.name for way in bench.ways], bench.skipped
    results = {
        name: {way: median(values) for way, values in by_way.items()}
        for name, by_way in samples.items()
    }
    settings = {"seconds": options.seconds, "rounds": options.rounds, "mtu": 1500}
    print(report.table(results, ways))
    for name, reason in skipped.items():
        print(f"skipped: {name} ({reason})")
    document = report.document(results, ways, skipped, settings)
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
