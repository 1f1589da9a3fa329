"""Tells systemd how a daemon is doing (sd_notify(3)), through systemd-python where installed."""

import logging
import os
from collections.abc import Callable

log = logging.getLogger(__name__)


def notifier() -> Callable[[str], None]:
    """Return what sends a notification such as `READY=1`; it does nothing outside systemd.

    Logs, once, when systemd waits for notifications that cannot be sent.
    """
    if "NOTIFY_SOCKET" not in os.environ:
        return _ignore
    try:
        from systemd.daemon import notify
    except ImportError:
        log.warning("systemd is not notified: systemd-python is not installed")
        return _ignore
    return lambda state: _send(notify, state)


def _send(notify: Callable[[str], object], state: str) -> None:
    try:
        notify(state)
    except OSError as error:
        log.debug("systemd is not notified: %s", error)


def _ignore(state: str) -> None:
    pass
