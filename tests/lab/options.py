"""The options of `make bench` and its like: numbers that can be, and errors in one line."""

import argparse
from math import isfinite
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage, and ends with status 2.

    All have `--check`, with which they do no more than that.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description)
        self.add_argument("--check", action="store_true", help="look at the options, and no more")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def duration(text: str) -> float:
    """Read seconds or minutes, as the type of an option."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise argparse.ArgumentTypeError(f"is no number: {text!r}")
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text!r}")
    return number


def count(text: str) -> int:
    """Read how many there shall be, as the type of an option."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is no whole number: {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 at least, not {text!r}")
    return number
