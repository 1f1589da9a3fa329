"""Runs a program's asyncio loop and watches it: for how long does one turn keep all others waiting?

    watched.py FILE PROGRAM ARGUMENT...

A thread asks the loop every 5 ms to answer, and the longest time until it did is written into FILE.
It is the time that the loop's thread was on a processor, for what else the machine does is no
fault of the loop's.
"""

import asyncio
import mmap
import runpy
import struct
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from time import clock_gettime, pthread_getcpuclockid, sleep
from typing import Any

_INTERVAL = 0.005
_LONGEST = struct.Struct("d")  # seconds


class Watch:
    """The file, as who has started the program reads it."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE))
        self._path = path
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def command(self) -> list[str | Path]:
        """Return the command that runs a program and watches it."""
        return [sys.executable, "-P", Path(__file__), self._path]

    def take(self) -> float:
        """Return the longest turn since this was called last, in ms."""
        (longest,) = _LONGEST.unpack_from(self._memory)
        _LONGEST.pack_into(self._memory, 0, 0.0)
        return float(longest) * 1e3


def _watch(loop: asyncio.AbstractEventLoop, memory: mmap.mmap) -> None:
    clock = pthread_getcpuclockid(threading.main_thread().ident or 0)
    answered = threading.Event()

    def answer(asked: float) -> None:
        taken = clock_gettime(clock) - asked
        if taken > _LONGEST.unpack_from(memory)[0]:
            _LONGEST.pack_into(memory, 0, taken)
        answered.set()

    while True:
        sleep(_INTERVAL)
        answered.clear()
        try:
            loop.call_soon_threadsafe(answer, clock_gettime(clock))
        except RuntimeError:  # it is closed
            return
        answered.wait()


def main(path: str, *command: str) -> None:
    """Run a program."""
    with Path(path).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)

    run_loop = asyncio.Runner.run

    def run(runner: asyncio.Runner, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
        arguments = runner.get_loop(), memory
        threading.Thread(target=_watch, args=arguments, daemon=True).start()
        return run_loop(runner, coro, **options)

    asyncio.Runner.run = run  # type: ignore[method-assign,assignment]
    sys.argv = list(command)
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
