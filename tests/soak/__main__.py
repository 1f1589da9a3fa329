"""`make soak`: run it, and say whether what was acknowledged is intact; the status is 1 if not."""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.namespace import CommandError
from tests.lab.options import Parser, duration
from tests.lab.process import ProcessError, tail
from tests.lab.root import is_root
from tests.lab.wait import NotYetError, until
from tests.soak import faults, loads, recovery, report
from tests.soak.faults import KINDS, Plan
from tests.soak.place import Place, make_place
from tests.soak.report import Figures, Sample, sample

MINUTES = 20.0
LAST_DAEMON = 0.6
"""Of the time, after which no fault ends gvproxy any more, so that its growth is seen."""
_ENDING = 240.0
"""Seconds for what is being done to be done: the longest transfer, over the bad cable."""
_EMPTYING = 330.0
"""Seconds until nothing is left: a UDP mapping stays for 300 (RFC 4787)."""
_SPARE = 8
"""Descriptors that may be more than before the loads: the resolver's, and the API's callers."""


def _inflict(place: Place, figures: Figures, plan: Plan) -> None:
    """Have one fault, and see to it that all recovers."""
    ledger, kind = place.ledger, KINDS[plan.name]
    guest = place.guests[plan.guest]
    fault = ledger.begin(plan.name, kind.effects, guest.name if kind.of_guest else None)
    figures.faults[plan.name] += 1
    with kind.context(place, guest, random.Random(plan.seed)):
        time.sleep(plan.lasting)
        fault.mended = ledger.now()
    seconds = recovery.check(place, fault)
    if seconds is not None:
        figures.recoveries[plan.name].append(seconds)


def _run(place: Place, figures: Figures, only: Sequence[str]) -> None:
    """Have faults while the loads run, until the time is over."""
    ledger, seconds = place.ledger, figures.minutes * 60
    next_minute = 60.0
    for plan in faults.schedule(figures.seed, len(place.guests)):
        if only and not plan.name.startswith(tuple(only)):
            continue
        if KINDS[plan.name].ends_daemon and not only and ledger.now() > LAST_DAEMON * seconds:
            continue
        time.sleep(plan.pause)
        if ledger.now() < seconds:
            _inflict(place, figures, plan)
        while ledger.now() >= next_minute:
            next_minute += 60
            figures.take(place)
            print(report.minute(figures, place), flush=True)
        for name, process in place.processes().items():
            if not process.running:
                ledger.violation(f"{name} has ended by itself: {process.last_line()}")
                return
        if ledger.now() >= seconds:
            return


def _check_end(place: Place, figures: Figures, before: dict[str, Sample]) -> None:
    """Check that nothing is left of the loads, and that the logs are clean."""
    ledger = place.ledger

    def emptied() -> None:
        for name, process in place.processes().items():
            found = sample(process)
            if found is None:
                raise NotYetError(f"{name} is not there")
            figures.after[name] = found
            if found.descriptors > before[name].descriptors + _SPARE:
                held = f"{found.descriptors} descriptors, {before[name].descriptors} before"
                raise NotYetError(f"{name} has {held}")

    try:
        place.gvproxy.wait_until_unused(_EMPTYING)
    except TimeoutError as error:
        shown = place.world.host.run("ss", "-Htnpo", "state", "all", "exclude", "listening")
        held = [line for line in shown.splitlines() if '"gvproxy"' in line]
        ledger.violation("\n    ".join([str(error), *held]))
    try:
        until(emptied, "descriptors are given back", _EMPTYING)
    except TimeoutError as error:
        ledger.violation(str(error))
    if negative := _negative(place.gvproxy.get("/stats")):
        ledger.violation(f"/stats has numbers below 0: {negative}")
    for log in sorted(place.world.folder.glob("*.log")):
        for line in report.noise(log):
            ledger.violation(f"{log.name}: {line}")


def _negative(tree: dict[str, object], path: str = "") -> list[str]:
    found = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += _negative(value, f"{path}{name}.")
        elif isinstance(value, int) and value < 0:
            found.append(f"{path}{name}={value}")
    return found


def _soak(figures: Figures, only: Sequence[str], keep: Path | None) -> tuple[Place, list[str]]:
    """Run all of it, and return the place as it was, and the ends of its logs."""
    with make_place(figures.seed) as place:
        before = {
            name: found
            for name, process in place.processes().items()
            if (found := sample(process)) is not None
        }
        stop = threading.Event()
        place.ledger.began = time.monotonic()
        clients = loads.start(place, stop, figures.seed)
        try:
            _run(place, figures, only)
        finally:
            stop.set()
        figures.take(place)
        for name in loads.wait(clients, _ENDING):
            place.ledger.violation(f"{name} has not ended {_ENDING:.0f} s after the end")
        faults.give_addresses_back(place)
        _check_end(place, figures, before)
        logs = sorted(place.world.folder.glob("*.log"))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for log in logs:
                (keep / log.name).write_bytes(log.read_bytes())
        return place, [f"--- {log.name}\n{tail(log)}" for log in logs]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a soak; 0 is a run without a violation."""
    parser = Parser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=duration, default=MINUTES)
    parser.add_argument("--seed", type=int, help="of what happens by chance; else one is chosen")
    parser.add_argument("--only", default="", help=f"of {', '.join(KINDS)}; or how they begin")
    parser.add_argument("--output", type=Path, default=Path("soak.json"))
    parser.add_argument("--logs", type=Path, help="a folder for the programs' logs")
    options = parser.parse_args(argv)
    only = [word for word in options.only.split(",") if word]
    if only and not any(name.startswith(tuple(only)) for name in KINDS):
        print(f"make soak: no fault is named like {options.only}", file=sys.stderr)
        return 1
    if options.check:
        return 0
    if not is_root("soak"):
        return 1
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
    # Either way the programs are ended, and not left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    figures = Figures(seed, options.minutes)
    try:
        place, logs = _soak(figures, only, options.logs)
    except (CommandError, ProcessError, TimeoutError) as error:
        print(f"make soak: it could not be run to its end: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make soak: interrupted", file=sys.stderr)
        return 1
    ledger = place.ledger
    print(f"\n{report.table(figures, ledger)}")
    text = json.dumps(report.document(figures, ledger), indent=2)
    options.output.write_text(text + "\n")
    if not ledger.violations:
        return 0
    print("\n".join(logs), file=sys.stderr)
    print(f"make soak: {len(ledger.violations)} violations, seed {seed}:", file=sys.stderr)
    print("\n".join(ledger.violations), file=sys.stderr)
    return 1


if __name__ == "__main__":
    # Clients that are stuck are threads that would keep us here.
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
