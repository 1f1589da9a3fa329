"""What happens when a connection's time has come (RFC 6298 §5, RFC 9293 §3.8)."""

from math import inf

from gvproxy.tcp import output, recovery
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.rtt import MAX_RTO
from gvproxy.tcp.states import (
    ACK_DELAYED,
    KEEPALIVE,
    LINGER,
    NO_ACK,
    PERSIST,
    PROBE,
    REORDER,
    RETRANSMIT,
    SYN_RECEIVED,
    SYN_SENT,
    End,
)
from gvproxy.wire import tcp as wire

SYN_RETRIES = 7
"""Three minutes at least (RFC 9293 MUST-23); Linux's six are two."""
ARP_RETRIES = 1
"""SYNs sent again to an address nobody answers for: three seconds (Linux: mcast_solicit)."""
RETRIES = 12
"""Retransmissions before the guest counts as gone: nearly five minutes (RFC 9293 §3.8.3, R2)."""
KEEPALIVE_PROBES = 9  # Linux: tcp_keepalive_probes
KEEPALIVE_INTERVAL = 75.0  # Linux: tcp_keepalive_intvl
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
        if c.ack is ACK_DELAYED:
            c.interactive = False  # no data came to carry it: stop waiting for some
        if c.ack is not NO_ACK:
            output.acknowledge(c, now)
    if c.timer_at > now:
        return
    if c.timer is RETRANSMIT:
        _retransmit(c, now)
    elif c.timer is PROBE:
        recovery.probe(c, now)
    elif c.timer is REORDER:
        c.await_ack(now)
        recovery.detect(c, now)
        output.transmit(c, now)
    elif c.timer is PERSIST:
        _probe_window(c, now)
    elif c.timer is KEEPALIVE:
        _probe_guest(c, now)
    elif c.timer is LINGER:
        output.close(c, End.DONE, now)


def _give_up(c: Connection, now: float) -> None:
    output.reset(c)
    output.close(c, End.TIMED_OUT, now)


def _retransmit(c: Connection, now: float) -> None:
    c.retries += 1
    c.counters.timeouts += 1
    opening = c.state in (SYN_SENT, SYN_RECEIVED)
    if c.state is SYN_SENT and c.retries > ARP_RETRIES and not c.path.known:
        output.close(c, End.UNREACHABLE, now)
    elif c.retries > (SYN_RETRIES if opening else RETRIES):
        _give_up(c, now)
    elif opening:
        c.rtt.back_off()
        output.emit_syn(c, now)
    elif c.snd_wnd:
        recovery.time_out(c, now)
        c.rtt.back_off()
        c.arm(RETRANSMIT, now + c.rtt.rto)
        output.transmit(c, now)
    else:
        # The window was closed over what is on its way: no congestion.  The first segment is the
        # probe; like the others it goes when the window opens, for none was taken.
        c.flight.lose_all()
        output.retransmit_first(c, now)
        c.flight.lose_all()
        c.arm(RETRANSMIT, now + _next_interval(c))


def _probe_window(c: Connection, now: float) -> None:
    """Ask for the window with a segment the guest must answer (RFC 9293 §3.8.6.1).

    It lies before the window and carries nothing, as Linux's does; it goes on for as long as the
    guest answers.
    """
    c.retries += 1
    if c.retries > RETRIES:
        _give_up(c, now)
        return
    output.emit(c, c.snd_una - 1, wire.ACK, b"", now)
    c.arm(PERSIST, now + _next_interval(c))


def _next_interval(c: Connection) -> float:
    """Wait twice as long before the next probe (MUST-36 of RFC 9293); not for the RTO to keep."""
    c.probe_interval = min(2 * (c.probe_interval or c.rtt.rto), MAX_RTO)
    return c.probe_interval


def _probe_guest(c: Connection, now: float) -> None:
    """Ask whether a guest that was silent for long is still there (RFC 9293 §3.8.4)."""
    if now < c.heard_at + c.keepalive:
        c.retries = 0
        c.arm(KEEPALIVE, c.heard_at + c.keepalive)
        return
    c.retries += 1
    if c.retries > KEEPALIVE_PROBES:
        _give_up(c, now)
        return
    output.emit(c, c.snd_una - 1, wire.ACK, b"", now)
    c.arm(KEEPALIVE, now + min(c.keepalive, KEEPALIVE_INTERVAL))
