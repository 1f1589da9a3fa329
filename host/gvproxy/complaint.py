"""What a guest can cause to be logged as often as it likes: a few lines a minute at most."""

import logging
from math import inf

INTERVAL = 60.0  # seconds


class Complaint:
    """One kind of message, by default a warning of which one is enough.

    The time is the caller's, in seconds of one clock.
    """

    __slots__ = ("_burst", "_left", "_level", "_log", "_since")

    def __init__(self, log: logging.Logger, level: int = logging.WARNING, burst: int = 1) -> None:
        """`burst` is how many there may be within INTERVAL."""
        self._log = log
        self._level = level
        self._burst = burst
        self._left = 0
        self._since = -inf

    def make(self, now: float, text: str, *arguments: object) -> None:
        """Log, unless that was done often enough within the last INTERVAL."""
        if now - self._since >= INTERVAL:
            self._since, self._left = now, self._burst
        if self._left:
            self._left -= 1
            self._log.log(self._level, text, *arguments)
