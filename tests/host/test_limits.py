"""Who may hold how much of a table."""

from hypothesis import given
from hypothesis import strategies as st

from gvproxy.limits import SHARE, Limit, Quota


def fill(quota: Quota, owner: object) -> int:
    """Take as much as there is for `owner`."""
    count = 0
    while quota.take(owner):
        count += 1
    return count


def test_one_alone_gets_its_limit() -> None:
    assert fill(Quota(Limit(100, 60)), "a") == 60
    assert fill(Quota(Limit(100, 100)), "a") == 88


def test_there_is_room_for_the_next_one() -> None:
    quota = Quota(Limit(1000, 1000))
    assert [fill(quota, number) for number in range(3)] == [876, 97, 11]
    assert quota.refused == 3
    for _ in range(600):
        quota.give(0)
    assert not quota.take(0) or quota.held(0) <= SHARE * (1000 - quota.used)
    assert fill(quota, 2) > 500


def test_those_that_give_nothing_back_leave_room_for_others() -> None:
    quota = Quota(Limit(4096, 2048))
    assert [fill(quota, number) for number in range(6)] == [2048, 1764, 196, 22, 8, 8]
    assert [fill(quota, number) for number in range(6, 14)] == [8, 8, 8, 8, 8, 8, 2, 0]
    small = Quota(Limit(10, 3))
    assert [fill(small, number) for number in range(6)] == [3, 3, 3, 1, 0, 0]


@given(st.lists(st.sampled_from("abcd"), max_size=400))
def test_those_who_ask_by_turns_get_equal_shares(asked: list[str]) -> None:
    quota = Quota(Limit(100, 100))
    for owner in [*asked, *"abcd" * 100]:
        if quota.has_room(owner):
            quota.take(owner)
    held = [quota.held(owner) for owner in "abcd"]
    assert sum(held) == quota.used <= 100
    assert all(quota.held(owner) <= SHARE * 100 for owner in "abcd")
    assert not any(quota.has_room(owner) for owner in "abcd")


def test_what_is_the_hosts_is_bounded_by_the_total_alone() -> None:
    quota = Quota(Limit(10, 1))
    assert fill(quota, None) == 10
    assert not quota.take("a")


def test_what_is_given_back_can_be_taken_again() -> None:
    quota = Quota(Limit(2, 1))
    assert [quota.take("a"), quota.take("a"), quota.take("b")] == [True, False, True]
    quota.give("a")
    assert (quota.held("a"), quota.used) == (0, 1)
    assert quota.take("a")
    assert quota.shown.most == 1


def test_a_full_table_is_searched_once_a_second() -> None:
    quota = Quota(Limit(2, 1))
    assert [quota.may_search(now) for now in (0.0, 0.9, 1.0)] == [True, False, True]


def test_within_fewer_descriptors_seven_eighths_are_a_guests() -> None:
    limit = Limit(4096, 3072)
    assert limit.within(10_000) == limit
    assert limit.within(1000) == Limit(1000, 875)
    assert limit.within(1) == Limit(1, 1)
    assert Limit(1000, 10).within(100) == Limit(100, 10)
