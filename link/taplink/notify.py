"""Tells systemd how a daemon is doing, by the protocol of sd_notify(3).

Not through systemd-python: a unit of Type=notify must come up without it, too.
"""

import logging
import os
import re
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable

log = logging.getLogger(__name__)

Notify = Callable[[str], None]

_PERIOD = re.compile("[1-9][0-9]{0,19}")  # microseconds, in 64 bits


def notifier() -> Notify:
    """Return what sends a notification such as `READY=1`; it does nothing outside systemd.

    Programs that are started later do not know of systemd any more.
    """
    path = os.environ.pop("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return lambda state: None
    address = f"\0{path[1:]}" if path.startswith("@") else path
    # One for all: without a descriptor for the watchdog we would be killed.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)

    def notify(state: str) -> None:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            log.debug("systemd is not notified: %s", error)

    return notify


def feed_watchdog(notify: Notify, loop: AbstractEventLoop) -> None:
    """Tell systemd's watchdog, where it is set, that the loop runs, for as long as it does."""
    own = str(os.getpid())
    period = os.environ.get("WATCHDOG_USEC", "")
    if not _PERIOD.fullmatch(period) or os.environ.get("WATCHDOG_PID", own) != own:
        return
    interval = int(period) / 2e6  # half of it (sd_watchdog_enabled(3))

    def feed() -> None:
        notify("WATCHDOG=1")
        loop.call_later(interval, feed)

    feed()
