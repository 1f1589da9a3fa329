"""A failure is excused by a fault that may have had that effect, at that time, on that guest."""

import pytest

from tests.soak.faults import KINDS, schedule
from tests.soak.ledger import Effect, Ledger

CONNECT = frozenset({Effect.CONNECT})


def fail(ledger: Ledger, effect: Effect = Effect.CONNECT, guest: str = "one") -> bool:
    """Have something fail that began a second ago; return whether that was excused."""
    before = len(ledger.violations)
    ledger.failed("something", {effect}, (guest,), ledger.now() - 1, OSError("no"))
    return len(ledger.violations) == before


def test_nothing_excuses_a_failure_without_a_fault() -> None:
    ledger = Ledger()
    assert not fail(ledger)
    assert "after no fault" in ledger.violations[0]
    assert "something of one" in ledger.violations[0]


def test_a_fault_excuses_its_own_effects_alone() -> None:
    ledger = Ledger()
    ledger.begin("a fault", CONNECT, None)
    assert fail(ledger)
    assert not fail(ledger, Effect.BREAK)
    assert ledger.excused == {"something": 1}


def test_a_guests_fault_excuses_that_guest_alone() -> None:
    ledger = Ledger()
    ledger.begin("a fault", CONNECT, "one")
    assert fail(ledger)
    assert not fail(ledger, guest="two")


@pytest.mark.parametrize(("ago", "excused"), [(0.5, True), (1.5, False)])
def test_a_fault_excuses_what_was_begun_before_all_was_well(ago: float, excused: bool) -> None:
    ledger = Ledger()
    ledger.began -= 10
    fault = ledger.begin("a fault", CONNECT, None)
    fault.recovered = ledger.now() - ago
    assert fail(ledger) is excused


def test_no_effects_are_never_excused() -> None:
    ledger = Ledger()
    ledger.begin("a fault", frozenset(Effect), None)
    ledger.failed("something", (), ("one",), ledger.now(), OSError("no"))
    assert len(ledger.violations) == 1


def test_one_seed_is_one_schedule_with_all_kinds() -> None:
    count = len(KINDS)
    first, again, other = (
        [plan for plan, _ in zip(schedule(seed, 3), range(2 * count), strict=False)]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    for part in (first[:count], first[count:]):
        assert {plan.name for plan in part} == set(KINDS)


def test_a_connection_goes_through_what_began_and_was_mended_meanwhile() -> None:
    ledger = Ledger()
    ledger.began -= 10
    since = ledger.now()
    fault = ledger.begin("a fault", CONNECT, "one")
    ledger.went_through(("one",), since)  # it is still there
    assert not ledger.outlived
    fault.mended = fault.begin
    ledger.went_through(("two",), since)
    ledger.went_through(("one",), ledger.now())
    assert not ledger.outlived
    ledger.went_through(("one", "two"), since)
    assert ledger.outlived == {"a fault": 1}
