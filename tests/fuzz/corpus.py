"""Inputs in files, as people can read and keep them: hexadecimal, behind lines that say why."""

import hashlib
from functools import cache
from pathlib import Path
from textwrap import wrap

from tests.fuzz.budget import unlimited
from tests.fuzz.targets import load

_HERE = Path(__file__).parent
REGRESSIONS = _HERE / "regressions"
"""What has failed once: `TARGET-NAME.hex`."""


def read(path: Path) -> bytes:
    """Return the input in a file."""
    lines = path.read_text("utf-8").splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def keep(target: str, data: bytes, why: str) -> Path:
    """Write an input that has failed, and return where."""
    path = REGRESSIONS / f"{target}-{hashlib.sha256(data).hexdigest()[:8]}.hex"
    path.write_text("\n".join((f"# {why}", *wrap(data.hex(), 100), "")), "utf-8")
    return path


def regressions(target: str) -> dict[str, bytes]:
    """Return by name what has failed once."""
    return {path.stem: read(path) for path in sorted(REGRESSIONS.glob(f"{target}-*.hex"))}


@cache
def inputs(target: str) -> dict[str, bytes]:
    """Return by name everything there is to begin with."""
    with unlimited():
        return load(target).seeds() | regressions(target)
