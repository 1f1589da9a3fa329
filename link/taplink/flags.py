"""Command lines as Go's flag package reads them, for programs that stand in the place of Go's.

A flag takes one dash or two, `-flag value` or `-flag=value`, and is never abbreviated; a switch is
also `-flag=true` or `-flag=false`.  Whatever is wrong ends with one line on standard error and
status 1.  Which flags there are, and what their values mean, is each program's own.
"""

import argparse
import contextlib
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

from taplink.journal import is_journal
from taplink.text import one_line, reason

T = TypeVar("T")

_ONE_DASH = re.compile("-[A-Za-z]")
_TWO_DASHES = re.compile(r"(?<![^\s/])--(?=[A-Za-z])")
_INTEGER = re.compile("[+-]?[0-9]{1,9}")
_BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)
"""As Go's strconv.ParseBool has them."""


class Parser(argparse.ArgumentParser):
    """Reads a command line; has -help and -version.  Flags are added with two dashes.

    With `only_given` there are no defaults: what is not given is not there.
    """

    def __init__(
        self, program: str, description: str, epilog: str = "", *, only_given: bool = False
    ) -> None:
        self._no = argparse.SUPPRESS if only_given else False
        super().__init__(
            prog=program,
            usage="%(prog)s [flag ...]",
            description=description,
            epilog=textwrap.fill(f"Flags take one dash or two.  {epilog}", break_on_hyphens=False),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS if only_given else None,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("--help", "--h", action="help", help="show this help")
        self.add_argument(
            "--version",
            "--v",
            action="version",
            version=f"%(prog)s version {version('vsock-tap')}",
            help="show the version",
        )

    def add_switch(self, name: str, help: str, dest: str | None = None) -> None:
        """Add a flag that is true where it is given without a value, and false by default."""
        self.add_argument(
            name,
            dest=dest,
            nargs="?",
            const=True,
            default=self._no,
            type=_boolean,
            metavar="true|false",
            help=help,
        )

    def has(self, name: str) -> bool:
        """Tell whether there is a flag of this name."""
        return f"--{name}" in self._option_string_actions

    def set(self, values: argparse.Namespace, name: str, text: str, place: str) -> None:
        """Set a flag to a value that stands at `place`, elsewhere than on the command line.

        Raises SystemExit where that is wrong.
        """
        # Not by `read`, whose time is quadratic in the number of arguments.
        action = self._option_string_actions[f"--{name}"]
        try:
            setattr(values, action.dest, self._get_value(action, text))
        except argparse.ArgumentError as error:
            fail(self.prog, f"{place}: {_as_written(error)}")

    def read(
        self, arguments: Sequence[str], values: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the flags' values; raises SystemExit for -help, -version and what is wrong.

        `values` are those of flags that the arguments may leave out.
        """
        # argparse completes the beginning of a flag with one dash even without allow_abbrev.
        return self.parse_args([f"-{a}" if _ONE_DASH.match(a) else a for a in arguments], values)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Convert a value; an error of a FILE, which begins with its path, is the path's."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            path = f"{arg_string}: "
            if action.metavar == "FILE" and error.message.startswith(path):
                error.message = error.message.removeprefix(path)
                error.argument_name = f"{error.argument_name} {arg_string}"
            raise

    def _print_message(self, message: str, file: object = None) -> None:
        # Of -help and -version; errors are `error`'s.
        say(self.prog, message.rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        """Print one line, without the usage, and exit with status 1, not 2."""
        fail(self.prog, _as_written(message))


def _as_written(message: object) -> str:
    # argparse names flags as they were added.
    return _TWO_DASHES.sub("-", str(message).removeprefix("argument "))


def checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Make a flag's type of a function, the text of whose ValueError the user shall read."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


@checked
def integer(text: str) -> int:
    """Read a decimal number, as the type of a flag."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


@checked
def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _BOOLEANS[text]


def say(program: str, text: str) -> None:
    """Print what was asked for; ends the program with status 1 where nobody takes it."""
    try:
        print(text, flush=True)
    except OSError as error:
        # The end of the interpreter would try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail(program, f"standard output: {reason(error)}")


def fail(program: str, message: object) -> NoReturn:
    """End the program with status 1 and the message, whatever the user's values in it are."""
    priority = "<3>" if is_journal() else ""  # sd-daemon(3): an error
    print(f"{priority}{program}: {one_line(message)}", file=sys.stderr)
    sys.exit(1)


@contextlib.contextmanager
def errors_in_one_line(
    program: str, log: logging.Logger, *expected: type[Exception]
) -> Iterator[None]:
    """End the program with status 1 and one line where the body raises an exception.

    `expected` are those whose text the user shall read; any other is a bug, whose traceback goes
    to `log` at the level DEBUG.
    """
    try:
        yield
    except expected as error:
        fail(program, error)
    except Exception as error:
        log.debug("an internal error", exc_info=error)
        fail(program, f"internal error ({type(error).__name__}: {error}); -debug shows where")
