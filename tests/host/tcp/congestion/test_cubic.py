"""CUBIC alone: RFC 9438, RFC 5681 §3.1, on a path whose every window is acknowledged at once."""

import pytest

from gvproxy.tcp.congestion import LEAST_WINDOW, MAX_WINDOW, Cubic

MSS = 1448


class Path:
    """Acknowledges window after window, one a round trip."""

    def __init__(self, segments: int, rtt: float) -> None:
        self.cubic = Cubic(MSS)
        self.cubic.cwnd = segments * MSS
        self.rtt = rtt
        self.now = 1000.0

    def lose(self) -> None:
        self.cubic.lost(self.cubic.cwnd, self.now)

    def turn(self, count: int = 1) -> float:
        """Let round trips pass; return the window in segments."""
        for _ in range(count):
            self.now += self.rtt
            cwnd = self.cubic.cwnd
            self.cubic.acknowledged(cwnd, cwnd, self.rtt, self.now)
        return self.cubic.cwnd / MSS


def _cubic(most: float, t: float) -> float:
    """RFC 9438 figures 1 and 2, in segments, after a reduction at `most`."""
    k = (most * 0.3 / 0.4) ** (1 / 3)
    return 0.4 * (t - k) ** 3 + most


def test_slow_start_doubles_the_window_at_most() -> None:
    path = Path(10, 0.1)
    assert path.turn() == 20
    path.cubic.acknowledged(50 * MSS, 50 * MSS, 0.1, path.now)
    assert path.cubic.cwnd == 40 * MSS


def test_slow_start_ends_at_the_threshold() -> None:
    path = Path(100, 0.1)
    path.cubic.timed_out(100 * MSS, path.now)
    assert path.cubic.cwnd == MSS
    assert path.cubic.ssthresh == pytest.approx(70 * MSS, abs=1)
    assert [path.turn() for _ in range(7)] == [2, 4, 8, 16, 32, 64, 128]
    assert path.turn() == pytest.approx(128.5, abs=0.6)  # no doubling any more


def test_a_window_half_unused_does_not_grow() -> None:
    cubic = Cubic(MSS)
    cubic.acknowledged(1000, 32767, 0.1, 1000.0)
    assert cubic.cwnd == 65536
    cubic.acknowledged(1000, 32768, 0.1, 1000.0)
    assert cubic.cwnd == 66536


def test_window_has_an_end() -> None:
    path = Path(10, 0.1)
    path.turn(30)
    assert path.cubic.cwnd == MAX_WINDOW


@pytest.mark.usefixtures("narrow")
def test_loss_takes_three_tenths() -> None:
    path = Path(100, 0.1)
    path.lose()
    assert path.cubic.cwnd == path.cubic.ssthresh == pytest.approx(70 * MSS, abs=1)


@pytest.mark.usefixtures("narrow")
def test_loss_counts_what_was_on_its_way() -> None:
    """Not a window that was not used (RFC 5681 §3.1, equation 4)."""
    path = Path(100, 0.1)
    path.cubic.lost(50 * MSS, path.now)
    assert path.cubic.cwnd == pytest.approx(35 * MSS, abs=1)


@pytest.mark.parametrize("segments", [200, 100, 90, 40])
def test_loss_leaves_two_super_frames_of_a_window(segments: int) -> None:
    """Of more than that, and all of less; a timeout starts over all the same."""
    path = Path(segments, 0.1)
    before = path.cubic.cwnd
    path.lose()
    least = min(before, LEAST_WINDOW)
    assert path.cubic.cwnd == path.cubic.ssthresh == max(int(before * 0.7), least)
    path.cubic.timed_out(path.cubic.cwnd, path.now)
    assert path.cubic.cwnd == MSS
    assert path.cubic.ssthresh == int(max(int(before * 0.7), least) * 0.7)


@pytest.mark.usefixtures("narrow")
def test_loss_leaves_two_segments() -> None:
    path = Path(2, 0.1)
    path.lose()
    assert path.cubic.cwnd == path.cubic.ssthresh == 2 * MSS


def test_the_way_back_is_a_cubic() -> None:
    """Concave to the last maximum, flat there, then convex: §4.4, §4.5."""
    path = Path(1000, 0.1)
    path.lose()
    for turn in range(180):
        # Time runs from the first acknowledgment on, and looks one round trip ahead.
        assert path.turn() == pytest.approx(_cubic(1000, 0.1 * (turn + 1)), rel=1e-3)


@pytest.mark.usefixtures("narrow")
def test_no_slower_than_reno() -> None:
    """§4.3: on a short path 0.53 segments a round trip, from the last maximum on a whole one."""
    path = Path(40, 0.001)
    path.lose()
    assert path.turn(20) == pytest.approx(28 + 20 * 0.5294, abs=0.3)
    path.turn(10)
    before = path.turn()
    assert path.turn(10) - before == pytest.approx(10, abs=0.3)


def test_no_more_than_half_a_window_a_round_trip() -> None:
    """§4.4, where time has passed over few acknowledgments."""
    path = Path(100, 0.1)
    path.lose()
    path.turn()
    before = path.cubic.cwnd
    path.now += 100
    path.turn()
    assert path.cubic.cwnd == pytest.approx(1.5 * before, abs=1)


def test_a_part_of_the_window_brings_a_part_of_the_growth() -> None:
    whole, half = Path(1000, 0.1), Path(1000, 0.1)
    for path in (whole, half):
        path.lose()
        path.turn()
    before = whole.cubic.cwnd
    whole.turn()
    half.now += 0.1
    half.cubic.acknowledged(before // 2, before, 0.1, half.now)
    assert half.cubic.cwnd - before == pytest.approx((whole.cubic.cwnd - before) / 2, rel=0.01)


def test_a_shorter_round_trip_takes_nothing_away() -> None:
    """The curve is looked up one round trip ahead."""
    path = Path(1000, 1.0)
    path.lose()
    before = path.turn(3)
    path.rtt = 0.001
    assert path.turn() >= before


def test_who_has_less_than_before_makes_room() -> None:
    """Fast convergence, §4.7: the next plateau is lower."""
    path = Path(1000, 0.1)
    path.lose()
    path.lose()
    most = 700 * 1.7 / 2
    k = ((most - 490) / 0.4) ** (1 / 3)
    assert path.turn(round(k / 0.1)) == pytest.approx(most, rel=0.01)


def test_time_that_was_not_used_does_not_count() -> None:
    """§5.8: after an idle time the curve goes on where it was."""
    path = Path(1000, 0.1)
    path.lose()
    before = path.turn(10)
    path.now += 100
    path.cubic.acknowledged(MSS, MSS, 0.1, path.now)
    path.now += 0.1
    assert path.turn() < 1.1 * before


def test_a_reduction_is_taken_back() -> None:
    path = Path(1000, 0.1)
    threshold = path.cubic.ssthresh
    path.lose()
    path.turn(5)
    path.cubic.undo()
    assert (path.cubic.cwnd, path.cubic.ssthresh) == (1000 * MSS, threshold)


def test_what_was_gained_since_stays() -> None:
    path = Path(10, 0.1)
    path.lose()
    path.turn(200)
    gained = path.cubic.cwnd
    path.cubic.undo()
    assert path.cubic.cwnd == gained > 10 * MSS
