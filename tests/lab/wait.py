"""Waiting for an event that nobody announces."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL = 0.01


class NotYetError(Exception):
    """Raised by what is being waited for: not the case so far, and why."""


def until(attempt: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Call `attempt` until it no longer raises NotYetError, and return what it returns.

    Raises TimeoutError naming `what` and the last reason after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return attempt()
        except NotYetError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: still not after {timeout:g} s: {error}") from None
        time.sleep(_INTERVAL)
