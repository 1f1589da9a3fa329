"""Where a daemon's log goes: to systemd's journal, with fields, or as text to a file.

Text is for standard error, or for a file that is named.  It never holds its program up, and never
ends it: lines that a full disk does not take, or a pipe that nobody reads, are lost, and how many
those were is said as soon as there is room.
"""

import logging
import os
import select
import stat
import sys
from pathlib import Path

_CLOCK = "%(asctime)s "
_PIECE = 4096
"""Bytes: PIPE_BUF (pipe(7)), which a pipe takes without waiting once it takes anything."""


class LogFile(logging.Handler):
    """Writes to a descriptor what it takes at once."""

    def __init__(self, descriptor: int, *, owned: bool = False) -> None:
        """One that is `owned` is closed with the handler."""
        super().__init__()
        self._descriptor = descriptor
        self._owned = owned
        self._rest = b""
        """Of a line that has begun."""
        self._lost = 0
        self._room: select.poll | None = None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) and hasattr(select, "poll"):
            # Not O_NONBLOCK: all who have the pipe or terminal, such as a shell, would have it too.
            self._room = select.poll()
            self._room.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._lost and self._begin(self.format(_loss(self._lost))):
            self._lost = 0
        if self._lost or not self._begin(line):
            self._lost += 1

    def close(self) -> None:
        if self._owned:
            self._owned = False
            os.close(self._descriptor)
        super().close()

    def _begin(self, line: str) -> bool:
        """Write a line, unless nothing is taken of it; its rest comes before the next one."""
        if not self._complete():
            return False
        whole = self._rest = line.encode(errors="backslashreplace") + b"\n"
        self._complete()
        if self._rest == whole:
            self._rest = b""
            return False
        return True

    def _complete(self) -> bool:
        """Write what is left of a line; returns whether that is all written now."""
        try:
            while self._rest:
                if self._room is not None and not self._room.poll(0):
                    return False
                self._rest = self._rest[os.write(self._descriptor, self._rest[:_PIECE]) :]
        except OSError:  # the disk is full, or who read the pipe has gone
            return False
        return True


def _loss(count: int) -> logging.LogRecord:
    text = "lines of the log were lost, for they could not be written: %d"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)


def log_file(path: Path, text: str) -> logging.Handler:
    """Return what appends the log to a file, as log_handler does; raises OSError, ValueError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    handler = LogFile(os.open(path, flags, 0o666), owned=True)
    handler.setFormatter(logging.Formatter(text))
    return handler


def log_handler(identifier: str, text: str, **fields: str) -> logging.Handler:
    """Return what writes the log; `text` is the format of its lines as text.

    To the journal, through systemd-python where it is installed, each record goes with `fields`,
    with what its `extra` names in capitals, with the place in the code and with its priority.
    """
    handler = _standard_error()
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


def _standard_error() -> logging.Handler:
    try:
        return LogFile(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # it is closed, or no file
        return logging.StreamHandler()


def is_journal() -> bool:
    """Tell whether standard error is the journal's (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"
