"""What the daemon asks of its own process: descriptors, memory, a pid file, its log."""

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from gvproxy.errors import ConfigError, StartError

_DESCRIPTORS = 1 << 20
"""Where there is no limit: more than the tables of flows hold together."""
_LINES = 4096
"""How much of the log is held back."""
_STATM = Path("/proc/self/statm")


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit does; each connection and UDP port needs one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Return how many descriptors the process may have."""
    try:
        import resource
    except ImportError:
        return _DESCRIPTORS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def check_passed(descriptors: Iterable[int]) -> None:
    """Raise ConfigError unless whoever started the process has passed them, as tap or socket.

    To be asked before anything else is opened: what is open later may be our own.
    """
    for descriptor in descriptors:
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            raise ConfigError(f"-listen-fd {descriptor}: no such descriptor was passed") from None
        if not (stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)):
            raise ConfigError(f"-listen-fd {descriptor}: it is no tap, and no socket")


def resident_bytes() -> int:
    """Return the resident memory of the process, 0 where that cannot be told."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def log_held_back() -> Iterator[None]:
    """Log what happens meanwhile at the end, or with the first warning, and nothing if it fails.

    For what fails has its own line to say, and it should be the only one.
    """
    root = logging.getLogger()
    handlers = root.handlers
    held = [MemoryHandler(_LINES, logging.WARNING, handler, False) for handler in handlers]
    root.handlers = [*held]
    try:
        yield
        for handler in held:
            handler.flush()
    finally:
        root.handlers = handlers
        for handler in held:
            handler.close()


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Keep the process id in `path` meanwhile, unless another one takes its place.

    Raises StartError.
    """
    if path is None:
        yield
        return
    text = f"{os.getpid()}\n"
    try:
        path.write_text(text)
    except OSError as error:
        raise StartError(f"-pid-file {path} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            if path.read_text() == text:
                path.unlink()
