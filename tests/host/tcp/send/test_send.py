"""Data on its way to the guest: windows, room, probes; RFC 9293 §3.8.6."""

from ..trace import Trace


def test_super_frame_goes_out_whole(established: Trace) -> None:
    established(
        """
        ! send 60000
        > P. 1:60001 ack 1
        < . 1 ack 60001
        = timer NONE
        """
    )


def test_what_exceeds_the_windows_waits(established: Trace) -> None:
    """65536 of congestion window; a part of a segment stays back while others are on their way."""
    established(
        """
        ! send 100000
        > . 1:65161 ack 1
        < . 1 ack 65161 win 131072
        > P. 65161:100001 ack 1
        """
    )


def test_empty_send_is_nothing(established: Trace) -> None:
    established("! send 0\n = timer NONE")


def test_send_after_the_end_is_nothing(established: Trace) -> None:
    established("< R 1\n ? ended RESET\n ! send 100")


def test_room_is_what_both_windows_leave(established: Trace) -> None:
    established(
        """
        ! room 65536
        < . 1 ack 1 win 32768
        ! room 32768
        ! send 30000
        > P. 1:30001 ack 1
        ! room 2768
        ! send 2000
        > P. 30001:32001 ack 1
        ! room 0                # 768 are a sliver while 32000 are on their way
        < . 1 ack 30001 win 32768
        ? writable
        ! room 30768
        """
    )


def test_small_window_is_room_when_nothing_is_on_its_way(established: Trace) -> None:
    """The guest's buffer may have become that small: to wait for more could be for ever."""
    established("< . 1 ack 1 win 256\n ! room 256")


def test_user_waits_for_a_congested_path(established: Trace) -> None:
    established(
        """
        ! congest
        ! room 0
        ! relieve
        ? writable
        """
    )


def test_user_waits_for_a_closed_window(established: Trace) -> None:
    """The opening may be lost, so it is asked for: RFC 9293 §3.8.6.1."""
    established(
        """
             < . 1 ack 1 win 0
             ! room 0
        +0.2 > . 0 ack 1
             < . 1 ack 1 win 0
        +0.4 > . 0 ack 1
             < . 1 ack 1 win 65536
             ? writable
             = timer NONE
             = retries 0
        """
    )


def test_data_waits_for_a_closed_window(established: Trace) -> None:
    established(
        """
             < . 1 ack 1 win 0
             ! send 100
        +0.2 > . 0 ack 1
        +0.4 > . 0 ack 1
        +0.8 > . 0 ack 1
             < . 1 ack 1 win 65536
             > P. 1:101 ack 1
             = rto 0.2           # probing does not back it off
        """
    )


def test_probes_go_on_while_the_guest_answers(established: Trace) -> None:
    """RFC 9293 MUST-37."""
    established("< . 1 ack 1 win 0\n ! send 100")
    bench = established.bench
    for _ in range(50):
        bench.advance(bench.c.deadline)
        assert len(bench.log) == 1
        bench.log.clear()
        established("< . 1 ack 1 win 0")
    established("< . 1 ack 1 win 65536\n > P. 1:101 ack 1")


def test_probes_without_an_answer_end(established: Trace) -> None:
    established("< . 1 ack 1 win 0\n ! send 100").bench.advance(established.bench.now + 3600)
    assert established.bench.counters.resets_out == 1
    assert "TIMED_OUT" in str(established.bench.log[-1])


def test_window_closed_over_data_on_its_way(established: Trace) -> None:
    """The guest dropped it for want of memory: as a probe it is no congestion and no failure."""
    established("! send 10000\n > P. 1:10001 ack 1\n < . 1 ack 1 win 0")
    bench = established.bench
    for _ in range(30):
        bench.advance(bench.c.deadline)
        assert [len(entry.payload) for entry in bench.log] == [1448]
        bench.log.clear()
        established("< . 1 ack 1 win 0")
    established(
        """
        = cwnd 65536
        < . 1 ack 1 win 65536
        > P. 1:10001 ack 1
        < . 1 ack 10001
        = timer NONE
        """
    )


def test_acknowledgment_after_a_timeout_lies_in_the_guests_window(established: Trace) -> None:
    """It may have everything; a number from before its rcv_nxt would count for nothing."""
    established(
        """
             ! send 10000
             > P. 1:10001 ack 1
        +0.2 > . 1:1449 ack 1
             < P. 1:101 ack 1
             ? received 100
             > . 10001 ack 101
        """
    )


def test_window_is_taken_from_the_newest_segment_only(established: Trace) -> None:
    """SND.WL1, SND.WL2: RFC 9293 §3.10.7.4."""
    established(
        """
        < P. 101:201 ack 1 win 32768
        > . 1 ack 1
        = snd_wnd 32768
        < P. 1:101 ack 1 win 65536
        ? received 200
        > . 1 ack 201
        = snd_wnd 32768
        """
    )


def test_acknowledgment_when_the_window_shrank(established: Trace) -> None:
    """By more than rounding: it goes to the edge, as Linux's does (tcp_acceptable_seq)."""
    established(
        """
        ! send 1408
        > P. 1:1409 ack 1
        < P. 1:101 ack 1 win 1280
        ? received 100
        > . 1281 ack 101
        < P. 101:201 ack 1 win 1408
        ? received 100
        > . 1409 ack 201
        """
    )


def test_acknowledgment_when_the_window_lost_by_rounding(established: Trace) -> None:
    established(
        """
        ! send 1400
        > P. 1:1401 ack 1
        < P. 1:101 ack 1 win 1280
        ? received 100
        > . 1401 ack 101
        """
    )


def test_what_is_cut_by_the_window_is_whole_segments(established: Trace) -> None:
    """A small one in the middle would be sent as such."""
    established("< . 1 ack 1 win 5120\n ! send 10000\n > . 1:4345 ack 1")


def test_probe_interval_goes_on_growing(established: Trace) -> None:
    """The user asks again after each answer, and the guest is not asked more often for it."""
    established(
        """
             < . 1 ack 1 win 0
             ! send 100
        +0.2 > . 0 ack 1
             < . 1 ack 1 win 0
             ! room 0
        +0.4 > . 0 ack 1
             < . 1 ack 1 win 0
        +0.8 > . 0 ack 1
        """
    )


def test_closed_window_does_not_make_the_fin_an_echo(established: Trace) -> None:
    """Sent again by its timer only, not for every segment that the guest sends."""
    established(
        """
             < . 1 ack 1 win 0
             ! shutdown
             > F. 1 ack 1
        +0.2 > F. 1 ack 1
             < . 1 ack 1 win 0
             < . 1 ack 1 win 0
        +0.4 > F. 1 ack 1
        """
    )
