"""A warning that a guest can cause as often as it likes: logged once a minute at most."""

import logging
from math import inf

INTERVAL = 60.0  # seconds


class Complaint:
    """One kind of warning; the time is the caller's, in seconds of one clock."""

    __slots__ = ("_log", "_logged")

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._logged = -inf

    def warn(self, now: float, text: str, *arguments: object) -> None:
        """Log, unless that was done within the last INTERVAL."""
        if now - self._logged >= INTERVAL:
            self._logged = now
            self._log.warning(text, *arguments)
