"""Opening a connection: RFC 9293 §3.5, §3.10.7.2, §3.10.7.3."""

from typing import cast

import pytest

from gvproxy.tcp.states import State

from ..bench import Sent
from ..states import WAYS, enter
from ..trace import Trace


@pytest.mark.parametrize("state", WAYS)
def test_every_state_is_entered(trace: Trace, state: str) -> None:
    enter(trace, state)


def test_nothing_is_sent_while_the_user_decides(trace: Trace) -> None:
    enter(trace, "LISTEN")("+3600 = state LISTEN")


def test_data_queued_before_the_handshake_waits_for_its_end(trace: Trace) -> None:
    """RFC 9293 §3.10.2: in SYN-RECEIVED the data is queued; a SYN that comes again is no reason."""
    enter(trace, "SYN_RECEIVED")(
        """
        ! send 500
              < S 0 [mss 1460 ws 7 sackok ts]
              > S. 0 ack 1
        +0.01 < . 1 ack 1
              ? established
              > P. 1:501 ack 1
        """
    )


def test_passive_open_echoes_the_guests_options(trace: Trace) -> None:
    trace.bench.c.state = State.LISTEN
    trace(
        """
              < S 0 win 64240 [mss 1400 ws 9 sackok ts]
        +0.2  ! accept
              > S. 0 ack 1 win 65535 [mss 1460 ws 7 sackok ts]
        +0.05 < . 1 ack 1 win 65536
              ? established
              = state ESTABLISHED
              = mss 1388            # less the timestamps
              = snd_wnd 65536
              = srtt 0.05
              = timer NONE
        """
    )


@pytest.mark.parametrize(
    ("offer", "answer", "mss"),
    [
        ("", "mss 1460", 536),
        ("mss 1460", "mss 1460", 1460),
        ("mss 9000", "mss 1460", 1460),
        ("mss 1", "mss 1460", 88),
        ("mss 1460 sackok", "mss 1460 sackok", 1460),
        ("mss 1460 ws 14", "mss 1460 ws 7", 1460),
        ("mss 1460 ws 0 ts", "mss 1460 ws 7 ts", 1448),
    ],
)
def test_only_options_that_the_guest_offered_are_used(
    trace: Trace, offer: str, answer: str, mss: int
) -> None:
    """RFC 7323 §2.2, §3.2; RFC 2018 §2; RFC 9293 MUST-14 to MUST-16."""
    trace.bench.c.state = State.LISTEN
    trace(
        f"""
        < S 0 win 64240 [{offer}]
        ! accept
        > S. 0 ack 1 win 65535 [{answer}]
        < . 1 ack 1
        ? established
        = mss {mss}
        """
    )


def test_syn_comes_again_before_the_decision(trace: Trace) -> None:
    """The newest counts: its timestamp is echoed, or the guest measures our waiting."""
    enter(trace, "LISTEN")(
        """
        +1   < S 0 [mss 1460 ws 7 sackok ts]
        +0.5 ! accept
             > S. 0 ack 1
             = ts_recent 501000
        """
    )


def test_another_syn_before_the_decision_replaces_the_first(trace: Trace) -> None:
    """The guest has given up and tries anew from the same port."""
    enter(trace, "LISTEN")(
        """
        +1 < S 5000 [mss 1460]
           ! accept
           > S. 0 ack 5001 [mss 1460]
        """
    )


def test_text_of_a_syn_is_sent_again(trace: Trace) -> None:
    trace.bench.c.state = State.LISTEN
    trace(
        """
        < S 0:100 [mss 1460 ws 7 sackok ts]
        ! accept
        > S. 0 ack 1
        < P. 1:101 ack 1
        ? established
        ? received 100
        > . 1 ack 101
        """
    )


def test_acknowledgment_in_listen_is_reset(trace: Trace) -> None:
    enter(trace, "LISTEN")(
        """
        < . 1 ack 77
        > R 77
        < R 1
        = state LISTEN
        """
    )


def test_abort_in_listen_refuses_the_syn(trace: Trace) -> None:
    enter(trace, "LISTEN")(
        """
        ! abort
        > R. zero ack 1
        ? ended RESET
        """
    )


def test_syn_ack_is_sent_again_with_back_off(trace: Trace) -> None:
    """RFC 6298 §5.5, and no measurement is taken of it (Karn); then §5.7: 3 s for data."""
    enter(trace, "SYN_RECEIVED")(
        """
        +1.2 > S. 0 ack 1
        +2.2 > S. 0 ack 1
        +0.3 < . 1 ack 1
             ? established
             = srtt 0
             = rto 3
        """
    )


def test_the_guests_syn_comes_again_first(trace: Trace) -> None:
    """It measures by our answer: an answer to its first SYN would tell of a second's round trip."""
    bench = enter(trace, "SYN_RECEIVED").bench
    bench.advance(bench.now + 1.1)
    again = trace.segment("S 0 [mss 1460 ws 7 sackok ts]")
    bench.arrives(again)
    answer = cast(Sent, bench.log.pop())
    assert again.options.timestamps is not None
    assert answer.options.timestamps is not None
    assert answer.options.timestamps[1] == again.options.timestamps[0]


def test_lost_syn_ack_is_sent_again_when_the_syn_comes_again(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")(
        """
        +0.9 < S 0 [mss 1460 ws 7 sackok ts]
             > S. 0 ack 1
        +0.1 < . 1 ack 1
             ? established
             = srtt 0
        """
    )


def test_syn_ack_is_given_up(trace: Trace) -> None:
    """As patient as with a SYN: three minutes (RFC 9293 MUST-23)."""
    enter(trace, "SYN_RECEIVED")(
        """
        +1.2  > S. 0 ack 1
        +2.2  > S. 0 ack 1
        +4.2  > S. 0 ack 1
        +8.2  > S. 0 ack 1
        +16.2 > S. 0 ack 1
        +32.2 > S. 0 ack 1
        +60.2 > S. 0 ack 1
        +60.2 > R. 1 ack 1
            ? ended TIMED_OUT
        """
    )


def test_wrong_acknowledgment_in_syn_received_is_reset(trace: Trace) -> None:
    """RFC 9293 §3.10.7.4, fifth; the connection is not harmed."""
    enter(trace, "SYN_RECEIVED")(
        """
        < . 1 ack 2
        > R 2
        < . 1 ack 0
        > R 0
        = state SYN_RECEIVED
        """
    )


def test_reset_in_syn_received(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")("< R 1\n ? ended RESET\n = resets_in 1")


def test_handshake_ends_with_data(trace: Trace) -> None:
    """The guest's first ACK was lost, or it rides on the data."""
    enter(trace, "SYN_RECEIVED")(
        """
        < P. 1:101 ack 1
        ? established
        ? received 100
        > . 1 ack 101
        """
    )


def test_handshake_ends_with_data_and_fin(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")(
        """
        < FP. 1:101 ack 1
        ? established
        ? received 100
        ? eof
        > . 1 ack 102
        = state CLOSE_WAIT
        """
    )


def test_shutdown_before_the_handshake_ends(trace: Trace) -> None:
    """RFC 9293 §3.10.4: queued until the connection is established."""
    enter(trace, "SYN_RECEIVED")(
        """
        ! send 10
        ! shutdown
        < . 1 ack 1
        ? established
        > FP. 1:11 ack 1
        = state FIN_WAIT_1
        """
    )


def test_active_open(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        +0.01 < S. 0 ack 1 win 64240 [mss 1460 ws 7 sackok ts]
              ? established
              > . 1 ack 1 win 1048576
              = mss 1448
              = snd_wnd 64240       # the window of a SYN is not scaled
              = srtt 0.01
        """
    )


def test_active_open_to_a_guest_without_options(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        < S. 0 ack 1 win 8192
        ? established
        > . 1 ack 1 win 65535 [nots]
        = mss 536
        ! send 1000
        > P. 1:1001 ack 1
        """
    )


def test_data_rides_on_the_last_segment_of_the_handshake(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        ! send 100
        ! shutdown
        < S. 0 ack 1 [mss 1460 ws 7 sackok ts]
        ? established
        > FP. 1:101 ack 1
        = state FIN_WAIT_1
        """
    )


def test_syn_is_sent_again_and_given_up(trace: Trace) -> None:
    enter(trace, "SYN_SENT")(
        """
        +1  > S 0
        +2  > S 0
        +4  > S 0
        +8  > S 0
        +16 > S 0
        +32 > S 0
        +60 > S 0
        +60 ? ended TIMED_OUT
            = resets_out 0
        """
    )


def test_refused_by_the_guest(trace: Trace) -> None:
    enter(trace, "SYN_SENT")("< R. 0 ack 1\n ? ended RESET")


@pytest.mark.parametrize("segment", ["R 0", "R. 0 ack 0", "R. 0 ack 2", "P 1", "F 0"])
def test_blind_segments_in_syn_sent_are_ignored(trace: Trace, segment: str) -> None:
    """RFC 9293 §3.10.7.3: a reset must acknowledge our SYN."""
    enter(trace, "SYN_SENT")(f"< {segment}\n = state SYN_SENT")


def test_old_syn_ack_is_reset(trace: Trace) -> None:
    """An acknowledgment of what was never sent: RFC 9293 figure 9."""
    enter(trace, "SYN_SENT")(
        """
        < S. 300 ack 91 [mss 1460]
        > R 91
        < S. 0 ack 1 [mss 1460 ws 7 sackok ts]
        ? established
        > . 1 ack 1
        """
    )


def test_simultaneous_open(trace: Trace) -> None:
    """RFC 9293 figure 7: the SYN-ACK of the other side is not answered by another SYN-ACK."""
    enter(trace, "SYN_SENT")(
        """
        < S 0 [mss 1460 ws 7 sackok ts]
        > S. 0 ack 1
        = state SYN_RECEIVED
        < S. 0 ack 1 win 5000 [mss 1460 ws 7 sackok ts]
        ? established
        = state ESTABLISHED
        = snd_wnd 4992           # not scaled, but rounded
        < S. 0 ack 1 [mss 1460 ws 7 sackok ts]
        > . 1 ack 1
        """
    )


def test_answer_sent_from_established_takes_the_acknowledgment_along(trace: Trace) -> None:
    enter(trace, "LISTEN")(
        """
        ! accept
        > S. 0 ack 1
        ! on_established send 10
        < . 1 ack 1
        ? established
        > P. 1:11 ack 1
        = dup_acks 0
        """
    )


def test_syn_ack_that_comes_again_takes_no_window_back(trace: Trace) -> None:
    enter(trace, "SYN_RECEIVED")(
        """
             < . 70000 ack 1
             > . 1 ack 1
        +1.2 > S. 0 ack 1
        """
    )
