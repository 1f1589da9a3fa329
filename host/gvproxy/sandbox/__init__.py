"""Takes from the daemon's process what it does not need: after this, a bug in it is worth less.

Read `confine` first.  What guests send is handled by a process that can start no program (seccomp),
has no rights beyond its user's (capabilities, no_new_privs) and sees few of its user's files
(Landlock).  Each of these is a module here, needs a library and something of the kernel, and does
without the others: what is missing is said in one line, a warning where that is all of it, and
nothing ends for its sake.

It does not change the user, and makes no namespaces: that is for whoever starts the daemon.
"""

import contextlib
import ctypes.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from gvproxy.config import Config
from gvproxy.sandbox import calls, files, rights
from gvproxy.sandbox.files import Use
from gvproxy.sandbox.missing import MissingError
from taplink.text import reason

log = logging.getLogger(__name__)

_THREAD_TIMEOUT = 1.0
"""Seconds to wait for a thread that reads a file of the configuration's."""


def prepare(*, drop: bool) -> None:
    """Do what has to come before the loop is made: no core dumps, and with `drop` no io_uring.

    For a ring does what it is told without asking seccomp.
    """
    rights.no_core_dumps()
    if drop and sys.platform == "linux":
        with contextlib.suppress(MissingError):  # `confine` says so
            calls.no_rings()()


Explain = Callable[[str, Use], str]
"""Returns what to add to the error of a path that could not be used so; mostly nothing."""


def unconfined(path: str, use: Use) -> str:
    """Explain nothing, for there is no sandbox."""
    return ""


def confine(config: Config) -> Explain:
    """Give up what is not needed, for the rest of the process's life, and log what that was.

    `files.rules` says which files can be used; raises StartError.
    """
    if sys.platform != "linux":
        log.info("sandbox: none on this system")
        return unconfined
    if os.geteuid() == 0:
        log.info("gvproxy does not need to be root: an ordinary user is enough")
    _wait_for_threads()
    rules = files.rules(config)
    layers: dict[str, Callable[[], Callable[[], None]]] = {
        "capabilities": rights.capabilities,
        "Landlock": lambda: files.landlock(rules),
        "seccomp": calls.seccomp,
    }
    ready: dict[str, Callable[[], None]] = {}
    there: list[str] = []
    missing: list[str] = []
    # First all of what takes rights, or programs such as ldconfig, to get at the libraries.
    for name, make in layers.items():
        with _noted(name, missing):
            ready[name] = make()
    for name, apply in ready.items():
        with _noted(name, missing):
            apply()
            there.append(name)
    if there:
        # It starts ldconfig and compilers.  asyncssh, when it is loaded, asks for libraries that it
        # does without.
        ctypes.util.find_library = _find_no_library
        there.insert(0, "no_new_privs")  # which each of them sets
    parts = [", ".join(there) or "none", *([", ".join(missing)] if missing else [])]
    log.log(logging.INFO if there else logging.WARNING, "sandbox: %s", "; ".join(parts))
    if "Landlock" not in there:
        return unconfined
    return lambda path, use: files.explain(rules, Path(path), use)


def _find_no_library(name: str) -> str | None:
    return None


@contextlib.contextmanager
def _noted(name: str, missing: list[str]) -> Iterator[None]:
    """Have a layer that fails among the missing ones."""
    try:
        yield
    except MissingError as error:
        missing.append(f"no {name} ({error})")
    except OSError as error:
        missing.append(f"no {name} ({reason(error)})")


def _wait_for_threads() -> None:
    """Wait for threads that are about to end: before Landlock's ABI 8 each has its own rights."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            with contextlib.suppress(RuntimeError):
                thread.join(_THREAD_TIMEOUT)
