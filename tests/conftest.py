"""No test leaves anything behind: a task, a descriptor or a process fails the test that leaked it.

A namespace lives as long as a process or a descriptor holds it, so it is among them.  What a test
shares with others belongs to a fixture of theirs, which is there before the count begins.
"""

import asyncio
import ctypes
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def pytest_configure() -> None:
    """Prepare the process: orphans become our children, hypothesis repeats itself."""
    settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
    settings.load_profile("repeatable")
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((entry.name, os.readlink(entry)))
        except OSError:
            continue  # the one that lists the folder
    return found


def _children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update((task / "children").read_text().split())
        except OSError:
            continue  # a thread that has ended meanwhile; its children are another's now
    return found


def _name(pid: str) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        command = ""
    return f"process {pid} ({command or 'ended, but nobody waited for it'})"


@pytest.fixture(autouse=True)
def nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test after which a task, a descriptor or a process is left."""
    tasks: list[str] = []
    cancel_all_tasks = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def note_and_cancel(loop: asyncio.AbstractEventLoop) -> None:
        tasks.extend(f"task {task!r}" for task in asyncio.all_tasks(loop))
        cancel_all_tasks(loop)

    # The end of asyncio.run, which cancels what is left without a word.
    monkeypatch.setattr(asyncio.runners, "_cancel_all_tasks", note_and_cancel)
    descriptors, children = _descriptors(), _children()
    yield
    left = _left(descriptors, children)
    if left:
        gc.collect()  # what only a cycle still holds is not left behind
        left = _left(descriptors, children)
    assert not tasks + left, "the test leaks " + ", ".join(tasks + left)


def _left(descriptors: set[tuple[str, str]], children: set[str]) -> list[str]:
    return [
        *(_name(pid) for pid in sorted(_children() - children)),
        *(f"descriptor {fd} ({what})" for fd, what in sorted(_descriptors() - descriptors)),
    ]
