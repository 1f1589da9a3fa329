"""Deadlines: never late, early at the cost of one look, and nothing kept of what is closed."""

from dataclasses import dataclass, field
from heapq import heapify
from math import inf

import pytest

from gvproxy.stack import schedule
from gvproxy.stack.schedule import MAX_EXPIRED, Schedule
from gvproxy.tcp.states import State


@dataclass(eq=False)
class Waiting:
    """As much of a connection as a schedule looks at."""

    deadline: float = inf
    scheduled_at: float = inf
    state: State = State.ESTABLISHED
    expired: list[float] = field(default_factory=list)
    then: float = inf
    urgent: bool = True

    def arm(self, timetable: Schedule, at: float) -> None:
        """What `Connection.arm` does."""
        self.deadline = at
        if at < self.scheduled_at:
            timetable.add(self, at)  # type: ignore[arg-type]


@pytest.fixture
def wakes() -> list[float]:
    return []


@pytest.fixture
def timetable(wakes: list[float], monkeypatch: pytest.MonkeyPatch) -> Schedule:
    def expire(waiting: Waiting, now: float) -> None:
        if waiting.deadline <= now:
            waiting.expired.append(now)
            waiting.deadline = waiting.then

    monkeypatch.setattr(schedule.timers, "expire", expire)
    return Schedule(wakes.append)


def test_deadline_is_kept(timetable: Schedule, wakes: list[float]) -> None:
    one = Waiting()
    one.arm(timetable, 5.0)
    assert wakes == [5.0]
    timetable.run(4.9)
    assert one.expired == []
    timetable.run(5.0)
    assert one.expired == [5.0]
    assert timetable.deadline == inf
    assert len(timetable) == 0


def test_what_is_due_at_once_takes_several_turns(timetable: Schedule, wakes: list[float]) -> None:
    many = [Waiting() for _ in range(2 * MAX_EXPIRED + 1)]
    for one in many:
        one.arm(timetable, 5.0)
    expired = []
    while timetable.deadline <= 6.0:
        timetable.run(6.0)
        expired.append(sum(len(one.expired) for one in many))
    assert expired == [MAX_EXPIRED, 2 * MAX_EXPIRED, len(many)]


def test_only_a_nearer_deadline_wakes(timetable: Schedule, wakes: list[float]) -> None:
    for at in (5.0, 7.0, 3.0, 4.0):
        Waiting().arm(timetable, at)
    assert wakes == [5.0, 3.0]
    assert timetable.deadline == 3.0


def test_deadline_that_moves_away_costs_one_early_look(timetable: Schedule) -> None:
    one = Waiting()
    one.arm(timetable, 1.0)
    for at in (2.0, 3.0, 4.0):
        one.arm(timetable, at)
    assert len(timetable) == 1
    timetable.run(1.0)
    assert one.expired == []
    assert timetable.deadline == 4.0
    timetable.run(4.0)
    assert one.expired == [4.0]


def test_deadline_that_comes_nearer_is_kept_once(timetable: Schedule) -> None:
    one = Waiting()
    one.arm(timetable, 4.0)
    one.arm(timetable, 1.0)
    timetable.run(1.0)
    assert one.expired == [1.0]
    timetable.run(4.0)
    assert one.expired == [1.0]
    assert len(timetable) == 0


def test_deadline_that_is_gone_is_nothing(timetable: Schedule) -> None:
    one = Waiting()
    one.arm(timetable, 1.0)
    one.deadline = inf
    timetable.run(1.0)
    assert one.expired == []
    assert timetable.deadline == inf


def test_expiry_may_arm_again(timetable: Schedule, wakes: list[float]) -> None:
    one = Waiting(then=3.0)
    one.arm(timetable, 1.0)
    timetable.run(1.0)
    assert timetable.deadline == 3.0
    assert wakes == [1.0, 3.0]


def test_all_that_is_due_expires_in_order(timetable: Schedule) -> None:
    several = [Waiting() for _ in range(5)]
    for number, one in enumerate(several):
        one.arm(timetable, 5.0 - number)
    timetable.run(3.0)
    assert [bool(one.expired) for one in several] == [False, False, True, True, True]


def test_closed_connection_is_not_called(timetable: Schedule) -> None:
    one = Waiting()
    one.arm(timetable, 1.0)
    one.state = State.CLOSED
    timetable.forget(one)  # type: ignore[arg-type]
    timetable.run(1.0)
    assert one.expired == []
    assert len(timetable) == 0


def test_closed_connections_do_not_pile_up(timetable: Schedule) -> None:
    """Ten thousand short connections a minute leave a few entries, not ten thousand."""
    alive = [Waiting() for _ in range(10)]
    for one in alive:
        one.arm(timetable, 100.0)
    for _ in range(10_000):
        one = Waiting()
        one.arm(timetable, 60.0)
        one.state = State.CLOSED
        timetable.forget(one)  # type: ignore[arg-type]
        assert len(timetable) < 200
    timetable.run(100.0)
    assert all(one.expired == [100.0] for one in alive)


@pytest.mark.parametrize("moves", [1.0, 0.0])
def test_deadlines_that_come_nearer_do_not_pile_up(timetable: Schedule, moves: float) -> None:
    """A connection with a keepalive in two hours, and a delayed acknowledgment now and then."""
    one = Waiting()
    for number in range(10_000):
        at, far = number * 0.1, 7200.0 + number * moves
        one.arm(timetable, far)
        one.arm(timetable, at + 0.01)
        one.then = far
        timetable.run(at + 0.01)
        assert one.expired.pop() == at + 0.01
        assert len(timetable) < 200
    assert timetable.deadline <= one.deadline


def test_deadlines_that_come_back_do_not_pile_up(
    timetable: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nearer one makes an entry stale; when it is over, the time of that entry counts again."""
    cleanings: list[int] = []
    monkeypatch.setattr(schedule, "heapify", lambda heap: cleanings.append(heapify(heap) or 1))
    several = [Waiting(then=7200.0) for _ in range(100)]
    for number in range(20):
        for one in several:
            one.arm(timetable, number + 0.5)
            timetable.run(number + 0.5)
            assert len(timetable) <= 2 * len(several) + 64
    assert len(cleanings) < 20 * len(several) / 50


def test_who_has_time_waits_for_the_tick(timetable: Schedule, wakes: list[float]) -> None:
    several = [Waiting(urgent=False) for _ in range(5)]
    for number, one in enumerate(several):
        one.arm(timetable, 0.501 + number * 0.002)
    assert wakes == pytest.approx([0.51])
    timetable.run(timetable.deadline - 1e-9)
    assert not any(one.expired for one in several)
    timetable.run(timetable.deadline)
    assert [len(one.expired) for one in several] == [1, 1, 1, 1, 1]


def test_who_is_urgent_does_not(timetable: Schedule, wakes: list[float]) -> None:
    patient, urgent = Waiting(urgent=False), Waiting()
    patient.arm(timetable, 0.501)
    urgent.arm(timetable, 0.502)
    assert wakes == pytest.approx([0.51, 0.502])
    timetable.run(0.502)
    assert (patient.expired, urgent.expired) == ([], [0.502])


def test_a_deadline_on_a_tick_is_not_early(timetable: Schedule) -> None:
    """Nor more than a tick late, however it is rounded; and within one no second entry is made."""
    for number in range(1000):
        at = number * schedule.TICK
        one = Waiting(urgent=False)
        one.arm(timetable, at)
        assert at <= timetable.deadline < at + 1.5 * schedule.TICK
        one.arm(timetable, at + schedule.TICK / 2)
        assert len(timetable) == 1
        while not one.expired:
            timetable.run(timetable.deadline)
        assert at + schedule.TICK / 2 <= one.expired[0] < at + 2 * schedule.TICK


def test_nothing_is_kept_once_nobody_waits(timetable: Schedule) -> None:
    one, other, last = Waiting(), Waiting(), Waiting()
    one.arm(timetable, 7200.0)
    one.arm(timetable, 5.0)  # and the entry before is stale
    other.arm(timetable, 7200.0)
    last.arm(timetable, 1.0)
    for closed in (one, other):
        closed.state = State.CLOSED
        timetable.forget(closed)  # type: ignore[arg-type]
    assert len(timetable) == 4
    timetable.run(1.0)
    assert last.expired == [1.0]
    assert len(timetable) == 0
    one, other = Waiting(), Waiting()
    for closed in (one, other):
        closed.arm(timetable, 7200.0)
    for closed in (one, other):
        timetable.forget(closed)  # type: ignore[arg-type]
    assert timetable.deadline == inf
