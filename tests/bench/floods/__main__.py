"""`make floods`: run one flood after another beside a second guest, and report what it notices."""

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from tests.bench.floods import attacker, report, second, servers
from tests.bench.floods.attacks import FLOODS, Flood
from tests.bench.floods.report import Phase, Result
from tests.bench.floods.watched import Watch
from tests.lab.namespace import CommandError, Namespace
from tests.lab.network import temporary_folder
from tests.lab.options import Parser, count, duration
from tests.lab.process import Process, ProcessError
from tests.lab.programs import HOST, Agent, Gvproxy
from tests.lab.root import is_root

SETTLE = 40.0
"""Seconds that memory may take to return: guests that have gone are waited for (`tcp.timers`)."""
_REFUSED = re.compile(
    "Refused|Malformed|Dropped|Failures|Errors|Invalid|Failed|Full|Limited|Paused"
)
_GATEWAY = "10.99.0.1"
_NOBODY = "02:00:00:00:00:01"


def make_host(folder: Path) -> Namespace:
    """A host whose names are asked of nobody, and whose every other packet is lost."""
    host = Namespace("host", folder, ["127.0.0.1"])
    host.run("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
    for device in ("wan0", "wan1"):
        host.run("ip", "link", "set", device, "up")
    host.run("ip", "address", "add", "10.99.0.2/24", "dev", "wan0")
    host.run("ip", "neigh", "add", _GATEWAY, "lladdr", _NOBODY, "dev", "wan0")
    host.run("ip", "route", "add", "default", "via", _GATEWAY)
    host.set("net/ipv4/ping_group_range", "0 0")
    for kind in ("http", "bulk", "hold", "dumb"):
        host.start(kind, *servers.command(kind)).wait_for("ready")
    return host


def _pin() -> list[str]:
    """Leave one core to the daemon, where there are others; return what starts it there."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return []
    os.sched_setaffinity(0, cores[1:])
    return ["taskset", "--cpu-list", str(cores[0])]


def _end(number: int, frame: object) -> None:
    """Unwind, so that what was started is ended."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _measure(guest: Namespace, seconds: float, daemon: Process, watch: Watch) -> Phase:
    watch.take()
    begins = daemon.cpu()
    output = guest.run(*second.command(HOST, seconds), timeout=seconds * 3 + 30)
    return report.phase(json.loads(output), watch.take(), (daemon.cpu() - begins) / seconds)


def _mib(process: Process, name: str) -> float:
    text = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(rf"{name}:\s*(\d+) kB", text)
    assert match is not None
    return int(match[1]) / 1024


def _settle(process: Process, bound: float) -> float:
    """Return the memory as soon as it is within the bound, or at the end of what is waited."""
    ends = monotonic() + SETTLE
    while (memory := _mib(process, "VmRSS")) > bound and monotonic() < ends:
        sleep(0.1)
    return memory


def _counters(gvproxy: Gvproxy) -> dict[str, int]:
    found: dict[str, int] = {}
    for section, counters in gvproxy.get("/stats")["Details"].items():
        for name, value in counters.items():
            if _REFUSED.search(name):
                found[f"{section}.{name}"] = value
    return found


def run(flood: Flood, host: Namespace, seconds: float, rounds: int, pin: Sequence[str]) -> Result:
    """Run one flood, once a round, against a daemon of its own."""
    watch = Watch(host.folder / f"{flood.name}.watch")
    with ExitStack() as stack:
        start = [*pin, *watch.command()]
        gvproxy = Gvproxy(host.folder, host, name=f"gvproxy-{flood.name}", before=start)
        daemon = gvproxy.process
        stack.callback(daemon.kill)
        guest = stack.enter_context(Namespace(f"guest-{flood.name}", host.folder))
        Agent(guest, gvproxy.url).wait()
        counted = _counters(gvproxy)
        before: list[Phase] = []
        during: list[Phase] = []
        after: list[Phase] = []
        for _ in range(rounds):
            before.append(_measure(guest, seconds, daemon, watch))
        memory = {"before": _mib(daemon, "VmRSS")}
        Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # VmHWM begins anew
        told = []
        for number in range(rounds):
            log = host.folder / f"{flood.name}-{number}.log"
            process = Process(flood.name, attacker.command(flood.name, gvproxy.path), log)
            stack.callback(process.kill)
            process.wait_for("ready", timeout=30)
            during.append(_measure(guest, seconds, daemon, watch))
            process.stop(timeout=15)
            told.append(json.loads(process.last_line()))
            after.append(_measure(guest, seconds, daemon, watch))
        memory["peak"] = _mib(daemon, "VmHWM")
        memory["after"] = _settle(daemon, report.MEMORY * memory["before"])
        grown = {name: value - counted.get(name, 0) for name, value in _counters(gvproxy).items()}
    return Result(
        name=flood.name,
        label=flood.label,
        before=before,
        during=during,
        after=after,
        memory=memory,
        rate=median(each["number"] / each["seconds"] for each in told),
        attacker_cpu=median(each["cpu"] for each in told),
        refused={name: value for name, value in grown.items() if value > 0},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the floods; the status says whether all goals are met."""
    parser = Parser(prog="make floods", description=__doc__)
    parser.add_argument("--seconds", type=duration, default=1.0, help="each phase takes")
    parser.add_argument("--rounds", type=count, default=5, help="of each flood")
    parser.add_argument("--only", help="floods to run: " + ",".join(each.name for each in FLOODS))
    parser.add_argument("--output", type=Path, default=Path("floods.json"))
    options = parser.parse_args(argv)
    words = tuple(options.only.split(",")) if options.only else ("",)
    selected = [flood for flood in FLOODS if flood.name.startswith(words)]
    if not selected:
        print(f"make floods: no flood is named like {options.only}", file=sys.stderr)
        return 1
    if options.check:
        return 0
    if not is_root("floods"):
        return 1
    signal.signal(signal.SIGTERM, _end)
    pin = _pin()
    results = []
    with temporary_folder() as folder, make_host(folder) as host:
        for flood in selected:
            print(f"{flood.name} ...", file=sys.stderr, flush=True)
            try:
                results.append(run(flood, host, options.seconds, options.rounds, pin))
            except (CommandError, ProcessError, TimeoutError, OSError) as error:
                print(f"{flood.name}: {error}", file=sys.stderr)
    print(report.table(results))
    options.output.write_text(
        json.dumps(report.document(results, options.seconds, options.rounds), indent=2) + "\n"
    )
    missed = [result.name for result in results if result.missed()]
    return 1 if missed or len(results) < len(selected) else 0


if __name__ == "__main__":
    sys.exit(main())
