"""A file of the host's that others rewrite while we run.

One that is there and cannot be read now, for want of descriptors or memory, says what it said last.

Looking at it costs one `stat`, at most once a second and only when somebody asks: a host without
queries is never woken.
"""

import os
from math import inf
from pathlib import Path

from gvproxy.errors import OUT_OF_RESOURCES

CHECK_INTERVAL = 1.0


class FollowedFile:
    """The file at `path`; one that is not there is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked = -inf
        self._seen: tuple[int, ...] | None = ()

    def changed(self, now: float) -> str | None:
        """Return what the file says, if that may be new since the last call; `now` in seconds."""
        if now - self._checked < CHECK_INTERVAL:
            return None
        self._checked = now
        try:
            status = os.stat(self._path)
            seen = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return None
            text = self._path.read_text(errors="replace")
        except OSError as error:
            if self._seen is None or error.errno in OUT_OF_RESOURCES:
                return None
            seen, text = None, ""
        self._seen = seen
        return text
