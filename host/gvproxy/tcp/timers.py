"""What happens when a connection's time has come (RFC 6298 §5, RFC 9293 §3.8)."""

from math import inf

from gvproxy.tcp import output
from gvproxy.tcp.connection import Ack, Connection, End, State, Timer
from gvproxy.wire import tcp as wire

SYN_RETRIES = 6  # Linux: tcp_syn_retries
RETRIES = 12
"""Retransmissions before the guest counts as gone: about two minutes (RFC 9293 §3.8.3, R2)."""
FIN_WAIT_2_TIME = 60.0  # Linux: tcp_fin_timeout
TIME_WAIT_TIME = 2.0
"""Deviation: RFC 9293 has four minutes for the Internet's stray segments.

The link keeps order and delay, so all that TIME-WAIT is for here is to answer a FIN sent again,
and a guest sends that within a second.
"""


def expire(c: Connection, now: float) -> None:
    """Do whatever of the connection's waiting is over; called early, it does nothing."""
    if c.ack_at <= now:
        c.ack_at = inf
        if c.ack is Ack.DELAYED:
            c.interactive = False  # no data came to carry it: stop waiting for some
            output.acknowledge(c, now)
    if c.timer_at > now:
        return
    if c.timer is Timer.RETRANSMIT:
        _retransmit(c, now)
    elif c.timer is Timer.PERSIST:
        _probe(c, now)
    elif c.timer in (Timer.TIME_WAIT, Timer.FIN_WAIT_2):
        output.close(c, End.DONE, now)


def _retransmit(c: Connection, now: float) -> None:
    c.retries += 1
    c.counters.timeouts += 1
    if c.retries > (SYN_RETRIES if c.state in (State.SYN_SENT, State.SYN_RECEIVED) else RETRIES):
        output.reset(c)
        output.close(c, End.TIMED_OUT, now)
        return
    c.rtt.back_off()
    c.timed_seq = -1
    if c.state in (State.SYN_SENT, State.SYN_RECEIVED):
        output.emit_syn(c, now)
        return
    if c.retries == 1:
        c.congestion.timed_out(c.snd_max - c.snd_una, now)
    c.recover = c.snd_max
    c.recovering = False
    c.dup_acks = 0
    # Everything outstanding counts as lost; slow start sends it again (RFC 5681 §3.1).
    c.snd_nxt = c.snd_una
    c.arm(Timer.RETRANSMIT, now + c.rtt.rto)
    if c.snd_wnd:
        output.transmit(c, now)
    else:
        output.retransmit_first(c, now)
        c.snd_nxt = c.snd_max


def _probe(c: Connection, now: float) -> None:
    """Ask for the window with a segment the guest must answer (RFC 9293 §3.8.6.1).

    It lies before the window and carries nothing, as Linux's does; it goes on for as long as the
    guest answers.
    """
    c.retries += 1
    if c.retries > RETRIES:
        output.reset(c)
        output.close(c, End.TIMED_OUT, now)
        return
    c.rtt.back_off()
    output.emit(c, c.snd_una - 1, wire.ACK, b"", now)
    c.arm(Timer.PERSIST, now + c.rtt.rto)
