"""What has failed once, and valid traffic; and the fuzzer itself."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import corpus
from tests.fuzz.budget import Budget, TooSlowError, check, within
from tests.fuzz.cases import join, split
from tests.fuzz.mutation import Repair, mutate
from tests.fuzz.targets import NAMES, OneLine, load


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Budget, "factor", 4.0)
    with OneLine():
        yield


@pytest.mark.parametrize("name", NAMES)
def test_what_is_valid_or_has_failed_once(name: str) -> None:
    target = load(name).target
    for label, data in corpus.inputs(name).items():
        try:
            check(target, data)
        except Exception as error:
            error.add_note(label)
            raise


@pytest.mark.parametrize("name", NAMES)
def test_some_mutations(name: str) -> None:
    """The same ones each time, so that a change breaks nothing that a minute of luck finds."""
    target = load(name)
    seeds = [split(one) for one in corpus.inputs(name).values()]
    for number in range(20):
        check(target.target, join(mutate(seeds, random.Random(number), target.repair)))


def test_messages_are_read_as_they_were_written() -> None:
    case = [b"", b"one", bytes(0xFFFF)]
    assert split(join(case)) == case
    assert split(join([b"three"])[:-2]) == [b"thr"]
    assert split(b"\0") == []


def test_an_input_follows_from_its_seed() -> None:
    seeds = [split(one) for one in corpus.inputs("link").values()]
    first, second = (
        [mutate(seeds, random.Random(number), None) for number in range(20)] for _ in range(2)
    )
    assert first == second
    assert len({join(case) for case in first}) > 15


class Broken:
    """A target that does not bear a certain message."""

    repair: Repair | None = None

    def target(self, data: bytes) -> None:
        assert b"bad" not in split(data), "bad things come"

    def seeds(self) -> dict[str, bytes]:
        return {}


def test_what_fails_is_kept_as_short_as_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus, "REGRESSIONS", tmp_path)
    good = join([b"good", b"good"])
    assert fuzz._holds("link", Broken(), good)
    assert not fuzz._holds("link", Broken(), join([b"good", b"bad", b"good"]))
    (name,) = corpus.regressions("link")
    assert split(corpus.regressions("link")[name]) == [b"bad"]
    assert (tmp_path / f"{name}.hex").read_text() == "# bad things come\n0003626164\n"
    shown = capsys.readouterr()
    assert f"again by python -m tests.fuzz link --repeat {tmp_path / name}.hex" in shown.out


def test_what_is_slow_once_is_tried_again() -> None:
    times = iter((True, False))

    def target(data: bytes) -> None:
        with within():
            if next(times):
                raise TooSlowError

    check(target, b"")
    assert next(times, None) is None


def test_what_is_slow_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "factor", 0.01)

    def target(data: bytes) -> None:
        with within():
            pow(3, 300_000)

    with pytest.raises(TooSlowError):
        check(target, b"")
