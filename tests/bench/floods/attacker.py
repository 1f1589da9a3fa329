"""Runs one flood until SIGTERM; prints `ready` when it begins, at the end its number and CPU."""

import json
import signal
import sys
from pathlib import Path
from time import monotonic, process_time

ROOT = Path(__file__).parents[3]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.bench.floods.attacks import FLOODS  # noqa: E402
from tests.bench.floods.guests import Stop  # noqa: E402


def command(name: str, path: Path) -> list[str | Path]:
    """Return the command that floods the daemon at `path`."""
    return [sys.executable, "-P", "-u", Path(__file__), name, path]


def main(name: str, path: str) -> None:
    """Flood."""
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: setattr(stop, "asked", True))
    (flood,) = (flood for flood in FLOODS if flood.name == name)
    begun: list[tuple[float, float]] = []

    def begin() -> None:
        begun.append((monotonic(), process_time()))
        print("ready")

    stop.begun = begin
    number = flood.run(Path(path), 1.0, stop)
    (wall, cpu), *_ = begun
    seconds = monotonic() - wall
    report = {"number": number, "seconds": seconds, "cpu": (process_time() - cpu) / seconds}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
