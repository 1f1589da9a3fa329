"""Give targets inputs that nobody has thought of, and keep those that fail."""

import contextlib
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from types import FrameType

from tests.fuzz import budget, corpus
from tests.fuzz.cases import Case, join, split
from tests.fuzz.mutation import mutate
from tests.fuzz.targets import NAMES, OneLine, Target, load
from tests.lab.options import Parser, count, duration

_MEMORY = 2 << 30
"""Bytes of address space: what a target may not need."""
_GROWTH = 256 << 20
"""Bytes by which a run may grow, once it has gone on for a while: nothing of an input is kept."""
_SETTLED = 1000
"""Inputs after which everything has been imported and every cache filled."""
_HANGS = 20
"""Seconds of the processor's time for one input after which it hangs, or ten times as many of the
wall's: the machine may be busy with others."""
_SHORTENING = 30
"""Seconds to look for a shorter input that fails as well."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the targets; succeed where nothing fails."""
    parser = Parser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=duration, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, help="of a run that is to be repeated")
    parser.add_argument("--jobs", type=count, default=2, help="targets at the same time")
    parser.add_argument("--coverage", action="store_true", help="let atheris choose the inputs")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="give one input only")
    options = parser.parse_args(argv)
    names = options.targets or list(NAMES)
    if len(names) != 1 and (options.coverage or options.repeat):
        parser.error("--coverage and --repeat are for one target")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(NAMES)}")
    if options.check:
        return 0
    if options.repeat is not None:
        with OneLine():
            budget.check(load(names[0]).target, corpus.read(options.repeat))
        return 0
    if options.coverage:
        from tests.fuzz.guided import guided

        guided(names[0], options.seconds)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    if len(names) == 1:
        return 0 if _run(names[0], options.seconds, seed) else 1
    with ThreadPoolExecutor(options.jobs) as pool:
        return max(pool.map(lambda name: _start(name, options.seconds, seed), names))


def _start(name: str, seconds: float, seed: int) -> int:
    """Run one target in a process of its own, for memory to be its own."""
    command = [sys.executable, "-m", "tests.fuzz", name, f"--seconds={seconds}", f"--seed={seed}"]
    return subprocess.run(command).returncode


def _run(name: str, seconds: float, seed: int) -> bool:
    """Give the seeds, and mutate until the time is over; tell whether nothing has failed."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.RLIM_INFINITY))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hangs)
    target = load(name)
    end, number, settled = monotonic() + seconds, 0, 0
    with OneLine():
        seeds = [split(one) for one in corpus.inputs(name).values()]
        while number < len(seeds) or monotonic() < end:
            rng = random.Random(f"{seed} {number}")
            valid = number < len(seeds)
            data = join(seeds[number] if valid else mutate(seeds, rng, target.repair))
            if not _holds(name, target, data):
                print(f"{name}: seed {seed}, input {number}", flush=True)
                return False
            number += 1
            if number == _SETTLED:
                settled = _peak()
            elif settled and _peak() - settled > _GROWTH:
                print(f"{name}: memory grows; seed {seed}, until input {number}", flush=True)
                return False
    print(f"{name}: {number} inputs of seed {seed} in {seconds:.0f} s", flush=True)
    return True


def _holds(name: str, target: Target, data: bytes) -> bool:
    """Give an input; where it fails, keep and show it, as short as it goes on failing."""
    error = _failure(target, data)
    if error is None:
        return True
    data = _shortened(target, data, type(error))
    error = _failure(target, data) or error
    traceback.print_exception(error)
    path = corpus.keep(name, data, str(error).partition("\n")[0] or type(error).__name__)
    print(f"{name}: {data.hex()}", flush=True)
    print(f"{name}: again by python -m tests.fuzz {name} --repeat {path}", flush=True)
    return False


def _failure(target: Target, data: bytes) -> BaseException | None:
    _watch(_HANGS)
    try:
        budget.check(target.target, data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    finally:
        _watch(0)
    return None


def _shortened(target: Target, data: bytes, kind: type[BaseException]) -> bytes:
    """Leave out what the failure does not need: messages, then the ends of those left."""
    case, end = split(data), monotonic() + _SHORTENING
    for candidates in (_without_one, _without_ends):
        again = True
        while again:
            again = False
            for candidate in candidates(case):
                if monotonic() > end:
                    return join(case)
                if isinstance(_failure(target, join(candidate)), kind):
                    case, again = candidate, True
                    break
    return join(case)


def _without_one(case: Case) -> list[Case]:
    return [case[:place] + case[place + 1 :] for place in reversed(range(len(case)))]


def _without_ends(case: Case) -> list[Case]:
    return [
        [*case[:place], one[: len(one) // 2], *case[place + 1 :]]
        for place, one in enumerate(case)
        if len(one) > 64
    ]


def _watch(seconds: int) -> None:
    """Have `_hangs` be called where this takes longer; 0 for not any more."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)


def _hangs(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no end after {_HANGS} seconds")


def _peak() -> int:
    """Return the most memory that was used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
