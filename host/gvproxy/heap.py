"""When memory is looked through: for cycles where that keeps nobody waiting, for what can be given
back to the system after a flood.

Python searches all objects for cycles whenever there is a quarter more of them, which takes a
millisecond for a thousand: 0.1 s where a guest has opened 4,096 connections, and 1.5 s where it has
57,344.  Nothing on the packet path makes cycles.  So what is there at the start is never searched,
what is young is by Python itself, and the rest while the tables are all but empty.
"""

import ctypes
import gc
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident

QUIET = 1000
"""Entries of all tables for which a search takes less than 50 ms: a connection is 30 objects."""
PATIENCE = 3600.0
"""Seconds that a full search is put off for, at most."""
_YOUNG = 1
"""The generation whose collections are counted, for the next one to be due (see `gc`)."""
_NEVER = 1 << 30


@contextmanager
def searched_when_quiet(loop: AbstractEventLoop, held: Callable[[], int]) -> Iterator[None]:
    """Have the oldest objects be searched when it is due and `held`, of all tables, is `QUIET`."""
    thresholds = gc.get_threshold()
    last, waits, home = loop.time(), False, get_ident()

    def search() -> None:
        nonlocal last, waits
        gc.collect()
        last, waits = loop.time(), False

    def young_are_searched(phase: str, info: dict[str, int]) -> None:
        nonlocal waits
        due = gc.get_count()[2] > thresholds[2]
        if phase == "start" or info["generation"] != _YOUNG or waits or not due:
            return
        if get_ident() != home:  # the loop's own thread is told soon enough
            return
        if held() <= QUIET or loop.time() - last >= PATIENCE:
            waits = True
            loop.call_soon(search)

    gc.freeze()  # not searched before: that would take 40 ms, and find next to nothing
    gc.set_threshold(*thresholds[:2], _NEVER)
    gc.callbacks.append(young_are_searched)
    try:
        yield
    finally:
        gc.callbacks.remove(young_are_searched)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _find_trim() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, another system
        return lambda pad: None


_trim = _find_trim()


def give_back() -> None:
    """Have the system take what is not used: some 10 ms where that is 60 MiB.

    glibc's heap does not shrink by itself where something at its end is still used.
    """
    _trim(0)
