"""Where a daemon's log goes: to systemd's journal, with fields, or as text to standard error."""

import logging
import os
import sys

_CLOCK = "%(asctime)s "


def log_handler(identifier: str, text: str, **fields: str) -> logging.Handler:
    """Return what writes the log; `text` is the format of its lines as text.

    To the journal, through systemd-python where it is installed, each record goes with `fields`,
    with what its `extra` names in capitals, with the place in the code and with its priority.
    """
    handler: logging.Handler = logging.StreamHandler()
    if is_journal():
        try:
            from systemd.journal import JournalHandler
        except ImportError:
            text = text.replace(_CLOCK, "")  # the journal has a clock of its own
        else:
            handler = JournalHandler(SYSLOG_IDENTIFIER=identifier, **fields)
            text = "%(message)s"
    handler.setFormatter(logging.Formatter(text))
    return handler


def is_journal() -> bool:
    """Tell whether standard error is the journal's (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"
