"""When all objects are searched for cycles: not while tables are full, but not never."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from gvproxy import heap
from gvproxy.heap import PATIENCE, QUIET
from tests.manual_loop import ManualLoop


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


class Process:
    """A loop, and tables with so many entries."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.held = 0
        self.lost: weakref.ref[Cycle]
        """An old object that nobody has any more."""

    def age(self) -> None:
        """Have a full search be due, as allocations have it."""
        for _ in range(gc.get_threshold()[1] + 2):
            gc.collect(1)


@pytest.fixture
def process() -> Iterator[Process]:
    process, thresholds = Process(), gc.get_threshold()
    with heap.searched_when_quiet(process.loop.as_loop(), lambda: process.held):
        process.lost = lose()
        yield process
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0


def lose() -> "weakref.ref[Cycle]":
    """Make a cycle that is old, and that nobody has any more."""
    cycle = Cycle()
    gc.collect(0)
    gc.collect(1)
    return weakref.ref(cycle)


def test_nothing_is_searched_until_it_is_due(process: Process) -> None:
    process.loop.run()
    assert process.lost() is not None


def test_all_is_searched_with_the_next_turn_where_it_is_due(process: Process) -> None:
    process.held = QUIET
    process.age()
    assert process.lost() is not None, "nobody waits for it in the midst of a batch"
    process.loop.run()
    assert process.lost() is None


def test_tables_that_are_full_put_it_off(process: Process) -> None:
    process.held = QUIET + 1
    process.age()
    process.loop.run()
    assert process.lost() is not None
    process.held = QUIET
    process.age()
    process.loop.run()
    assert process.lost() is None


def test_it_is_not_put_off_for_ever(process: Process) -> None:
    process.held = QUIET + 1
    process.loop.now += PATIENCE
    process.age()
    process.loop.run()
    assert process.lost() is None
