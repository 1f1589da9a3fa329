"""Break the engine in one place after the other, and see whether the tests notice."""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab.options import count

from .table import ROOT, Mutation, mutations

_PARTS = ("guest", "host", "link", "tests", "pyproject.toml")
_SUITES = (
    ("tests/host/tcp", "-k", "not wrapping and not predicted and not pieces"),  # the quick ones
    ("tests/host/tcp",),
    ("tests/host/stack",),
)
_TIMEOUT = 600.0
"""Seconds after which a suite counts as failed: it hangs."""


def main() -> int:
    """Print what survives; succeed where nothing does that is not argued for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="those whose line contains this text")
    parser.add_argument("--jobs", type=count, default=os.cpu_count(), help="at the same time")
    options = parser.parse_args()
    chosen = [mutation for mutation in mutations() if options.only in str(mutation)]
    failed = survived = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutation, caught in zip(chosen, pool.map(_is_caught, chosen), strict=True):
            if caught and not mutation.argument:
                print(f"{'caught':<9}{mutation}", flush=True)
            elif caught:
                failed += 1
                print(f"caught, though argued for: {mutation}", flush=True)
            elif mutation.argument:
                survived += 1
                print(f"{'survives':<9}{mutation}\n{'':<9}{mutation.argument}", flush=True)
            else:
                failed += 1
                print(f"SURVIVES {mutation}", flush=True)
    print(f"{len(chosen)} mutations, {survived} survive by argument, {failed} wrong")
    return 1 if failed else 0


def _is_caught(mutation: Mutation) -> bool:
    """Tell whether a suite fails with the mutation."""
    with TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder)
        for part in _PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(
                    source, tree / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
                )
            else:
                shutil.copy(source, tree)
        mutation.apply(tree)
        return not all(_passes(tree, suite) for suite in _SUITES)


def _passes(tree: Path, suite: tuple[str, ...]) -> bool:
    """Tell whether a suite passes in a tree; raises CalledProcessError where it cannot be run."""
    paths = os.pathsep.join(str(tree / part) for part in ("guest", "host", "link"))
    command = [sys.executable, "-m", "pytest", *suite, "-x", "-q", "-p", "no:cacheprovider"]
    try:
        result = subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return False
    if result.returncode not in (0, 1, 2):  # passed, failed, not importable
        result.check_returncode()
    return result.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
