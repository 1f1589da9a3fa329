"""Sequence numbers: off the wire next to a number we know, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvproxy.tcp.seq import MASK, unwrap


@pytest.mark.parametrize(
    ("number", "near", "expected"),
    [
        (0, 0, 0),
        (5, 0, 5),
        (MASK, 0, -1),
        (0, MASK, 1 << 32),
        (MASK, 1 << 32, MASK),
        (0x7FFFFFFF, 0, 0x7FFFFFFF),
        (0x80000000, 0, -0x80000000),
        (3, (5 << 32) + 1, (5 << 32) + 3),
        (MASK, (5 << 32) + 1, (5 << 32) - 1),
    ],
)
def test_nearest(number: int, near: int, expected: int) -> None:
    assert unwrap(number, near) == expected


@given(near=st.integers(-(2**33), 2**40), away=st.integers(-(2**31), 2**31 - 1))
def test_there_and_back(near: int, away: int) -> None:
    assert unwrap(near + away & MASK, near) == near + away
