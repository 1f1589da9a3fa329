"""What is fuzzed: a module each."""

import logging
from importlib import import_module
from typing import Protocol

from tests.fuzz.mutation import Repair

NAMES = ("frames", "tcp", "link", "dns", "dhcp", "http")


class Target(Protocol):
    """What a module of this package is."""

    repair: Repair | None

    def target(self, data: bytes) -> None:
        """Take an input; raises where the code does what it must not."""

    def seeds(self) -> dict[str, bytes]:
        """Return valid inputs by name."""


def load(name: str) -> Target:
    """Return the target of a name."""
    return import_module(f"{__name__}.{name}")  # type: ignore[return-value]


class OneLine(logging.Handler):
    """Writes every record nowhere, and fails where that is impossible or more than a line."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        assert record.exc_info is None, f"logged with a traceback: {record.exc_info[1]!r}"
        assert text.isprintable(), f"a guest has written to the log: {text!r}"

    def __enter__(self) -> "OneLine":
        root = logging.getLogger()
        self._before = root.level, root.handlers
        root.handlers = [self]
        root.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.level, root.handlers = self._before
