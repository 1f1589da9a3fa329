"""How large a guest's batches may be, and for how long it has to wait beside others."""

import pytest

from gvproxy.ports.fairness import (
    BUSY,
    LEAST_PAUSE,
    MAX_FACTOR,
    MAX_FRAMES,
    MAX_PAUSE,
    TURN,
    WINDOW,
    WORTH,
    Fairness,
    Turns,
)


class Others:
    """What ports have moved, by number."""

    def __init__(self) -> None:
        self.moved = {1: 0, 2: 0}
        self.fairness = Fairness(lambda: self.moved.items())

    def after(self, now: float, number: int = 1) -> float:
        return self.fairness.factor(number, now)


def test_expensive_frames_make_batches_small() -> None:
    turns = Turns()
    turns.took(MAX_FRAMES * 50e-6, MAX_FRAMES, 60 * MAX_FRAMES)
    assert turns.frames == int(TURN / 50e-6)
    turns.took(turns.frames * 0.1, turns.frames, 0)
    assert turns.frames == 1


def test_cheap_frames_make_them_large_again() -> None:
    turns = Turns()
    turns.frames = 1
    sizes = []
    while turns.frames < MAX_FRAMES:
        turns.took(turns.frames * 1e-6, turns.frames, 0)
        sizes.append(turns.frames)
    assert sizes == [2, 4, 8, 16, 32, 64, 128, 256, MAX_FRAMES]


def test_a_small_batch_tells_nothing_of_large_ones() -> None:
    turns = Turns()
    turns.frames = 10
    turns.took(1e-6, 1, 0)
    assert turns.frames == 10


def test_bulk_data_is_worth_its_time() -> None:
    turns = Turns()
    for _ in range(1000):  # of an MTU, and without offloads
        assert not turns.took(346 * 10e-6, 346, 346 * 1514)
    assert turns.pay(MAX_FACTOR) == 0


def test_a_flood_is_in_debt() -> None:
    turns = Turns()
    assert turns.took(TURN, 100, 6000)
    assert turns.pay(3.0) == pytest.approx(3 * (TURN - 6000 / WORTH))
    assert turns.pay(3.0) == 0, "a debt is paid once"


def test_small_debts_add_up() -> None:
    turns = Turns()
    calls = 1
    while not turns.took(50e-6, 1, 0):
        calls += 1
    assert calls == pytest.approx(LEAST_PAUSE / 50e-6, abs=1)


def test_what_else_the_machine_does_is_not_charged() -> None:
    turns = Turns()
    assert not turns.took(10.0, 1, 0)


def test_a_pause_ends() -> None:
    turns = Turns()
    turns.took(10.0, 10_000, 0)
    assert turns.pay(MAX_FACTOR) == MAX_PAUSE


def test_nobody_waits_for_nobody() -> None:
    turns, others = Turns(), Others()
    others.after(1.0)
    others.moved[1] = 10**9
    turns.took(TURN, 100, 0)
    assert turns.pay(others.after(2.0)) == 0


def test_the_more_the_others_move_the_longer() -> None:
    others = Others()
    others.after(1.0)
    others.moved[2] += int(BUSY)
    assert others.after(2.0) == pytest.approx(1.0)
    assert others.after(2.0, number=2) == 0
    others.moved[2] += int(BUSY * 100)
    assert others.after(3.0) == MAX_FACTOR


def test_who_is_starved_is_not_forgotten_at_once() -> None:
    others = Others()
    others.after(1.0)
    others.moved[2] += int(BUSY)
    assert others.after(2.0) == pytest.approx(1.0)
    assert others.after(2.0 + WINDOW) == pytest.approx(0.5)
    assert others.after(2.0 + WINDOW * 1.5) == pytest.approx(0.5), "within one window"


def test_a_new_port_has_moved_nothing_before() -> None:
    others = Others()
    others.after(1.0)
    others.moved[3] = 10**9
    assert others.after(2.0) == 0
