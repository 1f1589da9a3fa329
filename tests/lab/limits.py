"""How much of what it may run out of a process has."""

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def no_descriptors(pid: int | None = None, *, spare: int = 0) -> Iterator[None]:
    """Let a process, or this one, open nothing, or so many, meanwhile: EMFILE."""
    pid = os.getpid() if pid is None else pid
    folder = f"/proc/{pid}/fd"
    names = os.listdir(folder)  # one of which may be that of reading it
    taken = {int(name) for name in names if os.path.lexists(f"{folder}/{name}")}
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    free = (number for number in range(len(taken) + spare + 1) if number not in taken)
    limit = list(free)[spare]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Let this process open as much as it may meanwhile: shells start with 1,024 descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
