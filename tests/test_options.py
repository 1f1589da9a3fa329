"""What `make bench` and its like are told: numbers that cannot be, before anything is begun."""

from collections.abc import Callable, Sequence

import pytest

from tests.bench import __main__ as bench
from tests.bench import loss
from tests.bench.floods import __main__ as floods
from tests.fuzz import __main__ as fuzz
from tests.soak import __main__ as soak

Main = Callable[[Sequence[str]], int]

SECONDS = [bench.main, loss.main, floods.main, fuzz.main]
ROUNDS = [bench.main, loss.main, floods.main]


@pytest.mark.parametrize(
    ("main", "option", "value", "said"),
    [
        *((main, "--seconds", "0", "must be more than 0, not '0'") for main in SECONDS),
        *((main, "--seconds", "-1", "must be more than 0, not '-1'") for main in SECONDS),
        *((main, "--rounds", "0", "must be 1 at least, not '0'") for main in ROUNDS),
        (soak.main, "--minutes", "-1", "must be more than 0, not '-1'"),
        (soak.main, "--minutes", "0.0", "must be more than 0, not '0.0'"),
        (soak.main, "--minutes", "nan", "is no number: 'nan'"),
        (soak.main, "--minutes", "inf", "is no number: 'inf'"),
        (soak.main, "--minutes", "long", "is no number: 'long'"),
        (fuzz.main, "--jobs", "-2", "must be 1 at least, not '-2'"),
        (bench.main, "--rounds", "1.5", "is no whole number: '1.5'"),
    ],
)
def test_a_number_that_cannot_be(
    main: Main, option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, value])
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert error.endswith(f": {option}: {said}\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("main", [bench.main, loss.main, floods.main, soak.main])
def test_a_name_that_is_none(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """With --check nothing is begun, so that make can ask before it installs what is needed."""
    assert main(["--check", "--only", "nope"]) == 1
    assert capsys.readouterr().err.endswith(" like nope\n")
    assert main(["--check"]) == 0
    assert capsys.readouterr() == ("", "")
