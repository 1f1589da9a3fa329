"""How long one message may take: what a guest says must not keep the others waiting.

To ask for the processor's time costs more than most messages, so the clock on the wall is looked at
first.  The machine may be busy with others; what seems too slow is done again, and measured well.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import perf_counter, sleep, thread_time

LIMIT = 0.05
"""Seconds; a garbage collection is not the message's fault."""
TRIES = 5
"""How often an input has to be too slow by processor time."""

PAUSE = 0.2
"""Seconds until it is tried again; others may be done by then."""


class TooSlowError(AssertionError):
    """A message took longer than `LIMIT`."""


class Budget:
    """How it is measured; `factor` is for instrumented code, and for tests on a busy machine."""

    clock = staticmethod(perf_counter)
    factor = 1.0


@contextmanager
def unlimited() -> Iterator[None]:
    """Let messages take as long as they do: seeds are made on a machine that may be busy."""
    factor, Budget.factor = Budget.factor, inf
    try:
        yield
    finally:
        Budget.factor = factor


@contextmanager
def within() -> Iterator[None]:
    """Fail where what is done takes too long."""
    gc.disable()
    clock = Budget.clock
    began = clock()
    try:
        yield
    finally:
        gc.enable()
    taken = clock() - began
    if taken > LIMIT * Budget.factor:
        raise TooSlowError(f"{taken * 1000:.0f} ms for one message")


def check(target: Callable[[bytes], None], data: bytes) -> None:
    """Give an input to a target, again where it was slow; raises what the target does."""
    try:
        target(data)
    except TooSlowError:
        Budget.clock = staticmethod(thread_time)
        try:
            for _ in range(TRIES - 1):
                try:
                    target(data)
                except TooSlowError:
                    sleep(PAUSE)
                    continue
                return
            target(data)
        finally:
            Budget.clock = staticmethod(perf_counter)
