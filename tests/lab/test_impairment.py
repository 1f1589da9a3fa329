"""What the cable does is what it was told, and the same for the same seed."""

import itertools

import pytest

from taplink import vnet
from tests.lab.impairment import Channel, Frame, Impairment

COUNT = 10_000
HEAD = vnet.PLAIN + bytes(12)


def frames(count: int = COUNT, kind: bytes = b"\x08\x00") -> list[bytes]:
    """Make frames that can be told apart."""
    return [HEAD + kind + number.to_bytes(4) for number in range(count)]


def pass_through(impairment: Impairment, seed: str = "1", interval: float = 0.0) -> list[Frame]:
    """Put frames at an interval, and take them when they are due."""
    channel = Channel(impairment, seed)
    left: list[Frame] = []
    for number, frame in enumerate(frames()):
        channel.put(frame, number * interval)
        left += channel.take(number * interval)
    while (due := channel.due) is not None:
        left += channel.take(due)
    return left


def test_a_good_cable_passes_everything_at_once() -> None:
    channel = Channel(Impairment(), "1")
    for frame in frames(3):
        channel.put(frame, 0.0)
    assert channel.take(0.0) == frames(3)
    assert channel.take(0.0) == []
    assert channel.due is None


@pytest.mark.parametrize(
    ("impairment", "expected"),
    [(Impairment(loss=0.05), 0.95), (Impairment(duplicate=0.05), 1.05)],
)
def test_frames_are_lost_and_doubled_as_often_as_asked(
    impairment: Impairment, expected: float
) -> None:
    assert len(pass_through(impairment)) == pytest.approx(expected * COUNT, rel=0.01)


def test_a_corrupted_frame_differs_in_one_byte_behind_the_ethernet_header() -> None:
    for before, after in zip(frames(), pass_through(Impairment(corrupt=1.0)), strict=True):
        different = [
            at for at, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1
        ]
        assert len(different) == 1
        assert different[0] >= len(HEAD) + 2


def test_one_seed_is_one_run() -> None:
    everything = Impairment(0.01, 0.05, 0.01, 0.25, 5, 0.02, 0.005)
    assert pass_through(everything, "1", 0.001) == pass_through(everything, "1", 0.001)
    assert pass_through(everything, "1", 0.001) != pass_through(everything, "2", 0.001)


def test_losses_do_not_depend_on_when_frames_come() -> None:
    impairment = Impairment(loss=0.01, delay=0.02)
    assert pass_through(impairment, interval=0.001) == pass_through(impairment, interval=0.1)


def test_a_delay_alone_keeps_the_order() -> None:
    channel = Channel(Impairment(delay=0.02), "1")
    for number, frame in enumerate(frames(3)):
        channel.put(frame, number * 0.001)
    assert channel.due == 0.02
    assert channel.take(0.019) == []
    assert channel.take(0.0211) == frames(3)[:2]
    assert channel.take(0.0221) == frames(3)[2:]


def test_jitter_lets_frames_overtake_each_other() -> None:
    channel = Channel(Impairment(delay=0.02, jitter=0.005), "1")
    for frame in frames():
        channel.put(frame, 0.0)
    assert channel.take(0.0149) == []
    left = channel.take(0.0251)
    assert left != frames()
    assert sorted(map(bytes, left)) == frames()
    assert 0 < channel.counters.overtaken < COUNT


def test_reordered_frames_go_at_once_and_keep_the_gap() -> None:
    channel = Channel(Impairment(delay=0.02, reorder=0.25, gap=5), "1")
    at_once = []
    for number, frame in enumerate(frames()):
        channel.put(frame, 0.0)
        if channel.take(0.0):
            at_once.append(number)
    # Four that may not, and then each with one chance in four.
    assert len(at_once) == pytest.approx(COUNT / 8, rel=0.05)
    assert min(after - before for before, after in itertools.pairwise(at_once)) == 5


def test_what_is_not_ipv4_passes() -> None:
    channel = Channel(Impairment(loss=1.0, delay=1.0), "1")
    others = frames(3, b"\x08\x06")
    for frame in others:
        channel.put(frame, 0.0)
    assert channel.take(0.0) == others


def test_a_delay_holds_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lab.impairment._LIMIT", 3 * len(frames(1)[0]))
    channel = Channel(Impairment(delay=1.0), "1")
    for frame in frames(4):
        channel.put(frame, 0.0)
    assert channel.take(1.0) == frames(3)
    assert channel.counters.overflowed == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"loss": 1.1}, "a probability is from 0 to 1"),
        ({"jitter": 0.1}, "the jitter is from 0 to the delay"),
        ({"delay": -1.0}, "the jitter is from 0 to the delay"),
        ({"gap": 0}, "the gap is at least 1"),
        ({"reorder": 0.1}, "without a delay there is nothing to reorder"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Impairment(**fields)  # type: ignore[arg-type]


def test_it_reads_as_in_a_table() -> None:
    assert str(Impairment()) == "nothing"
    everything = Impairment(0.001, 0.05, 0.01, 0.25, 5, 0.02, 0.005)
    assert str(everything) == (
        "loss 0.1 %, duplicate 5 %, corrupt 1 %, reorder 25 % gap 5, delay 20 ± 5 ms"
    )
