"""Inputs chosen by atheris: it mutates what makes the code do something new.

Needs the extra `fuzz`.  Messages are mutated as without it, and by libFuzzer's own mutations.
"""

import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

from tests.fuzz import corpus
from tests.fuzz.budget import Budget, check
from tests.fuzz.cases import join, split
from tests.fuzz.mutation import mutate
from tests.fuzz.targets import OneLine, load

SLOWER = 10.0
"""By how much instrumented code is slower, about."""
_LONGEST = 1 << 16


def guided(name: str, seconds: float) -> None:
    """Run one target; does not return.  What fails is kept, and ends it."""
    Budget.factor = SLOWER
    with atheris.instrument_imports(include=["gvproxy", "taplink", "vsock_tap"]):
        target = load(name)
    cases = [split(one) for one in corpus.inputs(name).values()]

    def mutator(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, longest))
        return join(
            mutate(
                [split(data), *cases] if rng.random() < 0.2 else [split(data)], rng, target.repair
            )
        )[:longest]

    def one(data: bytes) -> None:
        try:
            check(target.target, data)
        except Exception as error:
            path = corpus.keep(name, data, str(error).partition("\n")[0] or type(error).__name__)
            print(f"{name}: again by python -m tests.fuzz {name} --repeat {path}", flush=True)
            raise

    with TemporaryDirectory(prefix="fuzz-") as folder, OneLine():
        for number, data in enumerate(corpus.inputs(name).values()):
            Path(folder, str(number)).write_bytes(data)
        arguments = [f"-max_total_time={seconds:.0f}", f"-max_len={_LONGEST}", "-rss_limit_mb=2048"]
        artifacts = f"-artifact_prefix={folder}/"
        atheris.Setup([sys.argv[0], *arguments, artifacts, folder], one, custom_mutator=mutator)
        atheris.Fuzz()
